"""The event sink of an engine without a control plane: a durable journal that programs can follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import anyio
import msgspec

from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.task_events import TaskEvent

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
        """Events after that sequence number as they come, for ever, each with its own number."""
        while True:
            more = self._more
            page = await self._cluster.events(after=after, key_prefix=key_prefix, limit=_PAGE)
            for entry in page:
                after = entry.seq
                yield entry.seq, _decoder.decode(entry.payload)
            if len(page) < _PAGE:
                await more.wait()

    async def recorded(self, *, after: int = 0, key_prefix: str = "") -> Sequence[TaskEvent]:
        """Everything that is there now."""
        found: list[TaskEvent] = []
        while True:
            page = await self._cluster.events(after=after, key_prefix=key_prefix, limit=_PAGE)
            found += [_decoder.decode(entry.payload) for entry in page]
            if len(page) < _PAGE:
                return found
            after = page[-1].seq

    async def forget(self, namespace: str, name: str) -> None:
        """Drops the events of a task that was deleted."""
        await self._cluster.forget_events(f"{namespace}/{name}/")
