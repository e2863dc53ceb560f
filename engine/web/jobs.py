"""The live jobs of all web API plugins: one heap says when each is looked at, and only news are passed on."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import anyio.abc
import structlog

from propfan.engine.clock import Clock
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.timers import Timers
from propfan.engine.web.lanes import Lane, Lanes
from propfan.pluginmachinery.entries import LoadedWebPlugin
from propfan.pluginmachinery.errors import TransientError, UnansweredError
from propfan.pluginmachinery.web_plugin import AsyncWebPlugin, Background, CreatedResource, Pace

logger = structlog.get_logger(__name__)

_FIRST_LOOK_S: Final = 1.0
"""A young job is looked at after 1, 3, 9 ... seconds, until that is its interval: many are short."""

_GRAIN_S: Final = 0.01
"""Jobs that are due within so long are looked at together."""

_LONGEST_WAIT_S: Final = 300.0
"""Between two looks that fail."""

_GONE: Final = "the task is gone"
_FORGOTTEN_TRIES: Final = 3
_FORGOTTEN_WAIT_S: Final = 5.0

T = TypeVar("T")

Poke = Callable[[LiveTask], None]


class Answer:
    """What a call brought: a value, or an error."""

    __slots__ = ("error", "kind", "value")

    def __init__(self, kind: str, value: Any = None, error: Exception | None = None) -> None:
        self.kind: Final = kind
        self.value: Final = value
        self.error: Final = error


class Job:
    """One job as this process knows it.

    Attributes:
        idempotency_key: Of the launch that it belongs to.
        meta: ``None`` until it is known.
        may_exist: ``create`` was called, by this process or an earlier one, and the answer is not known.
        busy: Kind of the call that is under way or waits for its turn; empty when there is none.
        answer: What the task's next round has to deal with.
        seen: What the last look brought that was dealt with.
        failures: Looks in a row that failed.
        is_watched: It is looked at from time to time.
        is_noted: Its task says that looks fail: the next good one is news.
        is_kept: Still somebody's. What is not is called for no more.
        is_orphan: Its task is gone, not just driven by another engine: whatever exists is deleted.
    """

    __slots__ = (
        "answer", "busy", "failures", "idempotency_key", "interval", "is_kept", "is_noted", "is_orphan",
        "is_watched", "live", "looks", "may_exist", "meta", "plugin", "reads", "seen", "writes",
    )  # fmt: skip

    def __init__(self, live: LiveTask, plugin: JobsOfPlugin, key: str, pace: Pace) -> None:
        self.live: Final = live
        self.plugin: Final = plugin
        self.idempotency_key: Final = key
        lanes: tuple[Lane, Lane] = plugin.lanes.of(pace.endpoint)
        self.reads: Final = lanes[0]
        self.writes: Final = lanes[1]
        self.interval: Final = plugin.interval if pace.interval is None else timedelta(seconds=pace.interval.seconds)
        self.meta: bytes | None = None
        self.may_exist = False
        self.busy = ""
        self.answer: Answer | None = None
        self.seen: Any = None
        self.failures = 0
        self.looks = 0
        self.is_watched = False
        self.is_noted = False
        self.is_kept = True
        self.is_orphan = False

    def is_wanted(self) -> bool:
        """Whether it is still looked at."""
        return self.is_kept and not self.live.is_dropped


class JobsOfPlugin:
    """What all jobs of one plugin share."""

    def __init__(self, loaded: LoadedWebPlugin, limit_s: float) -> None:
        self.loaded: Final = loaded
        self.plugin: Final[Any] = loaded.plugin
        config = loaded.config
        self.interval: Final = timedelta(seconds=config.caching.resync_interval.seconds)
        self.lanes: Final = Lanes(
            reads=config.read_rate_limiter,
            writes=config.write_rate_limiter,
            workers=config.caching.workers,
            limit_s=limit_s,
        )


class Jobs:
    """Looks at every live job in time, and makes the calls that rounds ask for.

    Args:
        limit_s: A call that takes longer is cancelled, whatever the plugin's own limits are.
    """

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock: Final = clock
        self._limit_s: Final = limit_s
        self._timers: Final[Timers[Job]] = Timers(clock, self._on_due, Job.is_wanted, _GRAIN_S)
        self._plugins: Final[dict[str, JobsOfPlugin]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._poke: Poke | None = None

    def of_plugin(self, loaded: LoadedWebPlugin) -> JobsOfPlugin:
        """Made when it is first asked for."""
        known = self._plugins.get(loaded.entry.id)
        if known is None:
            known = self._plugins[loaded.entry.id] = JobsOfPlugin(loaded, self._limit_s)
            self._start(known)
        return known

    async def run(self, poke: Poke) -> None:
        """Works until cancelled.

        Args:
            poke: Called with a task whose job has an answer; a round of it takes that.
        """
        self._poke = poke
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                for plugin in self._plugins.values():
                    self._start(plugin)
                await self._timers.run()
            finally:
                self._tasks = None

    def _start(self, plugin: JobsOfPlugin) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(plugin.lanes.run)
            if isinstance(plugin.plugin, Background):
                self._tasks.start_soon(_in_background, plugin.loaded.entry.id, plugin.plugin)

    def wake(self, live: LiveTask) -> None:
        """Calls for a round of a task."""
        if self._poke is not None:
            self._poke(live)

    # -- Calls that rounds ask for -----------------------------------------------------------------

    def call(self, job: Job, kind: str, make: Callable[[], Awaitable[Any]]) -> None:
        """Makes one call in its turn; its answer calls for a round."""
        job.busy = kind
        job.writes.put(partial(self._call, job, kind, make), partial(self._call_overdue, job, kind))

    async def _call(self, job: Job, kind: str, make: Callable[[], Awaitable[Any]]) -> None:
        if not job.is_kept and kind != "delete":  # given up before its turn came
            job.busy = ""
            return
        job.may_exist = job.may_exist or kind == "create"
        try:
            answer = Answer(kind, await make())
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is this job's alone
            answer = Answer(kind, error=error)
            if isinstance(error, TransientError) and error.retry_after_s > 0 and error.is_for_all:
                job.writes.pause(error.retry_after_s)
        self._answered(job, answer)

    def _call_overdue(self, job: Job, kind: str) -> None:
        self._answered(job, Answer(kind, error=self._overdue(kind)))

    def _answered(self, job: Job, answer: Answer) -> None:
        job.busy = ""
        if job.is_kept:
            job.answer = answer
            self.wake(job.live)
        elif job.is_orphan and answer.kind == "create" and isinstance(answer.value, CreatedResource):
            self.forsake(job, answer.value.meta)

    def forsake(self, job: Job, meta: bytes) -> None:
        """Deletes a job whose task is gone, as well as that goes; what does not is logged."""
        plugin: AsyncWebPlugin[Any] = job.plugin.plugin

        async def delete() -> None:
            for tries in range(1, _FORGOTTEN_TRIES + 1):
                try:
                    await plugin.delete(meta, _GONE)
                except Exception as error:  # noqa: BLE001 - there is nobody left to tell
                    logger.warning("job can not be deleted", task=str(job.live.key), error=str(error), tries=tries)
                    await anyio.sleep(_FORGOTTEN_WAIT_S)
                else:
                    return

        job.writes.put(delete, lambda: logger.warning("job can not be deleted in time", task=str(job.live.key)))

    # -- Looks -------------------------------------------------------------------------------------

    def look_after(self, job: Job, *, is_old: bool = False) -> None:
        """Begins to look at a job. Old ones, of which there are many after a restart, are spread over their interval."""
        if job.is_watched:
            return
        job.is_watched = True
        if is_old:
            share = (zlib.crc32(job.idempotency_key.encode()) & 0xFFFF) / 0x10000
            job.looks = 64
            self._look_in(job, job.interval * share)
        else:
            self._look_again(job)

    def look_on(self, job: Job) -> None:
        """The answer was dealt with: the next look is due in its time."""
        job.answer = None
        if job.is_kept:
            self._look_again(job)

    def drop(self, job: Job) -> None:
        """It is nobody's any more."""
        if job.is_kept:
            job.is_kept = False
            job.answer = None
            self._timers.abandoned()

    def _look_again(self, job: Job) -> None:
        if job.failures:
            wait_s = _FIRST_LOOK_S if job.failures == 1 else job.interval.total_seconds() * 2 ** (job.failures - 2)
            self._look_in(job, timedelta(seconds=min(wait_s, _LONGEST_WAIT_S)))
            return
        wait = job.interval
        if job.looks < 16:
            wait = min(wait, timedelta(seconds=_FIRST_LOOK_S * 3**job.looks))
            job.looks += 1
        self._look_in(job, wait)

    def _look_in(self, job: Job, wait: timedelta) -> None:
        self._timers.set(job, self._clock.now() + wait)

    def _on_due(self, job: Job) -> None:
        if not job.is_wanted() or job.busy or job.answer is not None:
            return
        job.busy = "look"
        job.reads.put(partial(self._look, job), partial(self._look_overdue, job))

    async def _look(self, job: Job) -> None:
        if not self._is_looking(job):
            return
        try:
            resource = await job.plugin.plugin.get(job.meta)
        except Exception as error:  # noqa: BLE001 - as above
            self._look_failed(job, error)
            return
        if not self._is_looking(job):
            return
        job.busy = ""
        if resource == job.seen and not job.is_noted:
            job.failures = 0
            self._look_again(job)
        else:
            job.answer = Answer("look", resource)
            self.wake(job.live)

    @staticmethod
    def _is_looking(job: Job) -> bool:
        """Whether anybody waits for this look: its task may be gone, or have called for something else meanwhile."""
        return job.busy == "look" and job.is_wanted()

    def _look_overdue(self, job: Job) -> None:
        self._look_failed(job, self._overdue("look"))

    def _look_failed(self, job: Job, error: Exception) -> None:
        if not self._is_looking(job):
            return
        job.busy = ""
        if isinstance(error, TransientError) and error.retry_after_s > 0:
            if error.is_for_all:
                job.reads.pause(error.retry_after_s)
            self._look_in(job, max(job.interval, timedelta(seconds=error.retry_after_s)))
            return
        job.answer = Answer("look", error=error)
        self.wake(job.live)

    def _overdue(self, kind: str) -> Exception:
        return UnansweredError("", f"{kind}: no answer within {self._limit_s:g} s")


async def _in_background(plugin: str, work: Background) -> None:
    """A plugin whose background work fails is started again: the others go on."""
    while True:
        try:
            await work.run()
        except Exception:
            logger.exception("background work failed, starting it again", plugin=plugin)
        await anyio.sleep(_FORGOTTEN_WAIT_S)
