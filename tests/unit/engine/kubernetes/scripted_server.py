"""An HTTP server that says what a test wants, also what no API server would."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.kubernetes.credentials import Access, Tls
from propfan.pluginmachinery.errors import ConfigError


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


Answer = bytes | Callable[[SocketStream], Awaitable[None]]
"""Bytes that are sent as they are, or what to do with the connection, which is closed after."""


class ScriptedServer:
    """Gives the answers in turn, the last one again and again; or what ``decide`` says to a request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: deque[Answer] = deque()
        self.decide: Callable[[Asked], Answer] = lambda _: (
            self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        )
        self.asked: list[Asked] = []
        self.connections = 0

    def will(self, *answers: Answer) -> None:
        self.answers.extend(answers)

    async def serve(self, connection: SocketStream) -> None:
        self.connections += 1
        reader = BufferedByteReceiveStream(connection)
        async with connection:
            try:
                while True:
                    self.asked.append(await self._request(reader))
                    answer = self.decide(self.asked[-1])
                    if not isinstance(answer, bytes):
                        await answer(connection)
                        return
                    await connection.send(answer)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                return

    async def _request(self, reader: BufferedByteReceiveStream) -> Asked:
        head = await reader.receive_until(b"\r\n\r\n", 65536)
        first, *lines = head.decode().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.receive_exactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        return Asked(method, unquote(parts.path), dict(parse_qsl(parts.query)), headers, body)


class FixedCredentials:
    """Tokens that are given one after the other; a ``None`` can not be had."""

    def __init__(self, url: str, *tokens: str | None, fresh_for_s: float = 3600.0) -> None:
        self.url = url
        self.proxy = ""
        self.tokens = deque(tokens)
        self.loads: list[bool] = []
        self.fresh_for_s = fresh_for_s

    async def load(self, *, anew: bool = False) -> Access:
        self.loads.append(anew)
        token = self.tokens.popleft() if len(self.tokens) > 1 else self.tokens[0]
        if token is None:
            raise ConfigError("test", "there is no token")
        return Access(self.url, [("Authorization", f"Bearer {token}")], Tls(), self.proxy, fresh_for_s=self.fresh_for_s)


@asynccontextmanager
async def serving() -> AsyncIterator[ScriptedServer]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        port = listener.extra(SocketAttribute.local_port)
        server = ScriptedServer(f"http://127.0.0.1:{port}")
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


class Client(NamedTuple):
    """A cluster, and the server that it talks to."""

    cluster: KubernetesCluster
    server: ScriptedServer
    credentials: FixedCredentials


@asynccontextmanager
async def client(
    *answers: Answer, tokens: Sequence[str | None] = ("t1",), fresh_for_s: float = 3600.0, **settings: Any
) -> AsyncIterator[Client]:
    async with serving() as server:
        server.will(*answers)
        credentials = FixedCredentials(server.url, *tokens, fresh_for_s=fresh_for_s)
        async with KubernetesCluster.connect(KubernetesConfig(**settings), with_credentials=credentials) as cluster:
            yield Client(cluster, server, credentials)


# -- Answers ---------------------------------------------------------------------------------------


def answer(status: int, body: bytes | Mapping[str, Any], **headers: str) -> bytes:
    if not isinstance(body, bytes):
        body = json.dumps(body, separators=(",", ":")).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def status(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason,
            "details": details, "code": code}  # fmt: skip


def refusal(code: int, reason: str, message: str, *, retry_after: str = "", **details: Any) -> bytes:
    headers = {"Retry_After": retry_after} if retry_after else {}
    return answer(code, status(code, reason, message, **details), **headers)


def pod(name: str, version: int = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}", "resourceVersion": str(version), **metadata},
    }


def event(type: str, object: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": type, "object": object}, separators=(",", ":")).encode() + b"\n"


def streaming(*pieces: bytes, end: str = "close") -> Callable[[SocketStream], Awaitable[None]]:
    """A chunked answer, piece by piece. The end: ``close`` it properly, ``cut`` the connection, or ``hang``."""

    async def send(connection: SocketStream) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await anyio.lowlevel.checkpoint()
        match end:
            case "close":
                await connection.send(b"0\r\n\r\n")
            case "hang":
                await anyio.sleep_forever()

    return send


async def hang(connection: SocketStream) -> None:
    """Takes a request and never says a word."""
    await anyio.sleep_forever()


async def hang_up(connection: SocketStream) -> None:
    """Takes a request and closes the connection."""
