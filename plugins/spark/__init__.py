"""Runs ``spark`` tasks, each as one SparkApplication of the Spark operator."""

from __future__ import annotations

from propfan.pluginmachinery.entries import KubernetesPluginEntry
from propfan.plugins.spark.application import SPARK_APPLICATION
from propfan.plugins.spark.config import SparkConfig
from propfan.plugins.spark.plugin import SparkPlugin

__all__ = ["SparkConfig", "SparkPlugin", "entry"]

entry = KubernetesPluginEntry(id="spark", task_types=("spark",), watched=SPARK_APPLICATION, load=SparkPlugin)
