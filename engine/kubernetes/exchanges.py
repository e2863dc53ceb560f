"""Requests and whole answers on kept connections: HTTP/1.1 as API servers speak it.

Nearly all that the engine does on a cluster are small requests for one object, and a general client costs
more than everything else that is done for a task. A *line* is one connection, with one request on it at a
time; what a line has once been too late for is never used again.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Sequence
from typing import Final, cast

import aiohappyeyeballs
import anyio
import httptools
import msgspec
from yarl import URL

from propfan.engine.kubernetes.sockets import CONNECT_TIMEOUT_S, IDLE_S, open_socket

_printable: Final = re.compile(r"[!-~]+").fullmatch
_has_controls: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, whatever its status.

    Attributes:
        headers: Names as they came.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: bytes) -> list[str]:
        """Values of a header, in its order; ``name`` in lower case."""
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == name]


class TooLargeError(Exception):
    """The body has more bytes than were asked for at most."""


class _Line(asyncio.Protocol):
    """One connection.

    Attributes:
        idle_since_s: When its last answer came, on the loop's clock.
        is_heard: Something of the present answer has come.
        is_open: It may take another request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Answer] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._room = 0
        self.idle_since_s = 0.0
        self.is_heard = False
        self.is_open = True

    def send(self, request: bytes, limit: int) -> asyncio.Future[Answer]:
        """Sends a request; its answer is a ``TooLargeError`` from a body of more than ``limit`` bytes."""
        self._waiter = self._loop.create_future()
        self._room, self.is_heard = limit, False
        self._transport.write(request)
        return self._waiter

    def give_up(self, error: BaseException | None = None) -> None:
        """Closes it at once; whoever waits for an answer gets the error."""
        self.is_open = False
        self._transport.abort()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done() and error is not None:
            waiter.set_exception(error)

    def overdue(self) -> None:
        self.give_up(TimeoutError())

    # -- What the transport tells ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self.give_up(error.__context__ if isinstance(error.__context__, TooLargeError) else error)
        except httptools.HttpParserError as error:
            self.give_up(ConnectionError(f"the answer is no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up(exc or ConnectionResetError("the connection was closed before the answer was whole"))

    # -- What the parser tells ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.is_heard = True
        self._headers, self._parts = [], []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._room -= len(body)
        if self._room < 0:
            raise TooLargeError
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # the answer itself follows
            return
        waiter, self._waiter = self._waiter, None
        if waiter is None or not self._parser.should_keep_alive():
            self.is_open = False  # nobody asked for it
        self.idle_since_s = self._loop.time()
        parts, self._parts = self._parts, []
        if waiter is not None and not waiter.done():
            waiter.set_result(Answer(status, self._headers, parts[0] if len(parts) == 1 else b"".join(parts)))


class Exchanges:
    """Kept connections to one server; of the loop that asks first.

    Args:
        server: ``https://host:port``, perhaps with a path below which the API lies.
        context: ``None`` for a server without TLS.
        server_name: That the certificate must have, where it is not the host's.
        agent: ``User-Agent``.
    """

    def __init__(self, server: str, context: ssl.SSLContext | None, server_name: str, agent: str) -> None:
        url = URL(server)
        self._host: Final = url.host or ""
        self._port: Final = url.port or 443
        self._base: Final = url.raw_path.rstrip("/")
        self._context: Final = context
        self._server_name: Final = server_name or self._host
        host = url.authority.rpartition("@")[2]
        self._common: Final = f"Host: {host}\r\nUser-Agent: {_checked(agent)}\r\nAccept-Encoding: gzip\r\n"
        self._idle: Final[list[_Line]] = []

    async def exchange(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        limit: int,
        timeout_s: float,
        guard: Callable[[], None] | None,
    ) -> Answer:
        """Sends one request. One that only reads is sent again when a kept connection turns out to be closed.

        Args:
            path: With its query, as it is sent.
            limit: Most bytes of the answer's body.
            guard: Called right before the request is sent.

        Raises:
            OSError, TimeoutError: there is no answer, or none that can be read.
            TooLargeError: it is larger than ``limit``.
        """
        request = self._request(method, path, headers, body)
        while True:
            line = self._kept()
            is_kept = line is not None
            if line is None:
                line = await self._connect()
            try:
                if guard is not None:
                    guard()
                return _unpacked(await self._asked(line, request, limit, timeout_s), limit)
            except ConnectionError:
                if not is_kept or line.is_heard or method != "GET":
                    raise
            finally:
                if line.is_open:
                    self._idle.append(line)
                else:
                    line.give_up()

    async def _asked(self, line: _Line, request: bytes, limit: int, timeout_s: float) -> Answer:
        loop = asyncio.get_running_loop()
        waiter = line.send(request, limit)
        timer = loop.call_later(timeout_s, line.overdue)
        try:
            return await waiter
        except asyncio.CancelledError:
            line.give_up()  # its answer may still come, and is nobody's
            raise
        finally:
            timer.cancel()

    def _request(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
        target = self._base + path
        if _printable(target) is None:
            raise ValueError(f"no path that can be asked for: {target[:200]!r}")
        lines = [f"{method} {target} HTTP/1.1\r\n", self._common]
        lines += [f"{name}: {_checked(value)}\r\n" for name, value in headers]
        lines.append(f"Content-Length: {len(body)}\r\n\r\n" if body or method != "GET" else "\r\n")
        return "".join(lines).encode() + body

    def _kept(self) -> _Line | None:
        oldest_s = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            line = self._idle.pop()
            if line.is_open and line.idle_since_s >= oldest_s:
                return line
            line.give_up()
        return None

    async def _connect(self) -> _Line:
        loop = asyncio.get_running_loop()
        with anyio.fail_after(CONNECT_TIMEOUT_S):
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            connected = await aiohappyeyeballs.start_connection(
                found, happy_eyeballs_delay=0.25, socket_factory=open_socket
            )
            name = self._server_name if self._context is not None else None
            _, line = await loop.create_connection(
                lambda: _Line(loop), sock=connected, ssl=self._context, server_hostname=name
            )
            return line

    def close(self) -> None:
        while self._idle:
            self._idle.pop().give_up()


def _checked(value: str) -> str:
    if _has_controls(value) is not None:
        raise ValueError("a header has characters that can not be sent")
    return value


def _unpacked(answer: Answer, limit: int) -> Answer:
    """Large answers come compressed."""
    if answer.all(b"content-encoding") != ["gzip"]:
        return answer
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        body = unzip.decompress(answer.body, limit + 1)
    except zlib.error as error:
        raise OSError(f"the answer can not be decompressed: {error}") from error
    if len(body) > limit:
        raise TooLargeError
    if not unzip.eof:
        raise OSError("the answer ends before what is compressed in it does")
    return msgspec.structs.replace(answer, body=body)
