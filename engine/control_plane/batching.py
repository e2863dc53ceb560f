"""Many small writes of one kind as few larger ones: what waits while one is under way goes together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import anyio

T = TypeVar("T")
R = TypeVar("R")


class _Entry(Generic[T, R]):
    __slots__ = ("error", "item", "result")

    def __init__(self, item: T) -> None:
        self.item = item
        self.result: list[R] = []
        self.error: BaseException | None = None


class Batches(Generic[T, R]):
    """Each caller gets the result of its own item.

    Args:
        write: Writes items, at least one, and returns a result for each; what it raises is raised to all their callers.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._write: Final = write
        self._turn: Final = anyio.Lock()
        self._waiting: list[_Entry[T, R]] = []

    async def put(self, item: T) -> R:
        """Returns when the item is written. Cancelled, it may be written all the same."""
        entry: _Entry[T, R] = _Entry(item)
        self._waiting.append(entry)
        async with self._turn:
            if not entry.result and entry.error is None:
                with anyio.CancelScope(shield=True):  # others wait for the same write
                    await self._write_all()
        if entry.error is not None:
            raise entry.error
        return entry.result[0]

    async def _write_all(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            results = await self._write([entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001  # raised to those who wait
            for entry in batch:
                entry.error = error
        else:
            for entry, result in zip(batch, results, strict=True):
                entry.result.append(result)
