"""The engine as a program embeds it: submit tasks, wait for them, follow them, explain them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import anyio
import msgspec
import structlog

from propfan.engine import assembly, machine, submission
from propfan.engine.assembly import installed_plugins
from propfan.engine.clock import Clock, SystemClock
from propfan.engine.cluster import POD, TASK_ACTION, Cluster, ObjectMeta, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.garbage import GarbageCollector
from propfan.engine.journal_sink import JournalSink
from propfan.engine.processes import OnExit, ProcessRuntime, TaskSecrets, environment
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, decode
from propfan.engine.submission import Submission, TaskStatus
from propfan.engine.task_events import EventSink, TaskEvent
from propfan.engine.task_state import Stage
from propfan.pluginmachinery.contexts import DataStore
from propfan.pluginmachinery.errors import AlreadyExistsError, ConfigError, NotFoundError, PermanentError
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION, TaskAction

logger = structlog.get_logger(__name__)

__all__ = ["DATABASE_FILE", "Engine", "Explanation", "installed_plugins"]

DATABASE_FILE: Final = "cluster.db"


class Explanation(msgspec.Struct, frozen=True):
    """Why a task is where it is.

    Attributes:
        goal: What the engine is about to get done for it.
        waiting_for: What keeps it from that; empty when nothing does.
        object: The attempt's object and what was last seen of it; empty when there is none.
        observed_at: When the engine last looked.
        next_wake: When it looks again without being told of a change, and why.
        is_durable: Whether everything it has decided is written down.
        details: What is known of its objects beside, one line each.
    """

    status: TaskStatus
    stage: str
    goal: str
    waiting_for: str
    object: str
    observed_at: datetime | None
    next_wake: datetime | None
    next_wake_reason: str
    is_durable: bool
    attempt_errors: Sequence[str]
    details: Sequence[str] = ()


class Engine:
    """Drives tasks on this machine, or on a cluster that is given.

    ::

        async with Engine(EngineConfig(data_dir=Path("state"))) as engine:
            key = await engine.submit(Submission(template=template))
            status = await engine.wait(key)

    Enter and leave it in the same task. Leaving it stops the processes of tasks that are not over;
    entering it again on the same ``data_dir`` goes on with them.

    Args:
        cluster: In place of the one in ``config.data_dir``. Only an ``EmbeddedCluster`` keeps a journal
            of events; any other needs a ``sink`` for them. This engine must be the only one that drives
            its tasks: replicas that share them are ``propfan serve``.
        registry: In place of the installed plugins.
        store: In place of object stores by URI.
        sink: Where events go in addition to the engine's own journal, if there is one.
        clock: For tests.
        detach: Leave running processes alone on exit; the next engine on ``data_dir`` finds them.
        task_secrets: For tasks that ask for some and run as processes.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        cluster: Cluster | None = None,
        registry: Registry | None = None,
        store: DataStore | None = None,
        sink: EventSink | None = None,
        clock: Clock | None = None,
        detach: bool = False,
        task_secrets: TaskSecrets | None = None,
    ) -> None:
        self.config: Final = config or EngineConfig()
        self._given_cluster: Final = cluster
        self._given_registry: Final = registry
        self._given_store: Final = store
        self._given_sink: Final = sink
        self._clock: Final = clock or SystemClock()
        self._detach: Final = detach
        self._task_secrets: Final = task_secrets
        self._waiters: Final[dict[TaskKey, anyio.Event]] = {}
        self._processes: ProcessRuntime | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None or isinstance(error, anyio.get_cancelled_exc_class()):
            return await self._stack.__aexit__(kind, error, trace)
        await self._stack.__aexit__(None, None, None)  # a task group would wrap the program's own error
        return False

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        config = self.config
        self._store_root = assembly.store_root(config)
        async with AsyncExitStack() as stack:
            cluster: Cluster | EmbeddedCluster | None = self._given_cluster
            if cluster is None:
                path = config.data_dir / DATABASE_FILE if config.data_dir is not None else None
                cluster = await stack.enter_async_context(EmbeddedCluster.open(path, clock=self._clock.now))
            self.cluster: Cluster = cluster
            self._journal = JournalSink(cluster) if isinstance(cluster, EmbeddedCluster) else None
            sink = self._sink()
            parts = assembly.lay(config, cluster, self._clock, registry=self._given_registry, store=self._given_store)
            self.store: DataStore = parts.store
            self.registry = parts.registry
            self._reconciler = assembly.reconciler(
                parts, cluster=cluster, cache=assembly.own_cache(parts), sink=sink, on_final=self._on_final
            )
            garbage = GarbageCollector(cluster, config, self._clock, before_delete=self._forget)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(parts.pod_templates.run)
            await parts.pod_templates.synced()
            tasks.start_soon(self._reconciler.run)
            tasks.start_soon(garbage.run)
            if config.data_dir is not None and isinstance(cluster, EmbeddedCluster) and self._given_cluster is None:
                self._processes = ProcessRuntime(
                    cluster,
                    data_dir=config.data_dir / "processes",
                    capacity=config.capacity,
                    keep_work=config.keep_work,
                    secrets=self._task_secrets,
                    inherited=(*environment.INHERITED, *self._store_variables()),
                    on_exit=OnExit.DETACH if self._detach else OnExit.STOP,
                )
                await stack.enter_async_context(self._processes)
            yield

    def _store_variables(self) -> Sequence[str]:
        return () if self._store_root.startswith(("file://", "memory://")) else environment.of_stores()

    def _sink(self) -> EventSink:
        journal, given = self._journal, self._given_sink
        if journal is None:
            if given is None:
                raise ConfigError("sink", "this cluster keeps no journal of events: give the engine a sink for them")
            return given
        return journal if given is None else _Both(journal, given)

    async def _forget(self, task: ObjectMeta) -> None:
        if self._journal is not None:
            await self._journal.forget(task)

    def _journal_of(self, call: str) -> JournalSink:
        if self._journal is None:
            raise ConfigError(call, "this cluster keeps no journal of events: they go to the engine's sink only")
        return self._journal

    def _on_final(self, live: LiveTask) -> None:
        waiter = self._waiters.pop(live.key, None)
        if waiter is not None:
            waiter.set()

    # -- Tasks -------------------------------------------------------------------------------------

    async def submit(self, task: Submission) -> TaskKey:
        """Stores the inputs and creates the task; it is durable when this returns.

        Submitting again under the same run and action name finds the task that is there, with its
        first inputs.

        Raises:
            AlreadyExistsError: there is a task with another template under that name.
            TaskError, ConfigError: it could never run; nothing was created.
            StorageError: the inputs could not be stored; nothing was created.
            UnavailableError: the cluster did not take it; try again.
        """
        action = submission.to_task_action(
            task, namespace=task.namespace or self.config.namespace, store=self._store_root
        )
        key = TaskKey(action.metadata.namespace, action.metadata.name)
        if await self._is_there(key, action):  # before its inputs would be overwritten
            return key
        if action.spec.input_uri and not task.input_uri:
            await self.store.put(action.spec.input_uri, task.inputs or b"")
        try:
            await self.cluster.create(TASK_ACTION, submission.to_json(action))
        except AlreadyExistsError:
            if not await self._is_there(key, action):
                raise
        return key

    async def _is_there(self, key: TaskKey, action: TaskAction) -> bool:
        """Whether the task was submitted before."""
        try:
            there = decode(await self.cluster.get(TASK_ACTION, *key))
        except NotFoundError:
            return False
        wanted = action.spec
        if (there.spec.task_template, there.spec.condition_spec) != (wanted.task_template, wanted.condition_spec):
            problem = "was submitted with another task template: choose another run or action name"
            raise AlreadyExistsError(f"task {key}", problem)
        return True

    async def get(self, key: TaskKey) -> TaskStatus:
        """Raises ``NotFoundError`` when there is no such task."""
        return submission.status_of(await self._read(key))

    async def wait(self, key: TaskKey) -> TaskStatus:
        """The status once the verdict is in and written down.

        Raises:
            NotFoundError: there is no such task, or it was deleted meanwhile.
        """
        while True:
            waiter = self._waiters.setdefault(key, anyio.Event())
            try:
                status = await self.get(key)
            except NotFoundError:
                self._waiters.pop(key, waiter).set()
                raise
            if status.outcome is not None:
                if self._waiters.pop(key, None) is waiter:
                    waiter.set()  # for others, who read the status before it was final
                return status
            with anyio.move_on_after(self.config.resync_s):
                await waiter.wait()

    async def list(self) -> Sequence[TaskStatus]:
        """All tasks that are there, also those that are over."""
        return await submission.all_of(self.cluster)

    async def abort(self, key: TaskKey, reason: str = "") -> None:
        """Asks for the task to be stopped; ``wait`` tells when it is. A task that is over stays as it is.

        Raises:
            NotFoundError: there is no such task.
        """
        await self.cluster.patch(TASK_ACTION, *key, {"metadata": {"annotations": {ABORT_ANNOTATION: reason}}})

    async def signal(self, key: TaskKey, value: bytes, *, by: str) -> None:
        """Gives a condition action what it waits for.

        Args:
            value: Serialised ``core.Literal``.

        Raises:
            PermanentError: it is no condition action, or was signalled before.
            NotFoundError: there is no such task.
        """
        seen = await self._read(key)
        action = decode(seen)
        if action.spec.action_type != "condition":
            raise PermanentError("NotACondition", f"{key} is no condition action: only those take a signal")
        if action.status.signal_value is not None:
            raise PermanentError("AlreadySignaled", f"{key} was signalled by '{action.status.signalled_by}' already")
        patch = {"status": {"signalValue": value, "signalledBy": by, "signalledAt": self._clock.now()}}
        await self.cluster.patch(
            TASK_ACTION, *key, patch, subresource="status", resource_version=seen.metadata.resource_version
        )

    async def delete(self, key: TaskKey) -> None:
        """Removes the task and everything it owns; one that is not over is aborted first."""
        await self.cluster.delete(TASK_ACTION, *key)

    async def explain(self, key: TaskKey) -> Explanation:
        """Raises ``NotFoundError`` when there is no such task."""
        seen = await self._read(key)
        status = submission.status_of(seen)
        live = self._reconciler.live.get(key)
        if live is None:
            stage = Stage.ENDED if status.outcome is not None else Stage.RECEIVED
            errors = submission.attempt_errors_of(seen)
            return Explanation(status, stage.value, "none", "", "", None, None, "", True, errors)
        state = live.state
        wake = machine.next_wake(state)
        return Explanation(
            status=status,
            stage=state.stage.value,
            goal=machine.goal(state).value,
            waiting_for=self._waiting_for(live),
            object=str(live.object) if live.object is not None else "",
            observed_at=state.observed_at,
            next_wake=wake[0] if wake else None,
            next_wake_reason=wake[1] if wake else "",
            is_durable=live.is_durable,
            attempt_errors=state.attempt_errors,
        )

    def waiting(self) -> Mapping[TaskKey, str]:
        """What tasks wait for, for those that do; from memory, so it may be asked often."""
        return {key: why for key, live in self._reconciler.live.items() if (why := self._waiting_for(live))}

    def _waiting_for(self, live: LiveTask) -> str:
        state = live.state
        why = state.waiting_for or (state.reason if state.phase is not Phase.RUNNING else "")
        if self._processes is not None and live.object is not None and live.object.kind != POD and why:
            kind = live.object.kind.kind
            why = (
                f"an operator of {kind}, and none runs here: it needs a Kubernetes cluster, see 'propfan serve' ({why})"
            )
        if (problem := self._reconciler.sink_problem) and live.unsent:
            return f"events can not be recorded ({problem}); {why}".rstrip("; ")
        return why

    @asynccontextmanager
    async def events(
        self, *, after: int = 0, key: TaskKey | None = None
    ) -> AsyncIterator[AsyncIterator[tuple[int, TaskEvent]]]:
        """Everything that was and will be reported, in order, each with a number to go on ``after`` later.

        Raises:
            ConfigError: the cluster is one without a journal.
        """
        prefix = f"{key}/" if key is not None else ""
        journal = self._journal_of("events")
        async with aclosing(journal.follow(after=after, key_prefix=prefix)) as stream:  # type: ignore[type-var]
            yield stream

    async def history(self, key: TaskKey) -> Sequence[TaskEvent]:
        """What was reported of one task so far.

        Raises:
            ConfigError: the cluster is one without a journal.
        """
        return await self._journal_of("history").recorded(key_prefix=f"{key}/")

    async def settled(self) -> None:
        """Returns once no task is left: every verdict is in, and what had to go is gone."""
        await self._reconciler.idle()

    def hurry(self) -> None:
        """Leaving gives processes no time to end by themselves from now on."""
        if self._processes is not None:
            self._processes.stop_grace_s = 0.0

    def set_waiting(self, key: TaskKey, *, is_waiting: bool) -> None:
        """Whether a task only waits for other tasks: what its processes hold is then free for these."""
        live = self._reconciler.live.get(key)
        if live is not None and self._processes is not None:
            self._processes.set_waiting(live.identity.uid, is_waiting=is_waiting)

    @property
    def live_tasks(self) -> int:
        """Number of tasks that are not over."""
        return len(self._reconciler.live)

    async def _read(self, key: TaskKey) -> ObservedObject:
        try:
            return await self.cluster.get(TASK_ACTION, *key)
        except NotFoundError as error:
            raise NotFoundError(f"task {key}", "there is no such task; 'propfan get' lists those there are") from error


class _Both:
    """An engine's journal, and the sink that the embedding program gave."""

    def __init__(self, journal: JournalSink, given: EventSink) -> None:
        self._journal = journal
        self._given: Final = given

    async def record(self, events: Sequence[TaskEvent]) -> None:
        await self._given.record(events)
        await self._journal.record(events)
