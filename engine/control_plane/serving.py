"""A control plane behind a socket of its own, until it is told to stop."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import msgspec
import uvicorn

from propfan.engine.config import EngineConfig
from propfan.engine.control_plane.asgi import Application
from propfan.engine.control_plane.config import ControlPlaneConfig
from propfan.engine.control_plane.plane import ControlPlane
from propfan.pluginmachinery.errors import ConfigError

_GRACE_S: Final = 3
"""For requests that are being answered when the server stops; watches are cut off after it."""

_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # the address is the user's choice


class Listener(msgspec.Struct, frozen=True):
    """Where and how to listen. ``port`` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8090
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def bind(self) -> socket.socket:
        """Raises ``ConfigError`` when the address can not be had."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self.host, self.port))
        except OSError as error:
            bound.close()
            raise ConfigError("--port", f"{self.host}:{self.port} can not be listened at: {error.strerror}") from error
        return bound

    def url(self, bound: socket.socket) -> str:
        """How it is reached from this machine."""
        scheme = "http" if self.tls_cert is None else "https"
        host = _ANYWHERE.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"{scheme}://{host}:{bound.getsockname()[1]}"


async def serve_until(
    engine: EngineConfig,
    config: ControlPlaneConfig,
    listener: Listener,
    stops: AsyncIterator[object],
    *,
    ready: Callable[[str], None],
) -> None:
    """Serves until ``stops`` tells of something.

    Args:
        config: An empty ``endpoint`` is the listener's own.
        ready: Called with the URL once requests are answered.

    Raises:
        ConfigError, StorageError: it could not be started.
    """
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(contextlib.closing(listener.bind()))
        url = listener.url(bound)
        for_tasks = None
        if not config.endpoint and (config.token or listener.tls_cert is not None):
            # Tasks have neither the token nor trust in the certificate: they come in by a door on loopback.
            for_tasks = stack.enter_context(contextlib.closing(Listener(port=0).bind()))
        config = msgspec.structs.replace(
            config,
            endpoint=config.endpoint or (Listener().url(for_tasks) if for_tasks is not None else url),
            upload_url=config.upload_url or (url if for_tasks is not None else ""),
        )
        plane = await stack.enter_async_context(ControlPlane(engine, config))
        if for_tasks is not None:
            await stack.enter_async_context(serving(plane, for_tasks, application=plane.open_app))
        await stack.enter_async_context(serving(plane, bound, listener))
        ready(url)
        await anext(stops, None)


@asynccontextmanager
async def serving(
    plane: ControlPlane,
    bound: socket.socket,
    listener: Listener | None = None,
    *,
    application: Application | None = None,
) -> AsyncIterator[None]:
    """Answers requests in the background, from when this is entered until it is left.

    Args:
        listener: For its certificate; plain HTTP without one.
        application: In place of ``plane.app``.
    """
    listener = listener or Listener()
    server = _Server(
        uvicorn.Config(
            application or plane.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ssl_certfile=listener.tls_cert,
            ssl_keyfile=str(listener.tls_key) if listener.tls_key is not None else None,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.answer_until_told, bound)
        try:
            yield
        finally:
            plane.ledger.close()
            server.should_exit = True


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    _started: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED

    async def answer_until_told(self, bound: socket.socket, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serves until ``should_exit``: cancelled in between, it would leave connections open."""
        self._started = task_status
        with anyio.CancelScope(shield=True):
            await self.serve([bound])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._started.started()
