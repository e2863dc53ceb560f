"""The event sink of an engine without a control plane: a durable journal that programs can follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import anyio
import msgspec

from propfan.engine.cluster import ObjectMeta
from propfan.engine.embedded import EmbeddedCluster, JournalEvent
from propfan.engine.task_events import TaskEvent
from propfan.pluginmachinery.errors import DecodeError

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(TaskEvent)
_PAGE: Final = 1000


class JournalSink:
    """Keeps every event once, in the order of its arrival, in the embedded cluster's file."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster: Final = cluster
        self._more = anyio.Event()

    async def record(self, events: Sequence[TaskEvent]) -> None:
        await self._cluster.append_events([(event.key, _encoder.encode(event)) for event in events])
        self._more.set()
        self._more = anyio.Event()

    async def follow(self, *, after: int = 0, key_prefix: str = "") -> AsyncIterator[tuple[int, TaskEvent]]:
        """Events after that sequence number as they come, for ever, each with its own number.

        Raises:
            DecodeError: an event was written by another version of the engine.
        """
        while True:
            more = self._more
            page = await self._cluster.events(after=after, key_prefix=key_prefix, limit=_PAGE)
            for entry in page:
                after = entry.seq
                yield entry.seq, _event(entry)
            if len(page) < _PAGE:
                await more.wait()

    async def recorded(self, *, after: int = 0, key_prefix: str = "") -> Sequence[TaskEvent]:
        """Everything that is there now. Raises what ``follow`` does."""
        found: list[TaskEvent] = []
        while True:
            page = await self._cluster.events(after=after, key_prefix=key_prefix, limit=_PAGE)
            found += [_event(entry) for entry in page]
            if len(page) < _PAGE:
                return found
            after = page[-1].seq

    async def forget(self, task: ObjectMeta) -> None:
        """Drops the events of a task that is deleted; those of a new one under its name stay."""
        await self._cluster.forget_events(f"{task.namespace}/{task.name}/{task.uid}/")


def _event(entry: JournalEvent) -> TaskEvent:
    try:
        return _decoder.decode(entry.payload)
    except ValueError as error:
        raise DecodeError(f"event {entry.seq} ({entry.key}) of the journal", str(error)) from error
