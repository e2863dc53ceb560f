"""Work that goes on when the call that began it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_KEPT: Final = 1000
"""Ends that are remembered, so that who asks soon again is answered without work."""


class Underway(Generic[T]):
    """Work by name: who asks for a name that is there already joins it. Belongs to one event loop.

    It spares work and keeps it from being done twice at once; what was done must be found without it.
    """

    def __init__(self) -> None:
        self._tasks: Final[dict[str, asyncio.Task[T]]] = {}

    def begin(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Begins the work of that name if there is none, or if it failed."""
        task = self._tasks.get(name)
        if task is not None and not (task.done() and (task.cancelled() or task.exception() is not None)):
            return
        for old in [key for key, each in self._tasks.items() if each.done()][:-_KEPT]:
            del self._tasks[old]
        # No task group lives from here to `close`, which ends what is left.
        task = self._tasks[name] = asyncio.create_task(work())  # noqa: TID251
        task.add_done_callback(_retrieve)

    async def join(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work answers or raises; it goes on when this call is cancelled."""
        self.begin(name, work)
        return await asyncio.shield(self._tasks[name])

    def find(self, name: str) -> asyncio.Task[T] | None:
        return self._tasks.get(name)

    def forget(self, name: str) -> None:
        """Ends it, if there is any."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Ends all, and returns when they have."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to ask how it ended, which is no fault."""
    if not task.cancelled():
        task.exception()
