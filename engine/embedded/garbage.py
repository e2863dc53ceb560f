"""The garbage collector: an object whose owners are all gone is deleted in the background."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from propfan.engine.embedded.objects import StoredObject
from propfan.engine.embedded.tables import Tables

MAX_AT_ONCE: Final = 128
"""Objects that are looked at in one turn of the loop."""


class GarbageCollector:
    def __init__(self, tables: Tables, delete: Callable[[StoredObject], None]) -> None:
        self._tables = tables
        self._delete = delete
        self._suspects: deque[str] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def suspect(self, uids: Iterable[str], delay_s: float = 0.0) -> None:
        """These may have lost their owners."""
        self._suspects.extend(uids)
        if self._suspects and self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._collect)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._suspects.clear()

    def _collect(self) -> None:
        self._timer = None
        for _ in range(min(len(self._suspects), MAX_AT_ONCE)):
            suspect = self._tables.by_uid.get(self._suspects.popleft())
            if suspect is not None and not self._tables.has_owner(suspect):
                self._delete(suspect)
        self.suspect(())
