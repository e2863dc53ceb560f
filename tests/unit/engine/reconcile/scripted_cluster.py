"""A cluster that answers lists and watches from a script, one answer per call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import msgspec

from propfan.engine.cluster import (
    Kind,
    LabelSelector,
    ObjectList,
    ObjectMeta,
    ObservedObject,
    WatchEvent,
    WatchEventType,
)
from propfan.pluginmachinery.errors import ApiError

SILENCE = object()
"""In a stream: nothing is heard from here on, not even its end."""


class Page(NamedTuple):
    """An answer to a list."""

    items: Sequence[ObservedObject] = ()
    version: str = "1"
    next_token: str = ""


class Stream:
    """An answer to a watch: batches, then its end, an error or ``SILENCE``."""

    def __init__(self, *parts: Sequence[WatchEvent] | ApiError | object) -> None:
        self.parts = parts


class Call(NamedTuple):
    method: str
    position: str
    """Continue token of a list, resourceVersion of a watch."""
    at_s: float


class ScriptedCluster:
    """``used_up`` is set by the first call for which the script has no answer; that call waits for ever."""

    def __init__(self, kind: Kind, *script: Page | Stream | ApiError) -> None:
        self.kind = kind
        self.script = list(script)
        self.calls: list[Call] = []
        self.used_up = anyio.Event()
        self.open_streams = 0

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a watcher has no business with {name}")

    async def _answer(self, method: str, position: str) -> Page | Stream:
        self.calls.append(Call(method, position, anyio.current_time()))
        if not self.script:
            self.used_up.set()
            await anyio.sleep_forever()
        answer = self.script.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def list(
        self, kind: Kind, *, namespace: str = "", labels: LabelSelector | None = None, continue_token: str = ""
    ) -> ObjectList:
        page = await self._answer("list", continue_token)
        assert isinstance(page, Page), f"listed while the script has {page}"
        return ObjectList(page.items, page.version, page.next_token)

    @asynccontextmanager
    async def watch(
        self, kind: Kind, *, namespace: str = "", labels: LabelSelector | None = None, resource_version: str
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        stream = await self._answer("watch", resource_version)
        assert isinstance(stream, Stream), f"watched while the script has {stream}"
        self.open_streams += 1
        try:
            yield self._batches(stream)
        finally:
            self.open_streams -= 1

    async def _batches(self, stream: Stream) -> AsyncIterator[Sequence[WatchEvent]]:
        for part in stream.parts:
            if isinstance(part, ApiError):
                raise part
            if part is SILENCE:
                await anyio.sleep_forever()
            assert isinstance(part, Sequence)
            yield part

    def object(self, name: str, version: int, **members: Any) -> ObservedObject:
        metadata = ObjectMeta(name=name, namespace="ns", resource_version=str(version))
        return ObservedObject(self.kind, metadata, msgspec.json.encode({"metadata": metadata, **members}))


def added(seen: ObservedObject) -> WatchEvent:
    return WatchEvent(WatchEventType.ADDED, seen)


def modified(seen: ObservedObject) -> WatchEvent:
    return WatchEvent(WatchEventType.MODIFIED, seen)


def deleted(seen: ObservedObject) -> WatchEvent:
    return WatchEvent(WatchEventType.DELETED, seen)


def bookmark(version: int) -> WatchEvent:
    metadata = ObjectMeta(resource_version=str(version))
    return WatchEvent(WatchEventType.BOOKMARK, ObservedObject(Kind("", "", "", ""), metadata, b""))
