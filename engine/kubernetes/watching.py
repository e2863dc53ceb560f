"""Watches: changes as the API server tells them, one JSON object a line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

import msgspec
import structlog

from propfan.engine.cluster import Kind, ObjectMeta, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.kubernetes import objects
from propfan.engine.kubernetes.answers import error_of, status_of
from propfan.engine.kubernetes.transport import Request, Stream, Transport
from propfan.pluginmachinery.errors import ApiError, UnavailableError

logger = structlog.get_logger(__name__)

GRACE_S: Final = 15.0
"""How much later than announced a server may end a watch before its connection is taken for dead."""

_HEADS: Final = tuple(
    (f'{{"type":"{type.value}","object":'.encode(), type)
    for type in (WatchEventType.MODIFIED, WatchEventType.ADDED, WatchEventType.DELETED)
)
"""How the lines of an API server begin: the object is what remains, but for the last brace."""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct):
    metadata: _Version


_decode_event: Final = msgspec.json.Decoder(_Event).decode
_decode_bookmark: Final = msgspec.json.Decoder(_Bookmark).decode


class Watch(AbstractAsyncContextManager["Watch"], AsyncIterator[Sequence[WatchEvent]]):
    """See ``Cluster.watch``. The request is sent when the first events are asked for.

    Args:
        seconds: After which the server ends it, as the request asks.
        max_line_bytes: A longer event ends the watch with an error.
    """

    def __init__(
        self, transport: Transport, request: Request, kind: Kind, *, seconds: float, max_line_bytes: int
    ) -> None:
        self._transport: Final = transport
        self._request: Final = request
        self._kind: Final = kind
        self._limit_s: Final = seconds + GRACE_S
        self._max_line_bytes: Final = max_line_bytes
        self._stream: Stream | None = None
        self._is_open = False
        self._error: ApiError | None = None
        """What the server ended the watch with, after events that are still to be told."""
        self._begun: list[bytes] = []
        """Pieces of a line whose end has not come yet."""
        self._begun_bytes = 0

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Sequence[WatchEvent]:
        if self._is_open and self._stream is None:
            self._stream = await self._transport.stream(self._request, limit_s=self._limit_s)
        while self._is_open and self._stream is not None:
            if self._error is not None:
                raise self._error
            piece = await self._stream.read()
            if not piece:
                self._close()
                break
            events = self._events(piece)
            if events:
                return events
        raise StopAsyncIteration

    def _close(self) -> None:
        self._is_open = False
        if self._stream is not None:
            self._stream.close()

    def _events(self, piece: bytes) -> Sequence[WatchEvent]:
        lines = piece.split(b"\n")
        rest = lines.pop()
        events = []
        if lines and self._begun:
            lines[0] = b"".join((*self._begun, lines[0]))
            self._begun, self._begun_bytes = [], 0
        if rest:
            self._begun.append(rest)
            self._begun_bytes += len(rest)
            if self._begun_bytes > self._max_line_bytes:
                self._error = UnavailableError(
                    self._request.target, f"an event is larger than {self._max_line_bytes} bytes"
                )
        try:
            for line in lines:
                if line:
                    events.append(self._event(line))  # noqa: PERF401 - those before an error count
        except ApiError as error:
            self._error = error
        return events

    def _event(self, line: bytes) -> WatchEvent:
        """Raises what an ERROR event means, or UnavailableError for what is no event."""
        for head, type in _HEADS:
            if line.startswith(head) and line.endswith(b"}"):
                return WatchEvent(type, objects.observed(self._kind, line[len(head) : -1], self._request.target))
        return self._other(line)

    def _other(self, line: bytes) -> WatchEvent:
        """A bookmark, an error, or an event whose members are laid out in another way."""
        try:
            event = _decode_event(line)
            if event.type == "ERROR":
                status = status_of(event.object)
                code = status.code if status is not None and status.code else 500
                raise error_of(code, bytes(event.object), self._request.target, kind=self._kind)
            type = WatchEventType(event.type)
            if type is WatchEventType.BOOKMARK:
                version = _decode_bookmark(event.object).metadata.resource_version
                return WatchEvent(type, ObservedObject(self._kind, ObjectMeta(resource_version=version), b""))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            begin = line[:80].decode(errors="replace")
            raise UnavailableError(
                self._request.target, f"the stream has what is no event: {error}; it begins with {begin!r}"
            ) from error
        return WatchEvent(type, objects.observed(self._kind, bytes(event.object), self._request.target))
