"""Section ``plugins.spark``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.loglinks import LogsConfig, PluginLogsConfig


class Feature(msgspec.Struct, frozen=True, rename="kebab"):
    """Settings that a task switches on by name, with ``spark.flyte.<name>.enabled: "true"`` in its own."""

    name: str = ""
    spark_config: Mapping[str, str] = {}


class SparkLogsConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Links to the logs of an application. ``{{ .podName }}`` is the driver pod, or the application itself.

    Attributes:
        mixed: Of the driver, once it has a pod; the only ones that a debugger may add a link to.
        user: Of the driver too, whether it has a pod or not.
        system: Of the application.
        all_user: Of the application too, shown from the start.
    """

    mixed: LogsConfig = LogsConfig()
    user: PluginLogsConfig = PluginLogsConfig()
    system: PluginLogsConfig = PluginLogsConfig()
    all_user: PluginLogsConfig = PluginLogsConfig()


class SparkConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``plugins.spark``.

    Attributes:
        spark_config_default: Spark's settings for every task, which the task's own override.
        spark_history_server_url: Where applications that have ended can be looked at; empty for nowhere.
        features: Of several with one name, the first counts.
        enable_pod_template: Whether pods are given to the operator whole, where its version takes that.
        pod_template_detection_timeout: How long to wait for the operator's definition before going without.
    """

    spark_config_default: Mapping[str, str] = {}
    spark_history_server_url: str = ""
    features: Sequence[Feature] = ()
    logs: SparkLogsConfig = SparkLogsConfig()
    enable_pod_template: bool = True
    pod_template_detection_timeout: Duration = Duration(30_000_000_000)
