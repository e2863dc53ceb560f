"""Spark's own settings (``sparkConf``) of one task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from flyteidl2.plugins.spark_pb2 import SparkJob

from propfan.pluginmachinery.podspec.build import PodTask
from propfan.plugins.spark.config import SparkConfig

BATCH_SCHEDULER: Final = "spark.batchScheduler"
DRIVER: Final = "driver"
EXECUTOR: Final = "executor"

_FEATURE: Final = re.compile(r"spark.(?:flyteorg|flyte).(.+).enabled")
_INT32: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)


def spark_conf(job: SparkJob, config: SparkConfig, task: PodTask, containers: Mapping[str, str]) -> dict[str, str]:
    """Defaults, then the task's features, then what the task sets itself; the last wins.

    Args:
        containers: Of the pod templates of each role, where the operator takes templates.
    """
    conf = dict(config.spark_config_default)
    if job.executorPath:
        conf["spark.pyspark.python"] = conf["spark.pyspark.driver.python"] = job.executorPath
    features = {feature.name: feature.spark_config for feature in reversed(config.features)}
    explicit = {}
    for key in sorted(job.sparkConf):
        value = job.sparkConf[key]
        wanted = _FEATURE.fullmatch(key) if value.strip().lower() == "true" else None
        if wanted is not None and wanted[1] in features:
            conf.update(features[wanted[1]])
        else:
            explicit[key] = value
    conf.update(explicit)
    for role in (DRIVER, EXECUTOR):
        limit = f"spark.kubernetes.{role}.limit.cores"
        cores = conf.get(f"spark.kubernetes.{role}.request.cores") or conf.get(f"spark.{role}.cores")
        if cores and not conf.get(limit):
            conf[limit] = cores
    for role, container in containers.items():
        conf[f"spark.kubernetes.{role}.podTemplateContainerName"] = container
    conf["spark.kubernetes.executor.podNamePrefix"] = task.own("name")
    conf["spark.kubernetes.driverEnv.FLYTE_START_TIME"] = task.own("start_time")
    return conf


def sizes(conf: Mapping[str, str], role: str) -> dict[str, str | int]:
    """How large the pods of a role are, in the operator's words, and how many executors there are.

    What is no number, or zero, is left to the operator.
    """
    counts = {"cores": conf.get(f"spark.{role}.cores", "")}
    if role == EXECUTOR:
        counts["instances"] = conf.get("spark.executor.instances", "")
    found: dict[str, str | int] = {}
    for field, text in counts.items():
        number = int(text) if _INT32.fullmatch(text) and len(text) <= 32 else 0
        if number and -(2**31) <= number < 2**31:
            found[field] = number
    if memory := conf.get(f"spark.{role}.memory"):
        found["memory"] = memory
    return found
