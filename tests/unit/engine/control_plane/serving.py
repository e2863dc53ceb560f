"""A control plane behind a real socket, for its generated clients. Its tasks only sleep."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import anyio

from propfan.engine.config import EngineConfig
from propfan.engine.control_plane import ControlPlane, ControlPlaneConfig
from propfan.engine.control_plane.serving import Listener, serve_until, serving

CONFIG = EngineConfig(core_poll_s=0.05, status_linger_s=0.0)


@asynccontextmanager
async def served(engine: EngineConfig = CONFIG, **settings: Any) -> AsyncIterator[str]:
    """The URL of a running control plane."""
    config = ControlPlaneConfig(**settings)
    found: list[str] = []
    ready = anyio.Event()
    stop = anyio.Event()

    async def stops() -> AsyncIterator[None]:
        await stop.wait()
        yield

    def is_ready(url: str) -> None:
        found.append(url)
        ready.set()

    async def serve() -> None:
        await serve_until(engine, config, Listener(port=0), stops(), ready=is_ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await ready.wait()
        try:
            yield found[0]
        finally:
            stop.set()


@asynccontextmanager
async def serving_plane(engine: EngineConfig = CONFIG) -> AsyncIterator[tuple[ControlPlane, str]]:
    """A running control plane from inside, and its URL."""
    listener = Listener(port=0)
    bound = listener.bind()
    url = listener.url(bound)
    with closing(bound):
        async with ControlPlane(engine, ControlPlaneConfig(endpoint=url)) as plane, serving(plane, bound):
            yield plane, url
