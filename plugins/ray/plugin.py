"""The Ray plugin: tasks that are a RayJob each."""

from __future__ import annotations

from datetime import datetime

from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.podspec.build import PodSpecBuilder
from propfan.plugins.ray import phase
from propfan.plugins.ray.build import RAY_JOB, RayJobs
from propfan.plugins.ray.config import RayConfig

MAX_NAME_LENGTH = 47
"""KubeRay takes no longer names of RayJobs."""


class RayPlugin:
    def __init__(self, pods: PodSpecBuilder, config: RayConfig) -> None:
        self._plans = RayJobs(pods, config).plans()
        self._phases = phase.RayPhases(pods.k8s, config)

    def get_properties(self) -> Properties:
        return Properties(generated_name_max_length=MAX_NAME_LENGTH)

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return RenderedObject(RAY_JOB.api_version, RAY_JOB.kind, ObjectMeta(), b"")

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        return await self._plans.build(ctx)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        return await self._phases.phase(ctx, resource)

    def is_terminal(self, resource: ObservedObject) -> bool:
        return phase.is_terminal(resource)

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        return phase.completion_time(resource)
