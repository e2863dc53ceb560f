"""Owns the live tasks and gives each its turns.

Watches and timers only mark a task and put it into the queue; workers take one task at a time and
let it go through rounds until it has to wait. So calls for one task never overlap, and a task that
waits costs nothing but its memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from propfan.engine import machine, sharding, status
from propfan.engine.clock import Clock
from propfan.engine.cluster import POD, TASK_ACTION, Cluster, Kind, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.config import EngineConfig, ForeignState
from propfan.engine.reconcile import limits
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, decode, identity_of, is_tidy, version_of
from propfan.engine.reconcile.object_events import ObjectEvents, with_news
from propfan.engine.reconcile.publisher import Publisher, Signal, keep_unsent
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.reconcile.task_pods import TaskPods
from propfan.engine.reconcile.timers import Timers
from propfan.engine.reconcile.watches import Watcher
from propfan.engine.task_events import EventSink, to_event
from propfan.engine.task_state import Event, Faulted, Refused, Report, Stage, TaskState, seconds
from propfan.pluginmachinery.errors import (
    CORRUPTED_PLUGIN_STATE,
    ApiError,
    DecodeError,
    InvalidTransitionError,
    NotFoundError,
)
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError
from propfan.pluginmachinery.taskaction import TaskAction

logger = structlog.get_logger(__name__)

_TIDYING: Final = frozenset({Stage.CLEANING, Stage.ENDING})

_MIDWAY: Final = frozenset(
    {Stage.LAUNCHING, Stage.WAITING_FOR_RESOURCES, Stage.ACTIVE, Stage.COLLECTING, Stage.CLEANING}
)
"""Stages in which a task may have a reservation of the cache."""

_ROUNDS_A_TURN: Final = 32

_CONFIRM_AGAIN_S: Final = 2.0

FOREIGN_PLUGIN_STATE: Final = "ForeignPluginState"
_FOREIGN: Final = (
    "this task was begun by another executor, whose state is not read here; "
    "with 'foreign-state: restart' its present attempt would be taken over"
)

_PODS_GATHER: Final = timedelta(milliseconds=200)

_LONGEST_BLIND_S: Final = 5.0
"""Between tries to watch again; there are only a few watches."""


class _Worker:
    """One of those that take turns, and the turn it is in."""

    __slots__ = ("live", "scope", "since")

    def __init__(self, since: datetime) -> None:
        self.live: LiveTask | None = None
        self.since = since
        self.scope = anyio.CancelScope()


class Reconciler:
    """Drives the tasks of one cluster: all of them, or those of the shards that it was given.

    Args:
        watched: Kinds of the objects that tasks run as.
        on_final: Called with a task whose verdict is written down; its object may still be going away.
        shards: Those that it begins with; all tasks are driven here when it is ``None``.
        tells_events: Whether Events of objects become reasons of their tasks.
        may_act: Asked before each round; once it says no, nothing is begun any more.
    """

    def __init__(
        self,
        cluster: Cluster,
        rounds: Rounds,
        sink: EventSink,
        config: EngineConfig,
        clock: Clock,
        *,
        watched: frozenset[Kind],
        on_final: Callable[[LiveTask], None],
        shards: frozenset[int] | None = None,
        tells_events: bool = False,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster: Final = cluster
        self._rounds: Final = rounds
        self._config: Final = config
        self._clock: Final = clock
        self._on_final: Final = on_final
        self._live: Final[dict[TaskKey, LiveTask]] = {}
        self._found: Final[dict[TaskKey, ObservedObject]] = {}
        """Objects seen before their tasks, while an engine starts."""
        self._became_idle: anyio.Event | None = None
        self._queue: Final[deque[LiveTask]] = deque()
        self._work: Final = Signal()
        self._timers: Final[Timers[LiveTask]] = Timers(clock, self._on_timer, self._is_driven)
        self._pods: Final = TaskPods(self._on_pods)
        self._publisher: Final = Publisher(
            cluster,
            sink,
            config,
            clock,
            self._timers,
            on_written=self._on_written,
            on_vanished=self._drop,
            on_overtaken=self._on_overtaken,
        )
        self._may_act: Final = may_act
        self._events: Final = ObjectEvents(cluster, clock, self._live, self._enqueue) if tells_events else None
        self._watched: Final = sorted(watched | {POD} if watched else watched, key=str)
        self._namespaces: Final = config.namespaces or ("",)
        self._shard_count: Final = config.sharding.shards
        self._shards = shards
        self._selection_changed = anyio.Event()
        self._are_actions_listed = False
        self._leaving: Final[set[LiveTask]] = set()
        """Tasks of another replica that still have something to write here."""
        self._have_left = anyio.Event()
        self._workers: Sequence[_Worker] = ()

    @property
    def live(self) -> Mapping[TaskKey, LiveTask]:
        """All tasks that are not over, by key."""
        return self._live

    @property
    def is_listed(self) -> bool:
        """Whether all tasks are known that there were when it began, or was given shards."""
        return self._are_actions_listed or (self._shards is not None and not self._shards)

    @property
    def queue_depth(self) -> int:
        """Tasks that wait for a worker."""
        return len(self._queue)

    @property
    def busy_workers(self) -> int:
        return sum(worker.live is not None for worker in self._workers)

    @property
    def sink_problem(self) -> str:
        """Why events can not be delivered at the moment; empty when they can."""
        return self._publisher.sink_problem

    async def idle(self) -> None:
        """Returns once there is no live task."""
        while self._live:
            self._became_idle = self._became_idle or anyio.Event()
            await self._became_idle.wait()

    async def run(self) -> None:
        """Works until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_all)
            tasks.start_soon(self._timers.run)
            tasks.start_soon(self._publisher.run)
            tasks.start_soon(self._rounds.run, self._poke)
            self._workers = [_Worker(self._clock.now()) for _ in range(self._config.workers)]
            for worker in self._workers:
                tasks.start_soon(self._work_off, worker)
            tasks.start_soon(self._watch_over, self._workers)

    # -- Shards ------------------------------------------------------------------------------------

    def take_on(self, gained: frozenset[int]) -> None:
        """Begins to drive the tasks of these shards too."""
        self._select((self._shards or frozenset()) | gained)

    async def hand_over(self, lost: frozenset[int], patience_s: float) -> None:
        """Lets the tasks of these shards go: rounds come to their end, and what was decided is written down.

        When it returns none of them is driven here. What could not be written within ``patience_s`` is decided
        anew by the replica that goes on with the task.
        """
        self._select((self._shards or frozenset()) - lost)
        leaving = [live for live in self._live.values() if live.shard in lost]
        self._leaving.update(leaving)
        self._have_left = anyio.Event()
        for live in leaving:
            live.is_leaving = True
            if not live.is_durable:
                self._publisher.changed(live, urgent=True)
            self._check_left(live)
        with anyio.move_on_after(patience_s):
            while self._leaving:
                await self._have_left.wait()
        for live in leaving:
            self._leaving.discard(live)
            self._let_go(live)
        for worker in self._workers:
            if worker.live is not None and worker.live.is_leaving:
                worker.scope.cancel()

    def _select(self, selected: frozenset[int]) -> None:
        self._shards = selected
        self._selection_changed.set()

    def _check_left(self, live: LiveTask) -> None:
        if live in self._leaving and live.is_durable and not (live.is_busy or live.is_writing):
            self._leaving.remove(live)
            if not self._leaving:
                self._have_left.set()

    def _let_go(self, live: LiveTask) -> None:
        """Another engine drives it now; unlike with one that is gone, what it holds stays."""
        live.is_leaving = True
        self._drop(live)
        self._rounds.handed_over(live)

    def _shard_of(self, seen: ObservedObject) -> int:
        return sharding.shard_of_action(seen, self._shard_count) if self._shards is not None else 0

    def _is_ours(self, shard: int) -> bool:
        return self._shards is None or shard in self._shards

    # -- Watches -----------------------------------------------------------------------------------

    async def _watch_all(self) -> None:
        """Watches what belongs to the shards of the moment."""
        while True:
            self._selection_changed = anyio.Event()
            async with anyio.create_task_group() as watches:
                if self._shards is None or self._shards:
                    watches.start_soon(self._watch, watches)
                await self._selection_changed.wait()
                watches.cancel_scope.cancel()

    async def _watch(self, watches: TaskGroup) -> None:
        """Objects are listed before tasks, so that a restart finds them."""
        self._are_actions_listed = False
        self._pods.expect_tasks()
        self._rounds.turns.pause()
        labels = sharding.selector(self._shards, self._shard_count)
        watcher_of = partial(Watcher, self._cluster, longest_wait_s=_LONGEST_BLIND_S)
        objects = [
            watcher_of(
                kind,
                namespace=namespace,
                labels=labels,
                on_event=self._on_object,
                on_listed=partial(self._on_objects_listed, kind, namespace),
            )
            for kind in self._watched
            for namespace in self._namespaces
        ]
        actions = [
            watcher_of(
                TASK_ACTION,
                namespace=where,
                on_event=self._on_action,
                on_listed=partial(self._on_actions_listed, where),
            )
            for where in self._namespaces
        ]
        for watchers in (objects, actions):
            for watcher in watchers:
                watches.start_soon(watcher.run)
            for watcher in watchers:
                await watcher.is_synced.wait()
        self._are_actions_listed = True
        self._found.clear()
        self._pods.all_tasks_known()
        self._rounds.turns.resume()
        if self._events is not None:
            for namespace in self._namespaces:
                watches.start_soon(self._events.watcher(namespace).run)

    # -- What comes in -----------------------------------------------------------------------------

    def _on_action(self, event: WatchEvent) -> None:
        seen = event.object
        key = TaskKey(seen.metadata.namespace, seen.metadata.name)
        live = self._live.get(key)
        if live is not None and version_of(seen) < version_of(live.action):
            return
        if live is not None and live.identity.uid != seen.metadata.uid:
            self._drop(live)
            live = None
        if event.type is WatchEventType.DELETED:
            if live is not None:
                self._drop(live)
            self._rounds.turns.gone_elsewhere(key)
            return
        if live is None:
            if not self._is_ours(shard := self._shard_of(seen)):
                self._rounds.turns.seen_elsewhere(key, seen)
            elif not is_tidy(seen):
                self._enqueue(self._take_up(key, seen, shard))
            return
        if not live.is_own_status(seen):
            self._on_overtaken(live, seen, is_live=False)
            return
        known, live.action = live.action.metadata, seen
        meta = seen.metadata
        is_marked = (meta.annotations, meta.deletion_timestamp) != (known.annotations, known.deletion_timestamp)
        if is_marked or live.state.stage is Stage.PAUSED:
            live.must_look = True
            self._enqueue(live)

    def _take_up(self, key: TaskKey, seen: ObservedObject, shard: int) -> LiveTask:
        """Begins, or goes on, to drive a task. An unreadable one is taken up too, to be refused."""
        decoded: TaskAction | None = None
        unreadable: Refused | None = None
        try:
            decoded = decode(seen)
            state, unsent = status.load(decoded, self._rounds.limits_of(key, decoded))
        except DecodeError as error:
            logger.warning("task can not be read", task=str(key), error=str(error))
            created = seen.metadata.creation_timestamp or self._clock.now()
            state, unsent = TaskState(str(key), limits.default(self._config), created), ()
            if decoded is not None:  # admission would see nothing wrong, and run it all over again
                unreadable = Refused(ExecutionError(CORRUPTED_PLUGIN_STATE, str(error), ErrorKind.SYSTEM))
        else:
            if self._config.foreign_state is ForeignState.REFUSE and status.is_foreign(decoded):
                unreadable = Refused(ExecutionError(FOREIGN_PLUGIN_STATE, _FOREIGN, ErrorKind.SYSTEM))
        live = LiveTask(key, seen, state, identity_of(seen, decoded), shard)
        live.unsent = unsent
        if decoded is not None and state.stage in _MIDWAY:
            live.must_hold = self._rounds.reserves(key, decoded)
        live.object = self._found.pop(key, None)
        self._live[key] = live
        self._pods.add(live)
        self._rounds.taken_up(live)
        if unsent:
            self._publisher.changed(live, urgent=False)
        if unreadable is not None:
            self._apply(live, unreadable)
        return live

    def _on_actions_listed(self, namespace: str, keys: frozenset[tuple[str, str]]) -> None:
        for key, live in self._live.items():
            if key not in keys and namespace in ("", key.namespace):
                live.is_missing = True
                self._enqueue(live)
        self._rounds.turns.listed(namespace, keys)

    def _on_overtaken(self, live: LiveTask, latest: ObservedObject, *, is_live: bool = True) -> None:
        """Another engine drives the task, or did for a while: what it wrote counts, and not what is known here."""
        if not self._is_driven(live):
            return
        if live.is_confirmed:  # before that it may only be late news of what this engine itself wrote
            logger.warning("task was driven by another engine", task=str(live.key))
        self._let_go(live)
        self._take_up_again(live, latest, is_live=is_live)

    def _on_object(self, event: WatchEvent) -> None:
        seen = event.object
        owner = next((o for o in seen.metadata.owner_references if o.kind == TASK_ACTION.kind and o.controller), None)
        if owner is None:
            if seen.kind == POD:
                self._pods.on_event(event)
            return
        key = TaskKey(seen.metadata.namespace, owner.name)
        live = self._live.get(key)
        if live is None:
            if not self._are_actions_listed and event.type is WatchEventType.DELETED:
                self._found.pop(key, None)
            elif not self._are_actions_listed:
                self._found[key] = seen
            return
        if live.identity.uid != owner.uid or live.has_seen(seen):
            return
        name, known = seen.metadata.name, live.object
        is_other = (known is None or known.metadata.name != name) and live.state.stage not in _TIDYING
        if is_other and name != (self._rounds.object_name(live) or name):
            return  # late news of an earlier attempt's object
        live.object = seen
        live.object_was_deleted = event.type is WatchEventType.DELETED
        live.must_look = True
        self._enqueue(live)

    def _on_pods(self, live: LiveTask) -> None:
        """An operator's pods change in crowds; the task looks at what has come in a while together."""
        if not live.must_look:
            live.must_look = True
            self._wake(live, self._clock.now() + _PODS_GATHER)

    def _on_objects_listed(self, kind: Kind, namespace: str, keys: frozenset[tuple[str, str]]) -> None:
        if kind == POD:
            self._pods.on_listed(namespace, keys)
        for live in self._live.values():
            known = live.object
            if known is None or known.kind != kind or live.object_was_deleted:
                continue
            if (
                namespace in ("", known.metadata.namespace)
                and (known.metadata.namespace, known.metadata.name) not in keys
            ):
                live.object_was_deleted = live.must_look = True
                self._enqueue(live)

    @staticmethod
    def _is_driven(live: LiveTask) -> bool:
        return not live.is_dropped

    def _on_timer(self, live: LiveTask) -> None:
        now = self._clock.now()
        self._publisher.due(live)
        if live.wake_at is not None and live.wake_at <= now:
            live.wake_at = None
            wake = machine.next_wake(live.state)
            if wake is not None and wake[0] > now and not (live.is_in_doubt or live.must_look):  # plans have changed
                self._arm(live, now)
            else:
                self._enqueue(live)

    def _on_written(self, live: LiveTask) -> None:
        if not live.is_durable:
            return
        self._check_left(live)
        if live.state.outcome is not None:
            self._on_final(live)
        if machine.must_be_durable(live.state):
            self._enqueue(live)

    # -- Turns -------------------------------------------------------------------------------------

    def _enqueue(self, live: LiveTask) -> None:
        if live.is_queued or live.is_ended or live.is_leaving:
            return
        live.is_queued = True
        if not live.is_busy:
            self._queue.append(live)
            self._work.give()

    async def _work_off(self, worker: _Worker) -> None:
        while True:
            with anyio.CancelScope() as worker.scope:
                await self._serve(worker)
            if worker.live is not None:  # the watchdog's doing; a shutdown does not come here
                if self._is_driven(worker.live):
                    self._apply(worker.live, self._rounds.overdue(worker.live))
                self._enqueue(worker.live)
                self._release(worker)

    async def _serve(self, worker: _Worker) -> None:
        while True:
            await self._work.wait_for(self._queue)
            live = self._queue.popleft()
            live.is_queued, live.is_busy = False, True
            worker.live, worker.since = live, self._clock.now()
            try:
                await self._turn(live, worker)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException:
                self._release(worker)
                raise
            self._release(worker)

    def _release(self, worker: _Worker) -> None:
        live, worker.live = worker.live, None
        if live is None:
            return
        live.is_busy = False
        self._check_left(live)
        if live.is_queued:
            self._queue.append(live)
            self._work.give()

    async def _watch_over(self, workers: Sequence[_Worker]) -> None:
        """Cancels turns that take too long: one look at all workers instead of a timer for every turn."""
        limit_s = self._config.plugin_timeout_s
        while True:
            await anyio.sleep(limit_s / 4)
            now = self._clock.now()
            for worker in workers:
                if worker.live is not None and (now - worker.since).total_seconds() >= limit_s:
                    worker.scope.cancel()

    async def _turn(self, live: LiveTask, worker: _Worker) -> None:
        """Rounds until the task has to wait; a task that never waits lets others go first."""
        for _ in range(_ROUNDS_A_TURN):
            if live.is_leaving or not self._may_act():
                return
            if not self._is_driven(live):
                await self._rounds.abandon(live)
                return
            live.is_queued = False  # the round considers all that came until now
            now = worker.since = self._clock.now()
            event = None
            if live.is_untouched or not live.is_in_doubt:
                event = with_news(live, await self._rounds.next_event(live, now))
                if not self._is_driven(live):
                    continue
            if live.is_in_doubt:
                if not await self._confirm(live, now):
                    return
                continue
            if event is None:
                self._arm(live, now)
                return
            self._apply(live, event)
            if live.is_ended:
                self._drop(live)
                return
        self._enqueue(live)

    async def _confirm(self, live: LiveTask, now: datetime) -> bool:
        """Reads the TaskAction itself; whether it is the one that is known, and not further."""
        try:
            latest = await self._cluster.get(TASK_ACTION, *live.key)
        except NotFoundError:
            self._drop(live)
            return False
        except ApiError as error:
            self._wake(live, now + seconds(max(error.retry_after_s, _CONFIRM_AGAIN_S)))
            return False
        live.is_missing = False
        is_behind = not live.is_confirmed and version_of(latest) > live.loaded_version
        if latest.metadata.uid == live.identity.uid and not is_behind:
            live.is_confirmed = True
            return True
        if self._is_driven(live):
            self._drop(live)
            self._take_up_again(live, latest)
        return False

    def _take_up_again(self, live: LiveTask, latest: ObservedObject, *, is_live: bool = True) -> None:
        """Drives the task from what was read just now, or from what a watch told."""
        if is_tidy(latest) or not self._is_ours(live.shard):
            return
        taken = self._take_up(live.key, latest, live.shard)
        taken.is_confirmed = is_live
        taken.object, taken.object_was_deleted, taken.pods = live.object, live.object_was_deleted, live.pods
        self._enqueue(taken)

    def _apply(self, live: LiveTask, event: Event) -> None:
        """Takes the step and hands on what it commands, in order."""
        try:
            taken = machine.step(live.state, event, self._clock.now())
        except InvalidTransitionError as error:
            logger.exception("no such transition", task=str(live.key))
            taken = machine.step(live.state, Faulted("InvalidTransition", str(error)), self._clock.now())
        live.state = taken.state
        for command in taken.commands:
            if isinstance(command, Report):
                live.unsent = keep_unsent(live.unsent, to_event(live.identity, command, self._rounds.output_uri(live)))
            else:
                live.revision += 1
                self._publisher.changed(live, urgent=command.urgent)

    def _arm(self, live: LiveTask, now: datetime) -> None:
        """Every task that is not over has a next wake-up."""
        wake = machine.next_wake(live.state)
        if wake is None:
            return
        when = wake[0]
        if when <= now:  # it waits for its own write, which calls it back
            when = now + seconds(live.state.limits.resync_s)
        self._wake(live, when)

    def _wake(self, live: LiveTask, when: datetime) -> None:
        if live.wake_at is None or when < live.wake_at:
            live.wake_at = when
            self._timers.set(live, when)

    def _poke(self, live: LiveTask) -> None:
        """There is news of what a task waits for that no watch tells of."""
        live.must_look = True
        self._enqueue(live)

    def _drop(self, live: LiveTask) -> None:
        if self._is_driven(live):
            del self._live[live.key]
            self._pods.drop(live)
            live.is_dropped = True
            self._timers.abandoned()
            self._enqueue(live)  # for what it held; one that has ended holds nothing
        self._rounds.let_go(live)
        if not self._live and self._became_idle is not None:
            self._became_idle.set()
            self._became_idle = None
