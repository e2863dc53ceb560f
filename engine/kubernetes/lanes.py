"""Who may send a request next: bounded concurrency, turns between namespaces, a bounded rate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

LONGEST_HOLD_S: Final = 30.0
"""However long the server asks to be left alone, it is tried again after this."""


class Rate:
    """So many requests per second on average, and as many at once as a quiet time has left over.

    Args:
        qps: 0 is no limit.
    """

    def __init__(self, qps: float, burst: int) -> None:
        self._interval_s: Final = 1 / qps if qps else 0.0
        self._credit_s: Final = self._interval_s * (burst - 1)
        self._next_s = -math.inf
        """When the next request would be due, were there no bursts."""

    def take(self, now_s: float) -> float:
        """Counts one request; how many seconds it has to wait."""
        if not self._interval_s:
            return 0.0
        due_s = max(self._next_s, now_s - self._credit_s)
        self._next_s = due_s + self._interval_s
        return max(0.0, due_s - now_s)


class Lane:
    """Lets a bounded number of requests through at once. Those that wait take turns by group, oldest first."""

    def __init__(self, slots: int, rate: Rate) -> None:
        self._free = slots
        self._rate: Final = rate
        self._waiting: Final[dict[str, deque[anyio.Event]]] = {}
        """By group, in the order of their turns."""
        self._held_until_s = 0.0

    def hold(self, seconds: float) -> None:
        """Lets nobody through for so long: the server asked for it."""
        self._held_until_s = max(self._held_until_s, anyio.current_time() + min(seconds, LONGEST_HOLD_S))

    @asynccontextmanager
    async def slot(self, group: str) -> AsyncIterator[None]:
        """A place among those under way, once there is one and it is this group's turn."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(group)
        try:
            await self.pace()
            yield
        finally:
            self._leave()

    async def pace(self) -> None:
        """Waits until the rate and the server allow one more request."""
        pause_s = self._rate.take(anyio.current_time())
        if pause_s:
            await anyio.sleep(pause_s)
        while (held_s := self._held_until_s - anyio.current_time()) > 0:  # noqa: ASYNC110 - it may be prolonged
            await anyio.sleep(held_s)

    async def _turn(self, group: str) -> None:
        turn = anyio.Event()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._leave()
            else:
                self._waiting[group].remove(turn)
                if not self._waiting[group]:
                    del self._waiting[group]
            raise

    def _leave(self) -> None:
        """Hands the place to the first of the next group, which then goes to the end of the row."""
        if not self._waiting:
            self._free += 1
            return
        group = next(iter(self._waiting))
        waiting = self._waiting.pop(group)
        waiting.popleft().set()
        if waiting:
            self._waiting[group] = waiting
