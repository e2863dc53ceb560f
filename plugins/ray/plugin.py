"""The Ray plugin: tasks that are a RayJob each, on a cluster of its own or on one that they share."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.podphase import PodPhases
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, read_task
from propfan.plugins.ray import phase, sharing
from propfan.plugins.ray.build import RAY_JOB, RayJobs
from propfan.plugins.ray.config import RayConfig

PROPERTIES: Final = Properties(generated_name_max_length=47)
"""KubeRay takes no longer names of RayJobs."""


class RayPlugin:
    """Runs ``ray`` tasks; those with a reuse policy share a RayCluster."""

    def __init__(self, pods: PodSpecBuilder, config: RayConfig) -> None:
        self._jobs = RayJobs(pods, config)
        self._plans = self._jobs.plans()
        self._phases = phase.RayPhases(pods.k8s, config)
        self._sharing = sharing.Sharing(self._jobs, PodPhases(pods.k8s, config.logs))

    def get_properties(self) -> Properties:
        return PROPERTIES

    # -- Shared clusters ---------------------------------------------------------------------------

    def get_cluster_name(self, ctx: TaskContext) -> str:
        cluster = self._sharing.cluster_of(ctx)
        return "" if cluster is None else cluster.name

    async def build_cluster_resource(self, ctx: TaskContext) -> RenderedObject:
        """Raises ``ValueError`` for a task that shares none."""
        cluster = self._sharing.cluster_of(ctx)
        if cluster is None:
            raise ValueError("the task has no reuse policy, so that it shares no cluster")
        return cluster.rendered

    def build_cluster_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return RenderedObject(sharing.RAY_CLUSTER.api_version, sharing.RAY_CLUSTER.kind, ObjectMeta(), b"")

    def is_cluster_ready(self, resource: ObservedObject) -> bool:
        """Raises ``DecodeError`` for an object that is no RayCluster."""
        return sharing.is_ready(resource)

    async def check_cluster(self, ctx: PluginContext, resource: ObservedObject) -> str:
        return await self._sharing.why_not_ready(ctx, resource)

    def is_idle(self, resource: ObservedObject, now: datetime) -> bool:
        return sharing.is_idle(resource, now)

    # -- Jobs --------------------------------------------------------------------------------------

    def build_job_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return RenderedObject(RAY_JOB.api_version, RAY_JOB.kind, ObjectMeta(), b"")

    async def build_job_resource(self, ctx: TaskContext, cluster_name: str) -> RenderedObject:
        if cluster_name:
            return self._jobs.build_on(await read_task(ctx), cluster_name)
        return await self._plans.build(ctx)

    async def get_job_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """Raises ``DecodeError`` for an object that is no RayJob."""
        return await self._phases.phase(ctx, resource)

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Whether the job has ended. Raises ``DecodeError``."""
        return phase.is_terminal(resource)

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """When the job ended, as far as it is known. Raises ``DecodeError``."""
        return phase.completion_time(resource)
