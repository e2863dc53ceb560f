"""``/healthz``, ``/readyz`` and ``/metrics``, on one port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from propfan.pluginmachinery.errors import ConfigError


class Readiness:
    """``why_not`` says what is still missing; empty when nothing is."""

    def __init__(self) -> None:
        self.why_not: Callable[[], str] = lambda: "starting"


@asynccontextmanager
async def serve(address: str, registry: CollectorRegistry, readiness: Readiness) -> AsyncIterator[str]:
    """Answers while the block runs. Gives ``host:port``, with the port that was taken where 0 was asked for.

    Raises:
        ConfigError: the address can not be listened on.
    """
    pages: Final = _Pages(registry, readiness)
    app = web.Application()
    app.router.add_get("/healthz", pages.health)
    app.router.add_get("/readyz", pages.ready)
    app.router.add_get("/metrics", pages.metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        host, port = split(address)
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            raise ConfigError("serving.metrics-address", f"{address}: {error.strerror or error}") from error
        taken = runner.addresses[0]
        yield f"{taken[0]}:{taken[1]}"
    finally:
        await runner.cleanup()


def split(address: str) -> tuple[str, int]:
    """Raises ``ConfigError`` when it is not ``host:port`` or ``:port``."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("serving.metrics-address", f"{address!r} is not HOST:PORT or :PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


class _Pages:
    def __init__(self, registry: CollectorRegistry, readiness: Readiness) -> None:
        self._registry: Final = registry
        self._readiness: Final = readiness

    async def health(self, request: web.Request) -> web.Response:
        """That it answers says that the event loop turns."""
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        why_not = self._readiness.why_not()
        return web.Response(text=f"{why_not or 'ok'}\n", status=503 if why_not else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})
