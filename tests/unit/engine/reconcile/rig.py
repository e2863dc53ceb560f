"""A reconciler on an embedded cluster, with a plugin whose pods a test moves by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import msgspec
from flyteidl2.core import tasks_pb2

from propfan.engine.clock import SystemClock
from propfan.engine.cluster import TASK_ACTION, Kind, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.reconcile.live_task import LiveTask, decode
from propfan.engine.reconcile.reconciler import Reconciler
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.reconcile.task_context import Ports
from propfan.engine.task_cache import StoreCache
from propfan.engine.task_events import TaskEvent
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.errors import NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD, Properties
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject as Observed
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.taskaction import FINALIZER, TaskAction, TaskActionStatus
from propfan.pluginmachinery.testing.fakes import FakeSecrets, InMemoryStore, setup_context


class PodPlugin:
    """A pod's phase is the task's; ``answer`` replaces what it says."""

    def __init__(self) -> None:
        self.answer: Callable[[ObservedObject], Any] | None = None

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> Mapping[str, Any]:
        return {"apiVersion": "v1", "kind": "Pod"}

    async def build_resource(self, ctx: TaskContext) -> Mapping[str, Any]:
        return {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "main", "image": "none"}]}}

    async def get_task_phase(self, ctx: PluginContext, resource: Observed) -> PhaseInfo:
        if self.answer is not None:
            return self.answer(resource)  # type: ignore[no-any-return]
        status = msgspec.json.decode(resource.raw).get("status", {})
        match status.get("phase"), status.get("reason"):
            case "Succeeded", _:
                return phases.success(ctx.now)
            case "Failed", reason:
                return phases.retryable_failure(reason or "Error", "it failed", ctx.now)
            case "Running", _:
                return phases.running(ctx.now, 0)
            case _, "Pulling":
                return phases.initializing(ctx.now, 0, "pulling")
        return phases.queued(ctx.now, 0, "not scheduled")

    def get_properties(self) -> Properties:
        return Properties()

    def is_terminal(self, resource: Observed) -> bool:
        return msgspec.json.decode(resource.raw).get("status", {}).get("phase") in ("Succeeded", "Failed")

    def get_completion_time(self, resource: Observed) -> datetime | None:
        return None


class CountingCluster(ForwardingCluster):
    """The embedded cluster; ``writes`` are those of the engine, ``failures`` what the next status writes get."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        super().__init__(cluster)
        self.writes: Final[list[str]] = []
        self.failures: Final[list[Exception]] = []

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        self.writes.append(f"create {kind}")
        return await self._cluster.create(kind, body)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Any, **more: Any) -> ObservedObject:
        what = more.get("subresource") or ",".join(patch.get("metadata", patch))
        self.writes.append(f"patch {kind} {what}")
        if what == "status" and self.failures:
            raise self.failures.pop(0)
        return await self._cluster.patch(kind, namespace, name, patch, **more)

    async def delete(self, kind: Kind, namespace: str, name: str, **more: Any) -> None:
        self.writes.append(f"delete {kind}")
        await self._cluster.delete(kind, namespace, name, **more)


class ListSink:
    """Keeps events; while ``gate`` is shut nothing is recorded, and while ``error`` is set it is raised."""

    def __init__(self) -> None:
        self.events: Final[list[TaskEvent]] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.error: Exception | None = None

    def shut(self) -> None:
        self.gate = anyio.Event()

    async def record(self, events: Sequence[TaskEvent]) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.events.extend(events)


class Rig:
    """What a test needs; ``told`` are the reasons of the final events, by task."""

    def __init__(
        self,
        cluster: EmbeddedCluster,
        config: EngineConfig,
        registry: Registry,
        plugin: Any,
        watched: frozenset[Kind] = frozenset({POD}),
        **reconciler: Any,
    ) -> None:
        self.truth: Final = cluster
        self.cluster: Final = CountingCluster(cluster)
        self.sink: Final = ListSink()
        self.plugin: Final[PodPlugin] = plugin
        self.final: Final[list[str]] = []
        store = InMemoryStore()
        clock = SystemClock()
        shard_count = config.sharding.shards if "shards" in reconciler else 0
        ports = Ports(self.cluster, store, FakeSecrets(), config.max_payload_bytes, "", shard_count, config.quotas)
        cache = StoreCache(store, "memory:///cache", clock)
        rounds = Rounds(registry, ports, cache, config, K8sConfig(), clock)
        self.reconciler: Final = Reconciler(
            self.cluster, rounds, self.sink, config, clock, watched=watched, on_final=self._on_final, **reconciler
        )

    def _on_final(self, live: LiveTask) -> None:
        self.final.append(live.key.name)

    async def submit(self, name: str = "r1", *, retries: int = 0, **more: Any) -> None:
        template = tasks_pb2.TaskTemplate(type=more.pop("task_type", "pod"))
        template.metadata.retries.retries = retries
        spec = {
            "runName": name,
            "project": "p",
            "domain": "d",
            "actionName": "a0",
            "taskType": template.type,
            "taskTemplate": template.SerializeToString(),
            "inputUri": "memory:///in/inputs.pb",
            "runOutputBase": "memory:///out/",
            **more.pop("spec", {}),
        }
        metadata = {"name": f"{name}-a0", "namespace": "default", "finalizers": more.pop("finalizers", [FINALIZER])}
        body = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": metadata, "spec": spec}
        await self.truth.create(TASK_ACTION, msgspec.json.encode(body))

    async def action(self, name: str = "r1") -> TaskAction:
        return decode(await self.truth.get(TASK_ACTION, "default", f"{name}-a0"))

    async def status(self, name: str = "r1") -> TaskActionStatus:
        return (await self.action(name)).status

    async def move(self, pod: str, phase: str, reason: str = "") -> None:
        """As the kubelet would."""
        patch = {"status": {"phase": phase, "reason": reason}}
        await self.truth.patch(POD, "default", pod, patch, subresource="status")

    async def pods(self) -> list[str]:
        return [pod.metadata.name for pod in (await self.truth.list(POD)).items]

    async def until(self, is_so: Callable[[], Any]) -> None:
        """Waits for a condition, which may be a coroutine function."""
        with anyio.fail_after(20):
            while True:
                found = is_so()
                if hasattr(found, "__await__"):
                    found = await found
                if found:
                    return
                await anyio.sleep(0.002)

    async def until_pod(self, name: str) -> None:
        async def is_there() -> bool:
            return name in await self.pods()

        await self.until(is_there)

    async def until_reason(self, reason: str, name: str = "r1") -> None:
        """Of the Progressing condition."""

        async def is_so() -> bool:
            return any(c.type == "Progressing" and c.reason == reason for c in (await self.status(name)).conditions)

        await self.until(is_so)

    async def until_over(self, name: str = "r1") -> TaskActionStatus:
        """Until its verdict is written and everything is tidied up."""

        async def is_over() -> bool:
            if any(key.name == f"{name}-a0" for key in self.reconciler.live):
                return False
            try:
                return FINALIZER not in (await self.action(name)).metadata.finalizers
            except NotFoundError:
                return True

        await self.until(is_over)
        return await self.status(name)


@asynccontextmanager
async def rig(
    *, age_s: float = 0.0, reconciler: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Rig]:
    """Everything is made ``age_s`` before now; ``reconciler`` are more arguments of it."""
    config = msgspec.structs.replace(EngineConfig(workers=4, status_linger_s=0.02), **settings)
    plugin = PodPlugin()
    registry = Registry()
    registry.register(KubernetesPluginEntry(id="pods", task_types=("pod",), watched=POD, load=plugin))
    registry.load(setup_context())
    async with EmbeddedCluster.open(clock=lambda: datetime.now(UTC) - timedelta(seconds=age_s)) as cluster:
        yield Rig(cluster, config, registry, plugin, **(reconciler or {}))


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Rig]:
    async with rig(**settings) as made, anyio.create_task_group() as group:
        group.start_soon(made.reconciler.run)
        yield made
        group.cancel_scope.cancel()
