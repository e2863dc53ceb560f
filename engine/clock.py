"""The time, as something that can be replaced."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Gives the time of day, in UTC. Waiting is ``anyio.sleep``'s, on the event loop's own time."""

    def now(self) -> datetime: ...


class SystemClock:
    # No function of ours in between: this is called some thirty times for each task.
    now = staticmethod(partial(datetime.now, UTC))
