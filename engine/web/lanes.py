"""Calls to external services: bounded per endpoint, paced per plugin, and never waited for by a round."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio
import anyio.abc

from propfan.engine.reconcile.publisher import Signal
from propfan.pluginmachinery.web_plugin import RateLimit

Call = Callable[[], Awaitable[None]]
"""Never raises but when it is cancelled."""

_LOOKS_AT_WORKERS: Final = 4
"""Times within the limit of a call at which workers are looked at: one that hangs is found a quarter late."""


class TokenBucket:
    """At most ``burst`` calls at once and ``qps`` a second in the long run."""

    def __init__(self, limit: RateLimit) -> None:
        self._per_s: Final = float(limit.qps)
        self._burst: Final = float(limit.burst)
        self._tokens = self._burst
        self._counted_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """Takes the next place; how long to wait for it. Places are given in the order of the calls."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._counted_s) * self._per_s)
        self._counted_s = now_s
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._per_s)


class _Worker:
    __slots__ = ("call", "on_overdue", "scope", "since_s")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.call: Call | None = None
        self.on_overdue: Callable[[], None] | None = None
        self.since_s = 0.0


class Lane:
    """One kind of call to one endpoint, in order, some at a time.

    Args:
        bucket: Shared by all lanes of a kind of one plugin.
        limit_s: A call that takes longer is cancelled.
    """

    def __init__(self, bucket: TokenBucket, workers: int, limit_s: float) -> None:
        self._bucket: Final = bucket
        self._limit_s: Final = limit_s
        self._most: Final = workers
        self._queue: Final[deque[tuple[Call, Callable[[], None]]]] = deque()
        self._work: Final = Signal()
        self._workers: Final[list[_Worker]] = []
        self._idle = 0
        self._resume_s = 0.0
        self._tasks: anyio.abc.TaskGroup | None = None

    def put(self, call: Call, on_overdue: Callable[[], None]) -> None:
        """Adds a call; ``on_overdue`` is called instead of its end when it had to be cancelled."""
        self._queue.append((call, on_overdue))
        self._work.give()
        if len(self._queue) > self._idle and len(self._workers) < self._most:
            self._hire()

    def pause(self, for_s: float) -> None:
        """The service wants to be asked less often: nothing is called for so long."""
        self._resume_s = max(self._resume_s, anyio.current_time() + for_s)

    def __len__(self) -> int:
        """Calls that have not begun."""
        return len(self._queue)

    async def run(self) -> None:
        """Works until cancelled. Workers come as they are needed, and stay."""
        async with anyio.create_task_group() as tasks:
            self._workers.clear()
            self._idle = 0
            self._tasks = tasks
            for _ in range(min(len(self._queue), self._most)):
                self._hire()
            try:
                await self._watch_over()
            finally:
                self._tasks = None

    def _hire(self) -> None:
        if self._tasks is not None:
            worker = _Worker()
            self._workers.append(worker)
            self._tasks.start_soon(self._serve, worker)

    async def _serve(self, worker: _Worker) -> None:
        while True:
            with anyio.CancelScope() as worker.scope:
                await self._work_off(worker)
            overdue, worker.call, worker.on_overdue = worker.on_overdue, None, None
            if overdue is not None:
                overdue()

    async def _work_off(self, worker: _Worker) -> None:
        while True:
            self._idle += 1
            try:
                await self._work.wait_for(self._queue)
            finally:
                self._idle -= 1
            call, on_overdue = self._queue.popleft()
            now_s = anyio.current_time()
            wait_s = max(self._bucket.wait_s(now_s), self._resume_s - now_s)
            if wait_s > 0:
                await anyio.sleep(wait_s)
                now_s = anyio.current_time()
            worker.call, worker.on_overdue, worker.since_s = call, on_overdue, now_s
            await call()
            worker.call = worker.on_overdue = None

    async def _watch_over(self) -> None:
        """One look at all workers instead of a timer for every call."""
        while True:
            await anyio.sleep(self._limit_s / _LOOKS_AT_WORKERS)
            oldest_s = anyio.current_time() - self._limit_s
            for worker in self._workers:
                if worker.call is not None and worker.since_s <= oldest_s:
                    worker.scope.cancel()


class Lanes:
    """The lanes of one plugin, made when an endpoint is first seen."""

    def __init__(self, *, reads: RateLimit, writes: RateLimit, workers: int, limit_s: float) -> None:
        self._reads: Final = TokenBucket(reads)
        self._writes: Final = TokenBucket(writes)
        self._make: Final = partial(Lane, workers=workers, limit_s=limit_s)
        self._of_endpoint: Final[dict[str, tuple[Lane, Lane]]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    def of(self, endpoint: str) -> tuple[Lane, Lane]:
        """For looks, and for creations and deletions."""
        lanes = self._of_endpoint.get(endpoint)
        if lanes is None:
            lanes = self._of_endpoint[endpoint] = self._make(self._reads), self._make(self._writes)
            if self._tasks is not None:
                for lane in lanes:
                    self._tasks.start_soon(lane.run)
        return lanes

    async def run(self) -> None:
        """Works until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                for lanes in self._of_endpoint.values():
                    for lane in lanes:
                        tasks.start_soon(lane.run)
                await anyio.sleep_forever()
            finally:
                self._tasks = None
