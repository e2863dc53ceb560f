"""Runs one plan: users, nodes and the true cluster live on while engines come and go."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import anyio
import msgspec
import structlog
from flyteidl2.core import identifier_pb2, interface_pb2, tasks_pb2, types_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.cluster import TASK_ACTION, ObservedObject, WatchEventType
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile import publisher
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.reconciler import Reconciler
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.reconcile.task_context import Ports
from propfan.engine.task_cache import StoreCache
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.core_plugin import CoreProperties
from propfan.pluginmachinery.entries import (
    CorePluginEntry,
    KubernetesPluginEntry,
    LoadedCorePlugin,
    LoadedKubernetesPlugin,
    LoadedPlugin,
)
from propfan.pluginmachinery.errors import NotFoundError, PluginNotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD, Properties
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION, FINALIZER, TERMINATION_STATUS_LABEL
from propfan.pluginmachinery.testing.fakes import FakeSecrets, InMemoryStore
from tests.simulation import oracle
from tests.simulation.dice import Dice
from tests.simulation.faulty_cluster import FaultyCluster
from tests.simulation.faulty_ports import FaultySink, FaultyStore, Record
from tests.simulation.life import Life
from tests.simulation.nodes import Kubelet, Service
from tests.simulation.plan import MAX_SYSTEM_FAILURES, Kind, Plan, Task, plan
from tests.simulation.plugins import CorePlugin, PodPlugin
from tests.simulation.truth import Truth
from tests.simulation.virtual_time import VirtualClock, VirtualLoop

LIMIT_S: Final = 100_000.0
"""Virtual time within which every task of every plan must be over."""

publisher._WRITERS = 8  # type: ignore[misc]  # 256 idle tasks would be most of the work of a life


class Result(msgspec.Struct):
    """What came of a seed: ``problems`` is empty when all promises held."""

    seed: int
    problems: list[str]
    trace: list[str]
    digest: str
    took_s: float


def run(seed: int, *, with_trace: bool = False) -> Result:
    """Plays one seed to its end."""
    trace: list[str] = []
    loop = VirtualLoop()
    digest = hashlib.blake2b(digest_size=8)

    def tell(text: str) -> None:
        line = f"{loop.time():12.6f} {text}"
        digest.update(line.encode())
        if with_trace:
            trace.append(line)

    _configure_logs(tell if with_trace else None)
    world = World(plan(seed), loop, tell)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(world.play())
        problems = world.problems
    except BaseExceptionGroup as group:
        problems = [*world.problems, f"the engine ended: {_innermost(group)!r}"]
    except Exception as error:  # noqa: BLE001 - what breaks the world is a finding like any other
        problems = [*world.problems, f"{type(error).__name__}: {error}"]
    finally:
        for context in loop.problems:
            tell(f"loop: {context}")
        took_s = loop.time()
        if not any(task for task in asyncio.all_tasks(loop) if not task.done()):
            loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
    problems += [f"loop: {context.get('message')} {context.get('exception')!r}" for context in loop.problems]
    return Result(seed, problems, trace, digest.hexdigest(), took_s)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _configure_logs(tell: Callable[[str], None] | None) -> None:
    if tell is None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        return

    def keep(logger: Any, method: str, event: Any) -> str:
        tell(f"log {method}: " + " ".join(str(value) for value in event.values()))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))


class World:
    """Everything there is while one plan is played.

    Attributes:
        shown: Verdicts that were visible in the cluster, by uid: outcome, attempts, error code.
    """

    def __init__(self, plan: Plan, loop: VirtualLoop, tell: Callable[[str], None]) -> None:
        self.plan: Final = plan
        self.dice: Final = Dice(plan.seed)
        self.tell: Final = tell
        self.loop: Final = loop
        self.clock: Final = VirtualClock(loop)
        self.record: Final = Record()
        self.problems: Final[list[str]] = []
        self.uids: Final[dict[str, str]] = {}
        self.lives: Final[list[Life]] = []
        self.last: Reconciler | None = None
        self.last_rounds: Rounds | None = None
        self.cache: StoreCache | None = None
        self.store: Final = InMemoryStore()
        self._tasks: Final = {f"{task.name}-a0": task for task in plan.tasks}
        self._open: Final = set(self._tasks)
        self._all_over = anyio.Event()
        self._final_seen: Final[dict[str, bytes]] = {}
        self.crashes = 0

    async def play(self) -> None:
        uids = itertools.count(1)
        async with EmbeddedCluster.open(clock=self.clock.now, new_uid=lambda: f"uid-{next(uids)}") as self.cluster:
            self.truth = Truth(self.cluster)
            faults = self.plan.faults
            self.kubelet = Kubelet(
                self.cluster, self.store, self._tasks, self.dice, faults.stuck_terminating, self.tell
            )
            self.service = Service(self._tasks, self.dice, self.tell)
            async with anyio.create_task_group() as group:
                group.start_soon(self.truth.follow, TASK_ACTION)
                group.start_soon(self.truth.follow, POD)
                group.start_soon(self.kubelet.run)
                group.start_soon(self._monitor)
                for task in self.plan.tasks:
                    group.start_soon(self._use, task)
                group.start_soon(self._engines)
                with anyio.move_on_after(LIMIT_S):
                    await self._all_over.wait()
                    await anyio.sleep(max(0.0, self.plan.faults.until_s - self.loop.time()))
                    await anyio.sleep(self.dice.uniform(400.0, 500.0, "afterwards"))
                if self.loop.time() >= LIMIT_S:
                    self.problems.extend(oracle.unfinished(self))
                else:
                    self.problems.extend(await oracle.judge(self))
                group.cancel_scope.cancel()

    # -- Engines -----------------------------------------------------------------------------------

    async def _engines(self) -> None:
        for number in itertools.count():
            crashes = self.plan.faults.crashes
            life = Life(
                number, self.dice, self.plan.faults, crashes[number] if number < len(crashes) else None, self.tell
            )
            self.lives.append(life)
            self.tell(f"life {number} begins")
            async with anyio.create_task_group() as group:
                group.start_soon(self._engine(life).run)
                await life.has_died.wait()
                self.loop.on_idle = lambda: None
                group.cancel_scope.cancel()
            self.crashes += 1
            await anyio.sleep(self.dice.uniform(0.01, self.dice.pick((0.1, 20.0), "down", number), "down for", number))

    def _engine(self, life: Life) -> Reconciler:
        """As ``Engine`` puts it together, but for the processes."""
        config = EngineConfig(
            workers=4,
            max_system_failures=MAX_SYSTEM_FAILURES,
            resync_s=self.plan.resync_s,
            status_linger_s=self.plan.linger_s,
        )
        cluster = FaultyCluster(self.truth, life)
        store = FaultyStore(self.store, life)
        ports = Ports(cluster, store, FakeSecrets(), config.max_payload_bytes, "")
        self.cache = StoreCache(store, "memory:///cache", self.clock)
        k8s = K8sConfig(inject_finalizer=self.dice.chance(0.3, "finalizer"))
        plugins: Any = Plugins(life, self.service)
        rounds = self.last_rounds = Rounds(plugins, ports, self.cache, config, k8s, self.clock)
        sink = FaultySink(self.record, life)
        reconciler = self.last = Reconciler(
            cluster, rounds, sink, config, self.clock, watched=frozenset({POD}), on_final=self._on_final
        )
        self.loop.on_idle = functools.partial(oracle.check_idle, reconciler, self.problems)
        return reconciler

    def _on_final(self, live: LiveTask) -> None:
        stored = self.truth.latest.get((TASK_ACTION, live.key.name))
        if stored is not None and stored.metadata.uid == live.identity.uid and oracle.verdict(stored) is None:
            self.problems.append(f"{live.key}: called final before its verdict was written")

    # -- Users -------------------------------------------------------------------------------------

    async def _use(self, task: Task) -> None:
        await anyio.sleep(task.submit_at_s)
        stored = await self.cluster.create(TASK_ACTION, _task_action(task))
        self.uids[task.name] = stored.metadata.uid
        name = stored.metadata.name
        async with anyio.create_task_group() as group:
            for after_s, what, act in (
                (task.abort_at_s, "abort", self._abort),
                (task.delete_at_s, "delete", self._delete),
                (task.signal_at_s if task.kind is Kind.CONDITION else None, "signal", self._signal),
                (task.lose_object_at_s, "lose", self._lose),
            ):
                if after_s is not None:
                    group.start_soon(self._later, after_s, f"user: {what} {name}", functools.partial(act, name))

    async def _later(self, after_s: float, what: str, act: Callable[[], Awaitable[None]]) -> None:
        await anyio.sleep(after_s)
        self.tell(what)
        try:
            await act()
        except NotFoundError:
            self.tell(f"{what}: not there")

    async def _abort(self, name: str) -> None:
        patch = {"metadata": {"annotations": {ABORT_ANNOTATION: "enough"}}}
        await self.cluster.patch(TASK_ACTION, "default", name, patch)

    async def _delete(self, name: str) -> None:
        await self.cluster.delete(TASK_ACTION, "default", name)

    async def _signal(self, name: str) -> None:
        patch = {"status": {"signalValue": b"yes", "signalledBy": "ann", "signalledAt": self.clock.now()}}
        await self.cluster.patch(TASK_ACTION, "default", name, patch, subresource="status")

    async def _lose(self, name: str) -> None:
        for pod in (await self.cluster.list(POD)).items:
            if pod.metadata.owner_references[0].name == name:
                self.tell(f"somebody deletes {pod.metadata.name}")
                await self.cluster.delete(POD, "default", pod.metadata.name)

    # -- What is watched all the time --------------------------------------------------------------

    async def _monitor(self) -> None:
        async with self.cluster.watch(TASK_ACTION, resource_version="0") as stream:
            async for batch in stream:
                for event in batch:
                    seen = event.object
                    if event.type is WatchEventType.DELETED:
                        self._over(seen.metadata.name)
                    else:
                        self._look(seen)

    def _look(self, seen: ObservedObject) -> None:
        name, uid = seen.metadata.name, seen.metadata.uid
        self.problems.extend(oracle.check_status(seen))
        verdict = oracle.verdict(seen)
        told = self._final_seen.get(uid)
        if verdict is None:
            if told is not None:
                self.problems.append(f"{name}: went on after its verdict was written")
            return
        if told is None:
            self.tell(f"verdict of {name}: {verdict}")
            if uid not in self.record.finals and self._tasks[name].kind is not Kind.CONDITION:
                self.problems.append(f"{name}: its verdict was visible before it was reported")
        now = msgspec.json.encode(verdict)
        if told is not None and told != now:
            self.problems.append(f"{name}: its verdict changed from {told.decode()} to {now.decode()}")
        self._final_seen[uid] = now
        meta = seen.metadata
        if TERMINATION_STATUS_LABEL in meta.labels and FINALIZER not in meta.finalizers:
            self._over(name)

    def _over(self, name: str) -> None:
        self._open.discard(name)
        if not self._open:
            self._all_over.set()


class Plugins:
    """The registry's part that rounds use."""

    def __init__(self, life: Life, service: Service) -> None:
        pod, core = PodPlugin(life), CorePlugin(life, service)
        self.plugins: Final[tuple[LoadedPlugin, ...]] = (
            LoadedKubernetesPlugin(
                KubernetesPluginEntry(id="sim-pod", task_types=("pod",), watched=POD, load=pod), pod, Properties()
            ),
            LoadedCorePlugin(CorePluginEntry(id="sim-core", task_types=("core",), load=core), core, CoreProperties()),
        )

    def resolve(self, task_type: str) -> LoadedPlugin:
        for loaded in self.plugins:
            if task_type in loaded.entry.task_types:
                return loaded
        raise PluginNotFoundError(task_type)


def _task_action(task: Task) -> bytes:
    name = task.name
    template = tasks_pb2.TaskTemplate(
        id=identifier_pb2.Identifier(
            resource_type=identifier_pb2.TASK, project="p", domain="d", name="sim", version="1"
        ),
        type={Kind.CORE: "core", Kind.UNKNOWN: "nobody-runs-this"}.get(task.kind, "pod"),
    )
    metadata = template.metadata
    metadata.retries.retries = len(task.attempts) - 1
    if task.backoff_s:
        metadata.retries.backoff.base.FromTimedelta(timedelta(seconds=task.backoff_s))
    if task.attempt_timeout_s:
        metadata.timeout.seconds = int(task.attempt_timeout_s)
    if task.queued_timeout_s:
        metadata.timeouts.queued_timeout.seconds = int(task.queued_timeout_s)
    if task.deadline_s:
        metadata.timeouts.deadline.seconds = int(task.deadline_s)
    if task.cache_key:
        metadata.discoverable = metadata.cache_serializable = True
        metadata.discovery_version = task.cache_key
    if task.kind is Kind.POD:
        variable = interface_pb2.Variable(type=types_pb2.LiteralType(simple=types_pb2.INTEGER))
        template.interface.outputs.variables.append(interface_pb2.VariableEntry(key="o0", value=variable))
    spec: dict[str, Any] = {"runName": name, "project": "p", "domain": "d", "actionName": "a0"}
    if task.kind is Kind.CONDITION:
        condition = run_definition_pb2.ConditionAction(name="c")
        condition.timeout.seconds = 500
        spec |= {"actionType": "condition", "conditionSpec": condition.SerializeToString()}
    else:
        spec |= {
            "taskType": template.type,
            "taskTemplate": template.SerializeToString(deterministic=True),
            "inputUri": f"memory:///in/{name}/inputs.pb",
            "runOutputBase": f"memory:///out/{name}/",
        }
    if task.kind is Kind.INVALID:
        del spec["inputUri"]
    return msgspec.json.encode(
        {
            "apiVersion": TASK_ACTION.api_version,
            "kind": TASK_ACTION.kind,
            "metadata": {"name": f"{name}-a0", "namespace": "default"},
            "spec": spec,
        }
    )
