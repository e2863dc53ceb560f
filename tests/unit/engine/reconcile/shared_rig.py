"""Engines on one embedded cluster, with a plugin whose jobs share what a test makes ready by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import msgspec

from propfan.engine.cluster import ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.shared_clusters import SHARED_LABEL
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, Kind, Properties, last_used
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.testing.fakes import setup_context
from tests.unit.engine.reconcile.rig import Rig

TEAM: Final = Kind("test.io", "v1", "Team", "teams")
WORK: Final = Kind("test.io", "v1", "Work", "works")

ALONE: Final = "alone"
BROKEN: Final = "broken"


def status_of(resource: ObservedObject) -> Mapping[str, Any]:
    status: Mapping[str, Any] = msgspec.json.decode(resource.raw).get("status") or {}
    return status


class TeamPlugin:
    """Work is done by a team, named by the task's group; that of the group ``alone`` by its own."""

    def __init__(self, idle_s: float) -> None:
        self._idle: Final = timedelta(seconds=idle_s)

    def get_cluster_name(self, ctx: TaskContext) -> str:
        group: str = ctx.action.spec.group  # type: ignore[attr-defined]
        return "" if group == ALONE else f"team-{group}"

    async def build_cluster_resource(self, ctx: TaskContext) -> Mapping[str, Any]:
        return {**self.build_cluster_identity_resource(ctx.metadata), "spec": {"size": 3}}

    def build_cluster_identity_resource(self, metadata: TaskExecutionMetadata) -> Mapping[str, Any]:
        return {"apiVersion": TEAM.api_version, "kind": TEAM.kind}

    def is_cluster_ready(self, resource: ObservedObject) -> bool:
        return status_of(resource).get("state") == "ready"

    async def check_cluster(self, ctx: PluginContext, resource: ObservedObject) -> str:
        state: str = status_of(resource).get("state", "forming")
        if state == BROKEN:
            raise PermanentError("TeamBroken", "nobody came")
        return f"{state}, {len(await ctx.kubernetes.list_pods())} pods"

    async def build_job_resource(self, ctx: TaskContext, cluster_name: str) -> Mapping[str, Any]:
        return {**self.build_job_identity_resource(ctx.metadata), "spec": {"team": cluster_name}}

    def build_job_identity_resource(self, metadata: TaskExecutionMetadata) -> Mapping[str, Any]:
        return {"apiVersion": WORK.api_version, "kind": WORK.kind}

    async def get_job_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        match status_of(resource).get("state"):
            case "done":
                return phases.success(ctx.now)
            case "failed":
                return phases.retryable_failure("Error", "it failed", ctx.now)
            case "running":
                return phases.running(ctx.now, 0)
        return phases.queued(ctx.now, 0, "in the queue")

    def get_properties(self) -> Properties:
        return Properties()

    def is_terminal(self, resource: ObservedObject) -> bool:
        return status_of(resource).get("state") in ("done", "failed")

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        return None

    def is_idle(self, resource: ObservedObject, now: datetime) -> bool:
        used = last_used(resource)
        return used is None or now - used >= self._idle


class TeamRig(Rig):
    """``submit_to`` takes the group, which names the team."""

    registry: Registry

    async def submit_to(self, group: str, name: str = "r1", **more: Any) -> None:
        await self.submit(name, task_type="work", spec={"group": group}, **more)

    async def teams(self) -> list[str]:
        return sorted(team.metadata.name for team in (await self.truth.list(TEAM)).items)

    async def works(self) -> list[str]:
        return sorted(work.metadata.name for work in (await self.truth.list(WORK)).items)

    async def until_team(self, name: str) -> ObservedObject:
        async def is_there() -> bool:
            return name in await self.teams()

        await self.until(is_there)
        return await self.truth.get(TEAM, "default", name)

    async def until_work(self, name: str = "r1-a0-0") -> ObservedObject:
        async def is_there() -> bool:
            return name in await self.works()

        await self.until(is_there)
        return await self.truth.get(WORK, "default", name)

    async def say(self, kind: Kind, name: str, state: str) -> None:
        """As the operator would."""
        await self.truth.patch(kind, "default", name, {"status": {"state": state}}, subresource="status")

    async def add_team(
        self, name: str, *, used: datetime | None = None, labels: Mapping[str, str] | None = None
    ) -> None:
        """One that an engine has made before."""
        metadata: dict[str, Any] = {"name": name, "namespace": "default", "labels": labels or {SHARED_LABEL: "work"}}
        if used is not None:
            metadata["annotations"] = {"propfan.org/last-used": used.isoformat()}
        body = {"apiVersion": TEAM.api_version, "kind": TEAM.kind, "metadata": metadata}
        await self.truth.create(TEAM, msgspec.json.encode(body))

    async def add_work(self, name: str, team: str) -> None:
        """Of another engine's task."""
        metadata = {"name": name, "namespace": "default", "labels": {CLUSTER_LABEL: team}}
        body = {"apiVersion": WORK.api_version, "kind": WORK.kind, "metadata": metadata}
        await self.truth.create(WORK, msgspec.json.encode(body))


def long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def make(cluster: EmbeddedCluster, *, idle_s: float, **settings: Any) -> TeamRig:
    """One engine. Its sweeps come every 20 ms unless ``settings`` say otherwise."""
    config = msgspec.structs.replace(EngineConfig(workers=4, status_linger_s=0.02, cluster_sweep_s=0.02), **settings)
    plugin = TeamPlugin(idle_s)
    registry = Registry()
    registry.register(
        KubernetesPluginEntry(id="work", task_types=("work",), watched=WORK, load_cluster=plugin, cluster_watched=TEAM)
    )
    assert not registry.load(setup_context())
    made = TeamRig(cluster, config, registry, plugin, frozenset({WORK}))
    made.registry = registry
    return made


@asynccontextmanager
async def working(cluster: EmbeddedCluster, *, idle_s: float = 3600.0, **settings: Any) -> AsyncIterator[TeamRig]:
    """An engine that runs on a cluster."""
    async with anyio.create_task_group() as group:
        made = make(cluster, idle_s=idle_s, **settings)
        group.start_soon(made.reconciler.run)
        yield made
        group.cancel_scope.cancel()


@asynccontextmanager
async def teams(**settings: Any) -> AsyncIterator[TeamRig]:
    """An engine on a cluster of its own."""
    async with EmbeddedCluster.open() as cluster, working(cluster, **settings) as made:
        yield made
