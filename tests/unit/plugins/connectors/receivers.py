"""An HTTP server on loopback that answers as it is told and remembers what it was asked, and clients for it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from aiohttp import web

from propfan.engine.connector_service.config import HttpConfig
from propfan.engine.connector_service.http import AiohttpClient
from tests.unit.plugins.connectors import loopback


class Received(msgspec.Struct, frozen=True):
    """A request; names of headers in lower case."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def never(_: Received) -> None:
    """As an answer: none comes, and the connection stays."""


@dataclasses.dataclass
class Receiver:
    """Attributes:
    answer: What to answer, ``None`` ends the connection without one; ``never`` keeps it waiting.
    """

    answer: Callable[[Received], web.Response | None] = lambda _: web.Response(text="fine")
    received: list[Received] = dataclasses.field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Received:
        return self.received[-1]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = list(request.query.items())
        received = Received(request.method, request.path, query, headers, await request.read())
        self.received.append(received)
        if self.answer is never:
            await anyio.sleep_forever()
        answer = self.answer(received)
        if answer is None:
            assert request.transport
            request.transport.abort()
            return web.Response()
        return answer


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[Receiver]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    async with loopback.served(app, receiver.port) as url:
        receiver.port = int(url.rpartition(":")[2])
        yield receiver


@asynccontextmanager
async def http_client(**config: Any) -> AsyncIterator[AiohttpClient]:
    client = AiohttpClient(HttpConfig(**config))
    try:
        yield client
    finally:
        await client.close()
