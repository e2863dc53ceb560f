"""Runs ``spark`` tasks, each as one SparkApplication of the Spark operator."""

from __future__ import annotations

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.entries import KubernetesPluginEntry, Sections
from propfan.plugins.spark.application import SPARK_APPLICATION
from propfan.plugins.spark.config import SparkConfig
from propfan.plugins.spark.plugin import SparkPlugin

__all__ = ["SparkConfig", "SparkPlugin", "entry"]


def _probes(sections: Sections) -> bool:
    return decode_config(SparkConfig, sections.get("spark"), "plugins.spark").enable_pod_template


entry = KubernetesPluginEntry(
    id="spark", task_types=("spark",), watched=SPARK_APPLICATION, load=SparkPlugin, probes_definition=_probes
)
