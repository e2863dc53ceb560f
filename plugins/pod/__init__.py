"""Runs ``container``, ``python``, ``python-task`` (Flyte 1), ``raw-container`` and ``sidecar`` tasks, each as one Pod."""

from __future__ import annotations

from propfan.pluginmachinery.entries import KubernetesPluginEntry, SetupContext
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.plugins.pod.plugin import PodPlugin

__all__ = ["PodPlugin", "entry"]


def _load(setup: SetupContext) -> PodPlugin:
    return PodPlugin(setup.k8s, setup.logs, setup.pod_templates, storage=setup.storage, process_env=setup.environment)


entry = KubernetesPluginEntry(
    id="pod",
    task_types=("container", "python", "python-task", "raw-container", "sidecar"),
    watched=POD,
    load=_load,
)
