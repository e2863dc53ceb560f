"""An event loop whose time is virtual: when nothing is ready it jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

START: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

MAX_TURNS: Final = 50_000
"""Turns of the loop without any time passing, after which somebody must be spinning."""


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set, or everything is ready for ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Has no file descriptors, threads or signals; ``on_idle`` is called before each jump."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._clock_resolution = 1e-9
        self._now = 0.0
        self._turns = 0
        self.on_idle: Callable[[], None] = lambda: None
        self.problems: Final[list[dict[str, Any]]] = []
        self.set_exception_handler(lambda _, context: self.problems.append(context))

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """What a selector would do, for the loop is its own."""
        if timeout is None:
            raise DeadlockError(f"nothing is ready and no timer is set at {self._now:.3f} s")
        if timeout > 0:
            self._turns = 0
            self.on_idle()
            self._now += timeout
            return []
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise DeadlockError(f"{MAX_TURNS} turns at {self._now:.3f} s: something spins without ever waiting")
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        return None

    def _write_to_self(self) -> None:
        return None


class VirtualClock:
    """The time of day, on a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop: Final = loop

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time())
