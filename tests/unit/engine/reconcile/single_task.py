"""One task on an embedded cluster, whose rounds a test calls one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from flyteidl2.core import tasks_pb2

from propfan.engine.clock import SystemClock
from propfan.engine.cluster import TASK_ACTION, Kind, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.reconcile.kubernetes_runner import KubernetesRunner
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, decode, identity_of
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.reconcile.task_context import Ports, RoundContext, TaskValues
from propfan.engine.task_cache import StoreCache
from propfan.engine.task_state import Event, Limits, Stage, TaskState
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import DataStore, OwnerReference, TaskContext
from propfan.pluginmachinery.entries import LoadedKubernetesPlugin
from propfan.pluginmachinery.errors import NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD, AbortBehavior, Properties
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.taskaction import FINALIZER
from propfan.pluginmachinery.testing.builders import task_template
from propfan.pluginmachinery.testing.fakes import FakeSecrets, InMemoryStore, setup_context
from tests.unit.engine.reconcile.rig import PodPlugin

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POD_NAME: Final = "r1-a0-0"
A_POD: Final[Mapping[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {"containers": [{"name": "main", "image": "none"}]},
}


class Plugin(PodPlugin):
    """``build`` replaces what it builds; may raise, as ``answer`` may."""

    def __init__(self, **properties: Any) -> None:
        super().__init__()
        self.properties: Final = Properties(**properties)
        self.build: Callable[[], Any] = lambda: A_POD

    async def build_resource(self, ctx: TaskContext) -> Any:
        return self.build()

    def get_properties(self) -> Properties:
        return self.properties


class AbortingPlugin(Plugin):
    """Has its own way to abort."""

    def __init__(self, behavior: AbortBehavior, **properties: Any) -> None:
        super().__init__(**properties)
        self.behavior: Final = behavior

    async def on_abort(self, ctx: TaskContext, resource: ObservedObject) -> AbortBehavior:
        return self.behavior


def raising(error: Exception) -> Callable[..., Any]:
    """To stand for anything that a plugin does."""

    def fail(*_: object) -> Any:
        raise error

    return fail


class FaultyCluster(ForwardingCluster):
    """Notes reads and writes in ``calls``; ``errors`` are raised by the next calls of a method, in place of it."""

    def __init__(self, truth: EmbeddedCluster) -> None:
        super().__init__(truth)
        self.calls: Final[list[str]] = []
        self.errors: Final[dict[str, list[Exception]]] = defaultdict(list)

    def _begin(self, method: str, kind: Kind, name: str = "") -> None:
        self.calls.append(f"{method} {kind} {name}".rstrip())
        if self.errors[method]:
            raise self.errors[method].pop(0)

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        self._begin("get", kind, name)
        return await self._cluster.get(kind, namespace, name)

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        self._begin("create", kind)
        return await self._cluster.create(kind, body)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Any, **more: Any) -> ObservedObject:
        self._begin("patch", kind, name)
        return await self._cluster.patch(kind, namespace, name, patch, **more)

    async def delete(self, kind: Kind, namespace: str, name: str, **more: Any) -> None:
        self._begin("delete", kind, name)
        await self._cluster.delete(kind, namespace, name, **more)


class SingleTask:
    """Launching is its goal at first; ``live`` may be changed as a test wants."""

    def __init__(
        self, truth: EmbeddedCluster, action: ObservedObject, registry: Registry, store: DataStore, config: EngineConfig,
        k8s: K8sConfig,
    ) -> None:  # fmt: skip
        self.truth: Final = truth
        self.cluster: Final = FaultyCluster(truth)
        self.store: Final = store
        clock = SystemClock()
        self.ports: Final = Ports(self.cluster, store, FakeSecrets(), config.max_payload_bytes, "")
        self.cache: Final = StoreCache(store, "memory:///cache", clock)
        self.rounds: Final = Rounds(registry, self.ports, self.cache, config, k8s, clock)
        state = TaskState("default/r1-a0", Limits(), NOW, stage=Stage.LAUNCHING, plugin_id="pods")
        self.live: Final = LiveTask(TaskKey("default", "r1-a0"), action, state, identity_of(action, None))
        loaded = next(iter(registry.plugins), None)
        if isinstance(loaded, LoadedKubernetesPlugin):
            self.runner: Final = KubernetesRunner(loaded, self.cluster, k8s)

    def put(self, **state: Any) -> None:
        self.live.state = msgspec.structs.replace(self.live.state, **state)

    def context(self, attempt: int = 1, now: datetime = NOW) -> RoundContext:
        return RoundContext(TaskValues(decode(self.live.action), attempt, self.ports), self.live.state, self.ports, now)

    async def launch(self) -> Event:
        return await self.runner.launch(self.live, self.context())

    async def observe(self, now: datetime = NOW) -> Event:
        return await self.runner.observe(self.live, self.context(now=now))

    async def remove(self, *, force: bool) -> Event:
        return await self.runner.remove(self.live, self.context(), force=force)

    async def round(self, now: datetime = NOW, **state: Any) -> Event | None:
        """A whole round in that state."""
        self.put(**state)
        return await self.rounds.next_event(self.live, now)

    async def pod(self, name: str = POD_NAME) -> ObservedObject | None:
        try:
            return await self.truth.get(POD, "default", name)
        except NotFoundError:
            return None

    async def pod_json(self) -> Any:
        pod = await self.pod()
        return None if pod is None else msgspec.json.decode(pod.raw)

    async def see_pod(self) -> ObservedObject:
        """As the watch would show it."""
        pod = await self.pod()
        assert pod is not None
        self.live.object, self.live.object_was_deleted = pod, False
        return pod

    async def move_pod(self, phase: str) -> None:
        await self.truth.patch(POD, "default", POD_NAME, {"status": {"phase": phase}}, subresource="status")

    async def hold_pod(self, *finalizers: str) -> None:
        await self.truth.patch(POD, "default", POD_NAME, {"metadata": {"finalizers": list(finalizers)}})

    async def make_pod(self, owner: ObservedObject | None, **metadata: Any) -> ObservedObject:
        """A pod under the name of the task's own."""
        owners = [] if owner is None else [_reference(owner)]
        body = {"name": POD_NAME, "namespace": "default", "ownerReferences": owners, **metadata}
        return await self.truth.create(POD, msgspec.json.encode({**A_POD, "metadata": body}))

    async def make_stranger(self) -> ObservedObject:
        """Another TaskAction."""
        return await self.truth.create(TASK_ACTION, _action_body("r2-a0", {}, {}))

    async def action_metadata(self) -> Any:
        return msgspec.json.decode((await self.truth.get(TASK_ACTION, "default", "r1-a0")).raw)["metadata"]


def _reference(owner: ObservedObject) -> OwnerReference:
    return OwnerReference("flyte.org/v1", "TaskAction", owner.metadata.name, owner.metadata.uid, controller=True)


def _action_body(name: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> bytes:
    metadata = {"name": name, "namespace": "default", "finalizers": [FINALIZER], **metadata}
    return msgspec.json.encode({"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": metadata, "spec": spec})


@asynccontextmanager
async def single_task(
    plugin: Plugin | None = None,
    *,
    template: tasks_pb2.TaskTemplate | bytes | None = None,
    spec: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    store: DataStore | None = None,
    k8s: K8sConfig | None = None,
    **config: Any,
) -> AsyncIterator[SingleTask]:
    if registry is None:
        registry = Registry()
        registry.register(KubernetesPluginEntry(id="pods", task_types=("pod",), watched=POD, load=plugin or Plugin()))
        registry.load(setup_context())
    template = task_template("pod") if template is None else template
    whole = {
        "runName": "r1",
        "project": "p",
        "domain": "d",
        "actionName": "a0",
        "taskType": "pod",
        "taskTemplate": template if isinstance(template, bytes) else template.SerializeToString(),
        "inputUri": "memory:///in/inputs.pb",
        "runOutputBase": "memory:///out/",
        **(spec or {}),
    }
    async with EmbeddedCluster.open(clock=lambda: NOW) as truth:
        action = await truth.create(TASK_ACTION, _action_body("r1-a0", metadata or {}, whole))
        yield SingleTask(truth, action, registry, store or InMemoryStore(), EngineConfig(**config), k8s or K8sConfig())
