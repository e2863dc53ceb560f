"""One heap of deadlines for all tasks: a waiting task costs no work until its time comes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from propfan.engine.clock import Clock

_FEW: Final = 250

T = TypeVar("T")

_LONGEST_SLEEP_S: Final = 60.0
"""The wall clock may jump while we sleep on the monotonic one."""


class Alarm:
    """Ends one sleep, in time or before."""

    # asyncio's own parts: a cancel scope that times out costs thirty times as much, and every write of a task is timed.

    def __init__(self) -> None:
        self._sleeper: asyncio.Future[None] | None = None

    async def sleep(self, longest_s: float) -> None:
        """Returns when it rings, or after so long."""
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_later(longest_s, self.ring)
        try:
            await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    def ring(self) -> None:
        """Of no effect when nobody sleeps."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


class Timers(Generic[T]):
    """Calls ``on_due(item)`` at or after each time that was set for it.

    Times are not taken back: an item whose plans changed looks, when called, whether it is due.

    Args:
        is_wanted: Whether an item still needs its times. Others are let go in bulk: see ``abandoned``.
        grain_s: What is due within so long is called together. Not 0: an event loop that counts in
            milliseconds would come round many times for the last one.
    """

    def __init__(
        self, clock: Clock, on_due: Callable[[T], None], is_wanted: Callable[[T], bool], grain_s: float = 0.001
    ) -> None:
        self._clock: Final = clock
        self._on_due: Final = on_due
        self._is_wanted: Final = is_wanted
        self._grain_s: Final = grain_s
        self._abandoned = 0
        self.late_by = timedelta(0)
        """How much later than planned the latest call was: the time that the loop takes to come round."""
        self._heap: Final[list[tuple[datetime, int, T]]] = []
        self._order: Final = itertools.count()
        self._alarm: Final = Alarm()

    def set(self, item: T, when: datetime) -> None:
        if not self._heap or when < self._heap[0][0]:
            self._alarm.ring()
        heapq.heappush(self._heap, (when, next(self._order), item))

    def abandoned(self) -> None:
        """One more item is not wanted any more. The heap is cleared of them when they may be most of it."""
        self._abandoned += 1
        if self._abandoned > max(len(self._heap) // 2, _FEW):
            self._heap[:] = [entry for entry in self._heap if self._is_wanted(entry[2])]
            heapq.heapify(self._heap)
            self._abandoned = 0

    def __len__(self) -> int:
        return len(self._heap)

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            now = self._clock.now()
            if self._heap and self._heap[0][0] <= now:
                self.late_by = now - self._heap[0][0]
            while self._heap and self._heap[0][0] <= now:
                self._on_due(heapq.heappop(self._heap)[2])
            wait_s = _LONGEST_SLEEP_S
            if self._heap:
                wait_s = min(wait_s, max(self._grain_s, (self._heap[0][0] - self._clock.now()).total_seconds()))
            await self._alarm.sleep(wait_s)
