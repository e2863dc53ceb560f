"""Runs ``ray`` tasks, each as a RayJob of the KubeRay operator, perhaps on a cluster that tasks share."""

from __future__ import annotations

from propfan.pluginmachinery.entries import KubernetesPluginEntry, SetupContext
from propfan.pluginmachinery.operators import job_objects
from propfan.plugins.ray.build import RAY_JOB
from propfan.plugins.ray.config import RayConfig
from propfan.plugins.ray.plugin import RayPlugin
from propfan.plugins.ray.sharing import RAY_CLUSTER

__all__ = ["RayConfig", "RayPlugin", "entry"]


def _load(setup: SetupContext) -> RayPlugin:
    return RayPlugin(job_objects.pod_spec_builder(setup), setup.section("ray", RayConfig))


entry = KubernetesPluginEntry(
    id="ray", task_types=("ray",), watched=RAY_JOB, load_cluster=_load, cluster_watched=RAY_CLUSTER
)
