"""Lists in pages, all of the moment of the first page.

Objects never change in place, so what is left of a list is kept as references until it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from propfan.engine.cluster import Kind, ObjectList
from propfan.engine.embedded.objects import StoredObject
from propfan.engine.embedded.watching import Selector
from propfan.pluginmachinery.errors import BadRequestError, ExpiredError

MAX_SNAPSHOTS: Final = 32
MAX_AGE: Final = timedelta(minutes=5)
"""As long as an API server keeps old versions (``--etcd-compaction-interval``)."""


class _Snapshot(msgspec.Struct, frozen=True):
    kind: Kind
    selector: Selector
    objects: Sequence[StoredObject]
    version: str
    taken_at: datetime


class Snapshots:
    def __init__(self) -> None:
        self._open: dict[str, _Snapshot] = {}
        self._count = 0

    def first_page(
        self, kind: Kind, selector: Selector, limit: int, found: Sequence[StoredObject], version: int, now: datetime
    ) -> ObjectList:
        self._forget_old(now)
        if limit <= 0 or len(found) <= limit:
            return ObjectList(found, str(version))
        self._count += 1
        key = f"{version}-{self._count}"
        self._open[key] = _Snapshot(kind, selector, found, str(version), now)
        if len(self._open) > MAX_SNAPSHOTS:
            del self._open[next(iter(self._open))]
        return ObjectList(found[:limit], str(version), f"{key}-{limit}")

    def page(self, kind: Kind, selector: Selector, limit: int, token: str, now: datetime) -> ObjectList:
        """Raises ExpiredError, or BadRequestError when the token is of another list."""
        self._forget_old(now)
        key, _, offset = token.rpartition("-")
        if not (offset.isascii() and offset.isdigit()) or "-" not in key:
            raise BadRequestError(f"list of {kind}", f"{token[:80]!r} is not a continue token")
        snapshot = self._open.get(key)
        if snapshot is None:
            raise ExpiredError(f"list of {kind}", "the continue token is too old: list from the start")
        if (snapshot.kind, snapshot.selector) != (kind, selector):
            raise BadRequestError(f"list of {kind}", "the continue token is of a list of something else")
        start = int(offset)
        end = start + limit if limit > 0 else len(snapshot.objects)
        token = f"{key}-{end}" if end < len(snapshot.objects) else ""
        return ObjectList(snapshot.objects[start:end], snapshot.version, token)

    def _forget_old(self, now: datetime) -> None:
        while self._open:
            oldest = next(iter(self._open))
            if now - self._open[oldest].taken_at <= MAX_AGE:
                return
            del self._open[oldest]
