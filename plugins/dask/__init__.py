"""Runs ``dask`` tasks, each as a DaskJob of the operator of dask-kubernetes."""

from __future__ import annotations

from propfan.pluginmachinery.entries import KubernetesPluginEntry, SetupContext
from propfan.pluginmachinery.operators import job_objects
from propfan.plugins.dask.build import DASK_JOB
from propfan.plugins.dask.config import DaskConfig
from propfan.plugins.dask.plugin import DaskPlugin

__all__ = ["DaskConfig", "DaskPlugin", "entry"]


def _load(setup: SetupContext) -> DaskPlugin:
    return DaskPlugin(job_objects.pod_spec_builder(setup), setup.section("dask", DaskConfig))


entry = KubernetesPluginEntry(id="dask", task_types=("dask",), watched=DASK_JOB, load=_load)
