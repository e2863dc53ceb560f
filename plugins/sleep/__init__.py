"""Waits: task type ``core-sleep`` runs for as long as its one input says, without a pod."""

from __future__ import annotations

from propfan.pluginmachinery.registry import CorePluginEntry
from propfan.plugins.sleep.plugin import TASK_TYPE, SleepPlugin

__all__ = ["SleepPlugin", "entry"]

entry = CorePluginEntry(id=TASK_TYPE, task_types=(TASK_TYPE,), load=SleepPlugin())
