"""Sends events in batches and writes status, without ever holding a round.

A change of a task takes two steps: its events go to the sink, then its status to the cluster. A
sink that is slow or down delays only final verdicts: other status is written meanwhile, with the
unsent events in it, so that they survive a restart.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence, Sized
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import structlog

from propfan.engine import status
from propfan.engine.clock import Clock
from propfan.engine.cluster import TASK_ACTION, Cluster, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile.live_task import LiveTask, version_of
from propfan.engine.reconcile.timers import Timers
from propfan.engine.task_events import EventSink, NotAllRecordedError, TaskEvent
from propfan.engine.task_state import DELAY_BACKOFF
from propfan.pluginmachinery.errors import ApiError, ConflictError, NotFoundError
from propfan.pluginmachinery.phases import Phase

logger = structlog.get_logger(__name__)

MAX_UNSENT: Final = 64
"""Events a task keeps while the sink is down; of the oldest, those that are not final go first."""

_LINGER_TURNS: Final = 20
_LONGEST_LINGER: Final = timedelta(seconds=2)

_PENDING: Final = frozenset({Phase.NOT_READY, Phase.QUEUED, Phase.INITIALIZING})
_PENDING_LINGERS: Final = 40
_PENDING_APART: Final = timedelta(milliseconds=20)
"""A task that is about to run changes some times within a second or two, and of a crowd only few begin at once: what
is only on its way to run waits for so many lingers, and longer in a crowd. Most of it is never written."""
_PENDING_WRITES: Final = 40
_PENDING_WRITES_APART: Final = 3
_LONGEST_PENDING_S: Final = 30.0
"""Or for the time of so many writes, up to this: a server that is slow is not to be pressed by what does not matter."""
_LATEST_SHARE: Final = 0.1

_UNHEARD_RETRY: Final = timedelta(seconds=1)
_LONGEST_SINK_WAIT_S: Final = 5.0

_FLUSHERS: Final = 4
_WRITERS: Final = 256


class Publisher:
    """Owns the way of every task's events and status to the outside.

    Args:
        on_written: Called after each successful status write.
        on_vanished: Called when a TaskAction turns out to be gone.
        on_overtaken: Called with a TaskAction as read, whose status another engine has written since.

    Attributes:
        sink_problem: Why events can not be delivered at the moment; empty when they can.
    """

    def __init__(
        self,
        cluster: Cluster,
        sink: EventSink,
        config: EngineConfig,
        clock: Clock,
        timers: Timers[LiveTask],
        *,
        on_written: Callable[[LiveTask], None],
        on_vanished: Callable[[LiveTask], None],
        on_overtaken: Callable[[LiveTask, ObservedObject], None],
    ) -> None:
        self._cluster: Final = cluster
        self._sink: Final = sink
        self._config: Final = config
        self._clock: Final = clock
        self._timers: Final = timers
        self._linger: Final = timedelta(seconds=config.status_linger_s)
        self._on_written: Final = on_written
        self._on_vanished: Final = on_vanished
        self._on_overtaken: Final = on_overtaken
        self._next_pending = datetime.min.replace(tzinfo=UTC)
        self._write_s = 0.0
        """How long a write takes, a moving average."""
        self._to_send: Final[deque[LiveTask]] = deque()
        self._to_write: Final[deque[LiveTask]] = deque()
        self._send_more: Final = Signal()
        self._write_more: Final = Signal()
        self.sink_problem = ""

    async def run(self) -> None:
        """Works until cancelled; then everything unsent is in the status of its task, or will be made anew."""
        async with anyio.create_task_group() as tasks:
            for _ in range(_FLUSHERS):
                tasks.start_soon(self._flush_events)
            for _ in range(_WRITERS):
                tasks.start_soon(self._write_statuses)

    def changed(self, live: LiveTask, *, urgent: bool) -> None:
        """The task's state is to be written: at once, or after a short wait for further changes.

        A change that comes after a quiet time does not wait, but the first one, which only says
        that there is an object now. On the way to run there is no hurry: see ``_PENDING_LINGERS``.
        """
        now = self._clock.now()
        # Changes follow one another by some turns of the loop, which are long under load.
        linger = max(self._linger, min(self._timers.late_by * _LINGER_TURNS, _LONGEST_LINGER))
        is_quiet = live.written_at is not None and now - live.written_at >= linger
        # Of an object the name is known beforehand, so what was not written down is found again; of a job it is not.
        is_pending = live.object is not None and live.state.phase in _PENDING
        if urgent or not self._linger or (is_quiet and not is_pending):
            live.write_at = now
            self.due(live)
            return
        write_at = max(now + self._pending_linger, self._next_pending) if is_pending else now + linger
        if live.write_at is None or write_at < live.write_at:
            if is_pending:
                self._next_pending = write_at + max(
                    _PENDING_APART, timedelta(seconds=self._write_s * _PENDING_WRITES_APART)
                )
            live.write_at = write_at
            self._timers.set(live, write_at)

    @property
    def _pending_linger(self) -> timedelta:
        slow = timedelta(seconds=min(self._write_s * _PENDING_WRITES, _LONGEST_PENDING_S))
        return max(self._linger * _PENDING_LINGERS, slow)

    def due(self, live: LiveTask) -> None:
        """Starts the write whose time has come."""
        if live.write_at is None or live.write_at > self._clock.now() or live.is_writing:
            return
        live.write_at = None
        if live.unsent and not live.is_publishing:
            live.is_publishing = True
            self._to_send.append(live)
            self._send_more.give()
        if self._may_write(live):
            self._start_write(live)

    def _may_write(self, live: LiveTask) -> bool:
        """A final verdict waits for its events; everything else does only while the sink answers."""
        if not live.unsent:
            return True
        return (self.sink_problem != "" or live.is_unheard) and live.state.outcome is None

    def _start_write(self, live: LiveTask) -> None:
        if not live.is_writing and not live.is_durable and not live.is_dropped:
            live.is_writing = True
            self._to_write.append(live)
            self._write_more.give()

    # -- Events ------------------------------------------------------------------------------------

    async def _flush_events(self) -> None:
        while True:
            await self._send_more.wait_for(self._to_send)
            lives: list[LiveTask] = []
            batch: list[TaskEvent] = []
            while self._to_send and len(batch) < self._config.event_batch:
                live = self._to_send.popleft()
                lives.append(live)
                batch += live.unsent
            left = await self._record(lives, batch)
            sent = {id(event) for event in batch} - {id(event) for event in left}
            for live in lives:
                self._settle(live, sent, {id(event) for event in left})

    def _settle(self, live: LiveTask, sent: set[int], left: set[int]) -> None:
        """After a batch with events of this task was taken, perhaps without some."""
        live.is_publishing = False
        live.unsent = tuple([event for event in live.unsent if id(event) not in sent])
        live.is_unheard = any(id(event) in left for event in live.unsent)
        if live.is_unheard:
            if self._may_write(live):
                self._start_write(live)
            live.write_at = self._clock.now() + _UNHEARD_RETRY
            self._timers.set(live, live.write_at)
        elif live.unsent:
            live.is_publishing = True
            self._to_send.append(live)
            self._send_more.give()
        elif live.write_at is None or live.write_at <= self._clock.now():
            self._start_write(live)

    async def _record(self, lives: Sequence[LiveTask], batch: Sequence[TaskEvent]) -> Sequence[TaskEvent]:
        """Until the sink has them, but for those returned; meanwhile what is not final is written with its events."""
        tries = 0
        while True:
            problem, left = await self._problem_of(batch)
            if not problem:
                break
            tries += 1
            if not self.sink_problem:
                logger.warning("event sink failed", error=problem, events=len(batch))
            self.sink_problem = problem
            for live in (*lives, *self._to_send):
                if self._may_write(live):
                    self._start_write(live)
            await anyio.sleep(min(DELAY_BACKOFF.wait_s(tries), _LONGEST_SINK_WAIT_S))
        if self.sink_problem:
            logger.info("event sink answers again")
        self.sink_problem = ""
        return left

    async def _problem_of(self, batch: Sequence[TaskEvent]) -> tuple[str, Sequence[TaskEvent]]:
        """Hands the batch to the sink once; what was wrong, or nothing, and what is to be sent again later."""
        try:
            with anyio.fail_after(self._config.sink_timeout_s):
                await self._sink.record(batch)
        except NotAllRecordedError as error:
            return "", error.left
        except ApiError as error:
            return error.problem, ()
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, its events must not be lost
            return f"{type(error).__name__}: {error}", ()
        return "", ()

    # -- Status ------------------------------------------------------------------------------------

    async def _write_statuses(self) -> None:
        while True:
            await self._write_more.wait_for(self._to_write)
            live = self._to_write.popleft()
            await self._write(live)

    async def _write(self, live: LiveTask) -> None:
        if not self._may_write(live):  # the verdict came while this write was waiting
            live.is_writing = False
            self.due(live)
            return
        revision = live.revision
        identity = live.identity
        run_action = f"{identity.run}/{identity.action}"
        patch = status.to_patch(live.state, run_action, self._clock.now(), live.unsent, writer=live.writer)
        version = live.action.metadata.resource_version
        sent_s = anyio.current_time()
        try:
            answer = await self._cluster.patch(
                TASK_ACTION, *live.key, patch, subresource="status", resource_version=version
            )
        except NotFoundError:
            live.is_writing = False
            self._on_vanished(live)
            return
        except ConflictError as error:
            await self._compare(live, error)
            return
        except ApiError as error:
            self._retry(live, error)
            return
        self._write_s += (anyio.current_time() - sent_s - self._write_s) * _LATEST_SHARE
        live.learn_action(answer)
        live.failed_writes = 0
        live.written_at = self._clock.now()
        live.is_writing = False
        live.persisted = revision
        if not live.is_durable and live.write_at is None:
            live.write_at = self._clock.now()
        self._on_written(live)
        self.due(live)

    async def _compare(self, live: LiveTask, refused: ConflictError) -> None:
        """The object has changed: people may have touched it, or another engine drives it by now."""
        try:
            latest = await self._cluster.get(TASK_ACTION, *live.key)
        except NotFoundError:
            live.is_writing = False
            self._on_vanished(live)
            return
        except ApiError as error:
            self._retry(live, error)
            return
        if latest.metadata.uid != live.identity.uid or not live.is_own_status(latest):
            live.is_writing = False
            self._on_overtaken(live, latest)
            return
        is_news = version_of(latest) > version_of(live.action)
        live.learn_action(latest)
        if is_news:
            self._to_write.append(live)  # with the version that is there now
            self._write_more.give()
        else:
            self._retry(live, refused)

    def _retry(self, live: LiveTask, error: ApiError) -> None:
        live.is_writing = False
        live.failed_writes += 1
        logger.warning("status write failed", task=live.state.task, error=str(error), tries=live.failed_writes)
        wait_s = max(error.retry_after_s, DELAY_BACKOFF.wait_s(live.failed_writes))
        live.write_at = self._clock.now() + timedelta(seconds=wait_s)
        self._timers.set(live, live.write_at)


class Signal:
    """Wakes one waiter for each piece of work that is there."""

    # asyncio's futures, for every turn and every write waits here: an anyio.Event takes four times as long.

    def __init__(self) -> None:
        self._idle: Final[list[asyncio.Future[None]]] = []

    def give(self) -> None:
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def wait_for(self, work: Sized) -> None:
        """Returns once ``work`` is not empty; the caller takes of it before it awaits anything else."""
        while not work:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self.give()  # somebody else must take what this one was woken for
                raise


def keep_unsent(unsent: Sequence[TaskEvent], event: TaskEvent) -> Sequence[TaskEvent]:
    """Adds an event to those that wait; a full list loses the oldest news of a phase that went on."""
    longer = (*unsent, event)
    if len(longer) <= MAX_UNSENT:
        return longer
    victim = next((i for i, e in enumerate(longer) if e.error is None and not e.is_final), 0)
    return longer[:victim] + longer[victim + 1 :]
