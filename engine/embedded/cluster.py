"""The cluster in process. See ``propfan.engine.cluster.Cluster`` for what each call promises.

A write is validated and applied in memory at once, and committed at the end of the event loop's
turn (``commits``). Until then nobody sees it: its caller and the watches wait for the commit, and
so does whoever reads an object that is being written.

A cluster belongs to the event loop that opened it, which must be asyncio's.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import anyio
import anyio.to_thread
import msgspec

from propfan.engine.cluster import POD, Kind, LabelSelector, ObjectList, ObjectMeta, ObservedObject
from propfan.engine.embedded import admission, deletion, objects, patching
from propfan.engine.embedded.commits import Batch, Commits, Part, Write
from propfan.engine.embedded.garbage import GarbageCollector
from propfan.engine.embedded.objects import StoredObject
from propfan.engine.embedded.patching import Revision
from propfan.engine.embedded.snapshots import Snapshots
from propfan.engine.embedded.store import JournalEvent, Store, damaged
from propfan.engine.embedded.tables import Table, Tables
from propfan.engine.embedded.watching import Selector, Watch
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

_PENDING: Final = b',"status":{"phase":"Pending"}'
"""The status that a pod is created with."""


class EmbeddedCluster:
    """A ``Cluster`` in process, with the journal of events beside the objects."""

    def __init__(self, store: Store, clock: Callable[[], datetime], new_uid: Callable[[], str]) -> None:
        self._store = store
        self._clock = clock
        self._new_uid = new_uid
        self._second = objects.seconds(clock())
        self._tables = Tables(store.version)
        self._admission = admission.Admission()
        self._snapshots = Snapshots()
        self._garbage = GarbageCollector(self._tables, self._delete_garbage)
        self._commits = Commits(store, self._tables, self._garbage.suspect)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_uid: Callable[[], str] | None = None,
    ) -> AsyncIterator[Self]:
        """A cluster with what the file holds; without a path it is empty and leaves nothing behind.

        Args:
            path: The database; its folder is made when missing.
            clock: For timestamps.
            new_uid: For uids; random UUIDs by default.

        Raises:
            ConfigError: the file can not be used; it is left as it was.
        """
        # A store in memory does no I/O that would be worth a thread.
        store = Store.open(None) if path is None else await anyio.to_thread.run_sync(Store.open, path)
        try:
            cluster = cls(store, clock, new_uid or _RandomUids())
            cluster._load()
            try:
                yield cluster
            finally:
                with anyio.CancelScope(shield=True):
                    await cluster._close()
        finally:
            store.close()

    # Reads

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        table = self._tables.table(kind)
        if self._commits.pending:
            await self._commits.settled(table, namespace, name)
        stored = table.get(namespace, name)
        return stored if stored is not None else _not_found(kind, namespace, name)

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> ObjectList:
        """All pages are of the moment of the first one. A ``limit`` of 0 is none."""
        selector = Selector(namespace, labels)
        if continue_token:
            return self._snapshots.page(kind, selector, limit, continue_token, self._clock())
        table = self._tables.table(kind)
        found = table.select(selector, self._commits.unseen(table))
        version = self._commits.committed_version
        return self._snapshots.first_page(kind, selector, limit, found, version, self._clock())

    def watch(
        self, kind: Kind, *, namespace: str = "", labels: LabelSelector | None = None, resource_version: str
    ) -> Watch:
        """Without a version, or from ``0``, it begins with all objects as added.

        Raises:
            BadRequestError: ``resource_version`` is not one.
        """
        table = self._tables.table(kind)
        selector = Selector(namespace, labels)
        latest = self._commits.committed_version
        if resource_version in ("", "0"):
            initial = table.select(selector, self._commits.unseen(table))
            return Watch(kind, table.history, selector, latest, latest, initial)
        if not resource_version.isascii() or not resource_version.isdigit():
            raise BadRequestError(f"watch of {kind}", f"resourceVersion {resource_version!r} is not a number")
        return Watch(kind, table.history, selector, int(resource_version), latest, ())

    # Writes

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        sent = objects.parse(kind, body)
        metadata = sent.metadata
        name, namespace = metadata.name or "", metadata.namespace or ""
        admission.name(kind, namespace, name)
        target = f"{kind.kind} {namespace}/{name}"
        if metadata.resource_version:
            raise BadRequestError(target, "metadata.resourceVersion: must not be set on an object to create")
        labels = self._admission.labels(target, metadata.labels)
        annotations = self._admission.annotations(target, metadata.annotations)
        finalizers = self._admission.finalizers(target, metadata.finalizers)
        owners = self._tables.shared(self._admission.owners(target, metadata.owner_references))
        table = self._tables.table(kind)
        while (existing := table.get(namespace, name)) is not None:
            if not await self._commits.settled(table, namespace, name):
                state = "is still being deleted" if existing.metadata.deletion_timestamp else "exists already"
                raise AlreadyExistsError(target, state)
        version = self._commits.version + 1
        stored = objects.assemble(
            kind,
            table.head,
            version,
            ObjectMeta(
                name,
                self._admission.shared(namespace),
                self._new_uid(),
                str(version),
                1,
                self._now(),
                labels=labels,
                annotations=annotations,
                owner_references=owners,
                finalizers=finalizers,
            ),
            sent.body,
            _PENDING if kind == POD else b"",
        )
        admission.size(target, stored.raw)
        batch = self._commits.write(Write(table, None, stored, stored, Part.BODY))
        if owners and not self._tables.has_owner(stored):
            batch.ownerless.append(stored.metadata.uid)
        return await self._commits.committed(batch, stored, target)

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Mapping[str, Any] | msgspec.Struct,
        *,
        subresource: str = "",
        resource_version: str = "",
    ) -> ObservedObject:
        """A patch that changes nothing is no write.

        ``metadata.resourceVersion`` and ``metadata.uid`` in the patch are conditions. Other members
        that the server sets (``creationTimestamp``, ``generation`` …) are ignored.

        Raises:
            NotFoundError: there is no such object or subresource.
            ConflictError: it is not the version that was given.
            InvalidError: it has another uid, or can never be as the patch makes it.
            BadRequestError, TooLargeError: never as it is.
            UnavailableError: try again.
        """
        target = f"{kind.kind} {namespace}/{name}"
        if subresource not in ("", "status"):
            raise NotFoundError(target, f"there is no subresource {subresource!r}")
        members = objects.parse_patch(target, patch)
        table = self._tables.table(kind)
        while True:
            try:
                before = table.get(namespace, name) or _not_found(kind, namespace, name)
                if resource_version or "metadata" in members:
                    patching.check_conditions(before, members, resource_version, target)
                write = self._patched(table, before, members, subresource, target)
            except ApiError:
                if await self._commits.settled(table, namespace, name):
                    continue
                raise
            if write is not None:
                return await self._commits.committed(self._commits.write(write), write.shown, target)
            if not await self._commits.settled(table, namespace, name):
                return before

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        target = f"{kind.kind} {namespace}/{name}"
        table = self._tables.table(kind)
        while True:
            try:
                before = table.get(namespace, name) or _not_found(kind, namespace, name)
                if uid and uid != before.metadata.uid:
                    raise ConflictError(target, f"its uid is {before.metadata.uid}, not {uid}")
            except ApiError:
                if await self._commits.settled(table, namespace, name):
                    continue
                raise
            batch = self._delete(table, before, grace_period_s)
            if batch is not None:
                await self._commits.committed(batch, None, target)
                return
            if not await self._commits.settled(table, namespace, name):
                return

    # The journal of events

    async def append_events(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Appends each event whose key is not there yet, in order, durably.

        Raises:
            InvalidError: a key has a character that is not Unicode.
            UnavailableError: none was; try again.
        """
        for key, _ in events:
            if not key.isascii():
                _check_unicode(key)
        if events:
            batch = self._commits.open_batch()
            batch.events += events
            await self._commits.committed(batch, None, f"events {events[0][0]} …")

    async def forget_events(self, key_prefix: str) -> None:
        """Removes all events whose keys begin so.

        Raises:
            UnavailableError: none was; try again.
        """
        batch = self._commits.open_batch()
        batch.events.append((key_prefix, None))
        await self._commits.committed(batch, None, f"events {key_prefix}")

    async def events(self, *, after: int = 0, key_prefix: str = "", limit: int = 1000) -> Sequence[JournalEvent]:
        """The first ``limit`` events after that sequence number whose keys begin so, in order.

        Raises:
            UnavailableError: the file can not be read.
        """
        try:
            return self._store.events(after, key_prefix, limit)
        except sqlite3.Error as error:
            raise UnavailableError(f"events {key_prefix}", f"{self._store.path} can not be read: {error}") from error

    def _now(self) -> datetime:
        """As precise as ``metav1.Time``; objects of one second share it."""
        now = objects.seconds(self._clock())
        if now != self._second:
            self._second = now
        return self._second

    def _patched(
        self, table: Table, before: StoredObject, patch: patching.Members, subresource: str, target: str
    ) -> Write | None:
        """``None`` when nothing changes."""
        if subresource:
            revision, part = patching.revise_status(before, patch, target), Part.STATUS
        else:
            revision, part = patching.revise(before, patch, self._admission, target), Part.METADATA
        if revision is None:
            return None
        if revision.body is not None:
            part = Part.BODY
        after = revision.apply(before, table.head, str(self._commits.version + 1))
        admission.size(target, after.raw)
        is_gone = bool(before.metadata.finalizers) and deletion.is_due(after.metadata)
        return Write(table, before, None if is_gone else after, after, part)

    def _delete(self, table: Table, before: StoredObject, grace_period_s: int | None) -> Batch | None:
        """``None`` when it is being deleted already."""
        metadata = deletion.marked(before, grace_period_s, self._clock())
        is_gone = deletion.is_due(metadata)
        if metadata is before.metadata and not is_gone:
            return None
        if is_gone:
            metadata = before.metadata
        shown = Revision(metadata).apply(before, table.head, str(self._commits.version + 1))
        return self._commits.write(Write(table, before, None if is_gone else shown, shown, Part.METADATA))

    def _delete_garbage(self, garbage: StoredObject) -> None:
        batch = self._delete(self._tables.table(garbage.kind), garbage, None)
        if batch is not None:
            batch.ownerless.append(garbage.metadata.uid)

    def _load(self) -> None:
        kinds: dict[str, Kind] = {}
        try:
            for row in self._store.load():
                kind = kinds.get(row.kind)
                if kind is None:
                    kind = kinds[row.kind] = msgspec.json.decode(row.kind, type=Kind)
                table = self._tables.table(kind)
                sent = objects.decode_metadata(row.metadata or b"")
                metadata = msgspec.structs.replace(
                    sent,
                    resource_version=str(max(row.version, int(sent.resource_version))),
                    namespace=self._admission.shared(sent.namespace),
                    labels=self._admission.labels("", sent.labels),
                    annotations=sent.annotations or admission.EMPTY,
                    owner_references=self._tables.shared(self._admission.owners("", sent.owner_references)),
                    finalizers=self._admission.finalizers("", sent.finalizers),
                )
                stored = objects.assemble(kind, table.head, row.id, metadata, row.body or b"", row.status or b"")
                self._tables.replace(table, None, stored)
        except (msgspec.MsgspecError, InvalidError, ValueError) as error:
            raise damaged(self._store.path, error) from error
        self._garbage.suspect(uid for uid, stored in self._tables.by_uid.items() if not self._tables.has_owner(stored))

    async def _close(self) -> None:
        self._garbage.close()
        await self._commits.close()
        for table in self._tables.by_kind.values():
            table.history.close()


def _not_found(kind: Kind, namespace: str, name: str) -> NoReturn:
    raise NotFoundError(f"{kind.kind} {namespace}/{name}", "not found")


def _check_unicode(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"event {key!r}", f"its key is not Unicode text: {error}") from error


class _RandomUids:
    """Version 4 UUIDs; asks the system for randomness 256 at a time, which it takes 10 us for."""

    def __init__(self) -> None:
        self._random = b""
        self._at = 0

    def __call__(self) -> str:
        if self._at >= len(self._random):
            self._random, self._at = os.urandom(4096), 0
        digits = self._random[self._at : self._at + 16].hex()
        self._at += 16
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
