"""The changes of one kind, and the watches that read them.

A watch is a position in the history, so a slow one costs no memory of its own: when the history
has gone on without it, it ends with ExpiredError, as with an API server.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from operator import attrgetter
from types import TracebackType
from typing import Final, Self

import msgspec

from propfan.engine.cluster import Kind, LabelSelector, ObjectMeta, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.embedded.objects import StoredObject, head, with_version
from propfan.engine.labels import requirements
from propfan.pluginmachinery.errors import ExpiredError

MAX_CHANGES: Final = 20_000
"""Changes of one kind that are kept; an API server keeps up to 102,400 of them in its cache."""

MAX_CHANGES_BYTES: Final = 24 * 2**20
"""Together with the objects in them, most of which the store no longer holds itself."""

MAX_BATCH: Final = 2_000
BOOKMARK_AFTER: Final = 1_000
"""Changes that do not match, after which a watch is told how far it is."""


class Selector:
    """Which objects of a kind are meant: of one namespace or all, with these labels.

    Raises:
        BadRequestError: a key or value can not be one of a label.
    """

    __slots__ = ("items", "namespace")

    def __init__(self, namespace: str, labels: LabelSelector | None) -> None:
        self.namespace = namespace
        self.items = requirements(labels)

    def matches(self, metadata: ObjectMeta) -> bool:
        if self.namespace and metadata.namespace != self.namespace:
            return False
        labels = metadata.labels
        for key, values in self.items:  # noqa: SIM110 - once for each change and watch; a generator takes thrice as long
            if labels.get(key) not in values:
                return False
        return True

    @property
    def is_everything(self) -> bool:
        return not self.namespace and not self.items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and (self.namespace, self.items) == (other.namespace, other.items)

    def __hash__(self) -> int:
        return hash((self.namespace, self.items))


class Change(msgspec.Struct, frozen=True, gc=False):
    """A write. ``before`` is the object before it, when its labels were others."""

    version: int
    event: WatchEvent
    before: StoredObject | None


class History:
    """The latest changes of one kind, oldest first. Positions count from the first change ever."""

    def __init__(self, version: int) -> None:
        self.changes: list[Change] = []
        self.first = 0
        self.compacted = version
        """Changes up to this resourceVersion are gone."""
        self.is_closed = False
        self._size_bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def end(self) -> int:
        return self.first + len(self.changes)

    def append(self, change: Change) -> None:
        self.changes.append(change)
        self._size_bytes += len(change.event.object.raw)

    def position_after(self, version: int) -> int:
        return self.first + bisect_right(self.changes, version, key=attrgetter("version"))

    def published(self) -> None:
        """Wakes the watches and forgets what is too much."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        # Trimmed by the quarter, for a list loses its head in linear time.
        if len(self.changes) > MAX_CHANGES * 5 // 4 or self._size_bytes > MAX_CHANGES_BYTES:
            self._trim()

    def _trim(self) -> None:
        count = max(len(self.changes) - MAX_CHANGES, 0)
        size = self._size_bytes - sum(len(change.event.object.raw) for change in self.changes[:count])
        while size > MAX_CHANGES_BYTES * 3 // 4:
            size -= len(self.changes[count].event.object.raw)
            count += 1
        self.compacted = self.changes[count - 1].version
        self.first += count
        self._size_bytes = size
        del self.changes[:count]

    def close(self) -> None:
        """Ends all watches."""
        self.is_closed = True
        self.published()

    async def wait(self) -> None:
        """Until there is a new change, or the history is closed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class Watch(AbstractAsyncContextManager["Watch"], AsyncIterator[Sequence[WatchEvent]]):
    """See ``Cluster.watch``. ``initial`` are the objects to begin with when no version is given."""

    def __init__(
        self,
        kind: Kind,
        history: History,
        selector: Selector,
        version: int,
        latest: int,
        initial: Sequence[StoredObject],
    ) -> None:
        self._kind = kind
        self._head = head(kind)
        self._history = history
        self._selector = selector
        self._version = version
        self._is_expired = not history.compacted <= version <= latest
        self._initial = [WatchEvent(WatchEventType.ADDED, stored) for stored in initial]
        self._position = history.position_after(version)
        self._skipped = 0
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Sequence[WatchEvent]:
        if self._initial:
            batch, self._initial = self._initial, []
            return batch
        while self._is_open:
            taken = self._take()
            if taken:
                return taken
            if self._position < self._history.end:
                continue
            if self._history.is_closed:
                break
            await self._history.wait()
        raise StopAsyncIteration

    def _take(self) -> Sequence[WatchEvent]:
        history = self._history
        if self._is_expired or self._position < history.first:
            raise ExpiredError(
                f"watch of {self._kind}",
                f"resourceVersion {self._version} is not in the history, which begins after {history.compacted}: "
                "list, then watch again",
            )
        start = self._position - history.first
        changes = history.changes[start : start + MAX_BATCH]
        if not changes:
            return ()
        self._position += len(changes)
        self._version = changes[-1].version
        if self._selector.is_everything:
            return [change.event for change in changes]
        events = self._selected(changes)
        self._skipped = 0 if events else self._skipped + len(changes)
        if self._skipped >= BOOKMARK_AFTER:
            self._skipped = 0
            metadata = ObjectMeta(resource_version=str(self._version))
            return [WatchEvent(WatchEventType.BOOKMARK, ObservedObject(self._kind, metadata, b""))]
        return events

    def _selected(self, changes: Sequence[Change]) -> Sequence[WatchEvent]:
        events = []
        matches = self._selector.matches
        for change in changes:
            event = change.event
            is_match = matches(event.object.metadata)
            if change.before is None:
                if is_match:
                    events.append(event)
            elif not matches(change.before.metadata):
                if is_match:
                    events.append(WatchEvent(WatchEventType.ADDED, event.object))
            elif is_match:
                events.append(event)
            else:
                gone = with_version(
                    change.before, self._head, event.object.metadata.resource_version, change.before.status_member
                )
                events.append(WatchEvent(WatchEventType.DELETED, gone))
        return events
