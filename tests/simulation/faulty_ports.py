"""The event sink and the object store as one life of the engine sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio

from propfan.engine.task_events import TaskEvent
from propfan.pluginmachinery.errors import StorageError
from propfan.pluginmachinery.testing.fakes import InMemoryStore
from tests.simulation.life import Life


class Record:
    """What the control plane knows: outlives every engine.

    Attributes:
        events: By key, as first told.
        finals: Keys of the final events of each task, by uid, in the order of their arrival, each with the
            life that told it.
        lives: Which life told an event, by its key.
        contradictions: Keys that were told again with another content.
    """

    def __init__(self) -> None:
        self.events: Final[dict[str, TaskEvent]] = {}
        self.finals: Final[dict[str, list[tuple[str, int]]]] = {}
        self.contradictions: Final[list[tuple[TaskEvent, TaskEvent, int, int]]] = []
        self.lives: Final[dict[str, int]] = {}

    def add(self, event: TaskEvent, life: int) -> None:
        known = self.events.get(event.key)
        if known is not None:
            if _what_matters(known) != _what_matters(event):
                self.contradictions.append((known, event, self.lives[event.key], life))
            return
        self.events[event.key] = event
        self.lives[event.key] = life
        if event.is_final:
            self.finals.setdefault(event.uid, []).append((event.key, life))


def _what_matters(event: TaskEvent) -> object:
    """All but what a repeat after a restart can not know any more."""
    return event.attempt, event.phase, event.version, event.is_final, event.error, event.reason


class FaultySink:
    def __init__(self, record: Record, life: Life) -> None:
        self._record: Final = record
        self._life: Final = life

    async def record(self, events: Sequence[TaskEvent]) -> None:
        life = self._life
        faults, dice = life.faults, life.dice

        async def action() -> None:
            for event in events:
                self._record.add(event, life.number)

        def before(number: int) -> Exception | None:
            if life.is_down("sink"):
                return OSError("simulated: sink is down")
            if life.is_troubled and dice.chance(faults.sink_error / 2, "sink", life.number, number):
                return RuntimeError("simulated: not recorded")
            return None

        def after(number: int) -> Exception | None:
            if life.is_troubled and dice.chance(faults.sink_error / 2, "sink", life.number, number, "after"):
                return RuntimeError("simulated: recorded, but nobody was told")
            return None

        what = ("slow sink", life.number, events[0].key)
        if life.is_troubled and dice.chance(faults.sink_slow, *what):
            await anyio.sleep(dice.uniform(0.0, 60.0, *what, "for"))
        names = ", ".join(f"{e.name}/{e.attempt}/{e.plugin_phase.name}/{e.version}" for e in events)
        await life.call(f"record {names}", action, before=before, after=after)


class FaultyStore:
    """A ``DataStore``."""

    def __init__(self, truth: InMemoryStore, life: Life) -> None:
        self._truth: Final = truth
        self._life: Final = life

    async def get(self, path: str, *, limit_bytes: int | None = None) -> bytes:
        return await self._life.call(
            f"read {path}", lambda: self._truth.get(path, limit_bytes=limit_bytes), before=self._fault(path)
        )

    async def put(self, path: str, content: bytes) -> None:
        await self._life.call(f"store {path}", lambda: self._truth.put(path, content), before=self._fault(path))

    async def size(self, path: str) -> int | None:
        return await self._life.call(f"size {path}", lambda: self._truth.size(path), before=self._fault(path))

    def _fault(self, path: str) -> Callable[[int], Exception | None]:
        life = self._life

        def before(number: int) -> Exception | None:
            if life.is_down("store"):
                return StorageError(path, "simulated outage")
            if life.is_troubled and life.dice.chance(life.faults.store_error, "store", life.number, number):
                return StorageError(path, "simulated")
            return None

        return before
