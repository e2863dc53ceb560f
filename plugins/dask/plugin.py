"""The Dask plugin: tasks that are a DaskJob each."""

from __future__ import annotations

from datetime import datetime

from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.podspec.build import PodSpecBuilder
from propfan.plugins.dask import build, phase
from propfan.plugins.dask.config import DaskConfig


class DaskPlugin:
    """Runs ``dask`` tasks."""

    def __init__(self, pods: PodSpecBuilder, config: DaskConfig) -> None:
        self._plans = build.DaskJobs(pods, config).plans()
        self._phases = phase.DaskPhases(pods.k8s, config)

    def get_properties(self) -> Properties:
        return build.PROPERTIES

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return RenderedObject(build.DASK_JOB.api_version, build.DASK_JOB.kind, ObjectMeta(), b"")

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        return await self._plans.build(ctx)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """Raises ``DecodeError`` for an object that is no DaskJob."""
        return await self._phases.phase(ctx, resource)

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Whether the job has ended. Raises ``DecodeError``."""
        return phase.is_terminal(resource)

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """When the job ended, as far as it is known. Raises ``DecodeError``."""
        return phase.completion_time(resource)
