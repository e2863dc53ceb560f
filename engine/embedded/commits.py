"""Group commit: writes are in memory at once, and known to others once they are in the file.

One batch gathers all writes of a turn of the event loop and is committed at its end. Callers and
watches wait for that. When a commit fails, everything that is pending is taken back, for later
batches stand on the one that failed.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec

from propfan.engine.cluster import WatchEvent, WatchEventType
from propfan.engine.embedded.objects import StoredObject
from propfan.engine.embedded.store import Changes, ObjectRow, Store
from propfan.engine.embedded.tables import Table, Tables
from propfan.engine.embedded.watching import Change
from propfan.pluginmachinery.errors import UnavailableError

MAX_BATCH_WRITES: Final = 512
"""Writes in one commit: about 5 ms, after which the loop has its turn."""

CHECKPOINT_ABOVE_BYTES: Final = 32 * 2**20
"""Size of the WAL from which it is moved into the database."""

CHECKPOINT_RETRY_S: Final = 5.0
COLLECT_RETRY_S: Final = 1.0
"""Pause after deletions of garbage that could not be committed."""

_Result = TypeVar("_Result")


class Part(enum.Enum):
    """The largest part that a write changes. Metadata change with the body, but for the version with the status."""

    METADATA = enum.auto()
    BODY = enum.auto()
    STATUS = enum.auto()


class Write(msgspec.Struct, frozen=True, gc=False):
    """One change of one object. ``shown`` is what watches see; ``after`` is ``None`` when it goes."""

    table: Table
    before: StoredObject | None
    after: StoredObject | None
    shown: StoredObject
    part: Part


class Batch:
    """What is committed together, and who waits for it.

    Attributes:
        version: The last resourceVersion before it.
        ownerless: Uids of objects that the garbage collector is to look at, whatever comes of the batch.
    """

    __slots__ = ("events", "keys", "ownerless", "version", "waiting", "writes")

    def __init__(self, version: int) -> None:
        self.version = version
        self.writes: list[Write] = []
        self.keys: set[tuple[Table, str, str]] = set()
        self.events: list[tuple[str, bytes | None]] = []
        self.waiting: list[tuple[asyncio.Future[Any], object, str]] = []
        self.ownerless: list[str] = []


class Commits:
    """Writes to ``tables`` and ``store`` in batches.

    Attributes:
        version: The last resourceVersion given out, committed or not.
        pending: Batches that are not committed yet, oldest first.
        is_closed: No write is taken any more.
    """

    # asyncio's own primitives: a future carries each caller's answer or error at half of what a wait
    # on an anyio.Event costs, and anyio has nothing like call_soon to end a turn of the loop with.

    def __init__(self, store: Store, tables: Tables, collect: Callable[[Iterable[str], float], None]) -> None:
        self.version = store.version
        self.pending: deque[Batch] = deque()
        self.is_closed = False
        self._store = store
        self._tables = tables
        self._collect = collect
        self._loop = asyncio.get_running_loop()
        self._is_flush_due = False
        self._checkpoint: asyncio.Future[None] | None = None
        self._is_held = False
        """Nothing is committed for now: the WAL is being emptied."""
        self._no_checkpoint_before = 0.0

    @property
    def committed_version(self) -> int:
        return self._store.version

    def open_batch(self) -> Batch:
        if self.is_closed:
            raise UnavailableError("cluster", "it is closed")
        if not self.pending or len(self.pending[-1].writes) + len(self.pending[-1].events) >= MAX_BATCH_WRITES:
            self.pending.append(Batch(self.version))
            self._flush_soon()
        return self.pending[-1]

    def write(self, write: Write) -> Batch:
        """Applies a change whose resourceVersion is the next one."""
        batch = self.open_batch()
        self.version += 1
        self._tables.replace(write.table, write.before, write.after)
        batch.writes.append(write)
        metadata = write.shown.metadata
        batch.keys.add((write.table, metadata.namespace, metadata.name))
        return batch

    async def committed(self, batch: Batch, result: _Result, target: str) -> _Result:
        """Waits for the commit.

        Raises:
            UnavailableError: it failed, and nothing of it is left.
        """
        future: asyncio.Future[_Result] = self._loop.create_future()
        batch.waiting.append((future, result, target))
        return await future

    async def settled(self, table: Table, namespace: str, name: str) -> bool:
        """Waits until no write to the object is pending; whether one was."""
        key = (table, namespace, name)
        for batch in reversed(self.pending):
            if key in batch.keys:
                await self._joined(batch)
                return True
        return False

    def unseen(self, table: Table) -> dict[tuple[str, str], StoredObject | None]:
        """The objects with pending writes as they were committed last; ``None`` were not there."""
        return {
            write.shown.key: write.before
            for batch in reversed(self.pending)
            for write in reversed(batch.writes)
            if write.table is table
        }

    async def _joined(self, batch: Batch) -> None:
        try:
            await self.committed(batch, None, "")
        except UnavailableError:
            return  # taken back is settled too

    async def close(self) -> None:
        """Commits what is pending; no write is taken any more."""
        self.is_closed = True
        while self._checkpoint is not None:
            await asyncio.wait((self._checkpoint,))
        while self.pending:
            self._flush()

    def _flush_soon(self) -> None:
        if not self._is_flush_due and not self._is_held:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Commits the oldest batch and lets its callers and the watches know."""
        self._is_flush_due = False
        if self._is_held or not self.pending:
            return
        batch = self.pending[0]
        version = self.pending[1].version if len(self.pending) > 1 else self.version
        try:
            self._store.commit(self._changes(batch, version))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            self._take_back(error)
            return
        self.pending.popleft()
        if self.pending:
            self._flush_soon()
        self._publish(batch)
        if self._store.wal_bytes > CHECKPOINT_ABOVE_BYTES:
            self._begin_checkpoint()

    def _changes(self, batch: Batch, version: int) -> Changes:
        rows: dict[int, ObjectRow] = {}
        removed: list[int] = []
        for write in batch.writes if self._store.path is not None else ():
            before, after = write.before, write.after
            if after is None:
                rows.pop(write.shown.id, None)
                removed.append(write.shown.id)
                continue
            row = rows.get(after.id)
            if row is None:
                row = rows[after.id] = ObjectRow(after.id, write.table.stored_kind, 0, None, None, None)
            row.version = int(after.metadata.resource_version)
            if before is None or write.part is not Part.STATUS:
                row.metadata = after.raw[len(write.table.head) : after.body_at]
            if before is None or write.part is Part.BODY:
                row.body = after.body
            if before is None or write.part is Part.STATUS:
                row.status = after.status_member
        return Changes(list(rows.values()), removed, batch.events, version)

    def _publish(self, batch: Batch) -> None:
        histories = set()
        ownerless = batch.ownerless
        for write in batch.writes:
            before, after, shown = write.before, write.after, write.shown
            if after is None:
                event = WatchEvent(WatchEventType.DELETED, shown)
                ownerless.extend(self._tables.dependants(shown.metadata.uid))
            else:
                event = WatchEvent(WatchEventType.ADDED if before is None else WatchEventType.MODIFIED, shown)
            is_relabelled = before is not None and before.metadata.labels is not shown.metadata.labels
            history = write.table.history
            history.append(Change(int(shown.metadata.resource_version), event, before if is_relabelled else None))
            histories.add(history)
        for history in histories:
            history.published()
        for future, result, _ in batch.waiting:
            if not future.done():
                future.set_result(result)
        if ownerless:
            self._collect(ownerless, 0.0)

    def _take_back(self, cause: Exception) -> None:
        batches = list(self.pending)
        self.pending.clear()
        for batch in reversed(batches):
            for write in reversed(batch.writes):
                self._tables.replace(write.table, write.after, write.before)
        self.version = batches[0].version
        for batch in batches:
            for future, _, target in batch.waiting:
                if not future.done():
                    future.set_exception(UnavailableError(target, f"not written to {self._store.path}: {cause}"))
            if batch.ownerless:
                self._collect(batch.ownerless, COLLECT_RETRY_S)

    def _begin_checkpoint(self) -> None:
        """Empties the WAL without a pause of the loop: most beside the commits, the rest while they wait."""
        if self._checkpoint is None and self._loop.time() >= self._no_checkpoint_before and not self.is_closed:
            self._run_checkpoint("PASSIVE", self._after_passive)

    def _run_checkpoint(self, mode: str, then: Callable[[asyncio.Future[None]], None]) -> None:
        self._checkpoint = self._loop.run_in_executor(None, self._store.checkpoint, mode)
        self._checkpoint.add_done_callback(then)

    def _after_passive(self, done: asyncio.Future[None]) -> None:
        if done.exception() is None and not self.is_closed:
            self._is_held = True
            self._run_checkpoint("TRUNCATE", self._after_checkpoint)
        else:
            self._after_checkpoint(done)

    def _after_checkpoint(self, done: asyncio.Future[None]) -> None:
        """One that failed (a full disk, a reader in the way) costs space, and is tried again."""
        if done.exception() is not None:
            self._no_checkpoint_before = self._loop.time() + CHECKPOINT_RETRY_S
        self._checkpoint = None
        self._is_held = False
        if self.pending:
            self._flush_soon()
