"""The ASGI application: routes, who may come in, and the plain HTTP endpoints beside the services."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import anyio
import msgspec
from connectrpc.code import Code
from connectrpc.errors import ConnectError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = ("/healthz", "/upload/", "/download/", "/flyteidl2.auth.AuthMetadataService/")
"""Need no token: they tell nothing that is secret, or are good for one object only."""


_STREAMS: Final = (b"application/connect+", b"application/grpc")
"""Beginnings of the content types of methods that answer with a stream."""


_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
_ACCEPTS: Final = frozenset({b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding"})


class Application:
    """One ASGI application of several.

    Args:
        routes: By the beginning of the path; the longest that fits is taken.
        token: That clients must show; everybody may come in when it is empty.
    """

    def __init__(self, routes: Mapping[str, ASGIApplication], token: str = "") -> None:
        self._routes: Final = dict(sorted(routes.items(), key=lambda route: -len(route[0])))
        self._expected: Final = f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if self._expected and not path.startswith(OPEN_PATHS) and not self._is_known(scope):
            await answer_error(send, 401, "unauthenticated", "a bearer token is needed in 'authorization'")
            return
        if path == "/healthz":
            await answer(send, 200, b"ok", "text/plain")
            return
        for prefix, application in self._routes.items():
            if path.startswith(prefix):
                await _serve(application, _uncompressed_here(scope), receive, send)
                return
        method = path.lstrip("/")
        await answer_error(send, 501, "unimplemented", f"{method} is not offered by this control plane")

    def _is_known(self, scope: Scope) -> bool:
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(shown, self._expected)


def _uncompressed_here(scope: Scope) -> Scope:
    """The request; a client on this machine gets its answer as it is: to compress takes longer than to send."""
    client = scope.get("client")
    if client is None or client[0] not in _LOOPBACK:
        return scope
    return {**scope, "headers": [header for header in scope["headers"] if header[0] not in _ACCEPTS]}


async def _serve(application: ASGIApplication, scope: Scope, receive: Receive, send: Send) -> None:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if not content_type.startswith(_STREAMS):
        await _answer_or_leave(application, scope, receive, send)
        return
    # A watch that has nothing to tell would not notice that nobody listens any more.
    has_all = anyio.Event()

    async def receive_request() -> MutableMapping[str, Any]:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            has_all.set()
        return message

    async with anyio.create_task_group() as tasks:

        async def await_hang_up() -> None:
            await has_all.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(await_hang_up)
        await _answer_or_leave(application, scope, receive_request, send)
        tasks.cancel_scope.cancel()


async def _answer_or_leave(application: ASGIApplication, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await application(scope, receive, send)
    except ConnectError as error:
        if error.code is not Code.CANCELED:  # the client went away in the middle of an answer: its good right
            raise


async def answer(send: Send, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Send, status: int, code: str, message: str) -> None:
    """An error as the Connect protocol has it, which people can read too."""
    await answer(send, status, msgspec.json.encode({"code": code, "message": message}), "application/json")


async def _live(receive: Receive, send: Send) -> None:
    """A server's start and stop mean nothing here: the control plane is entered and left by itself."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
