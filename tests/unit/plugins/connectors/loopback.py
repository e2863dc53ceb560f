"""What the fakes of services have in common: they are served on loopback, and their handlers raise what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class Refusal(Exception):  # noqa: N818 - base of the services' own errors
    """An error of a service's API."""

    def answer(self) -> web.Response:
        """As the service writes it."""
        raise NotImplementedError


@web.middleware
async def refusing(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answers with what the handler refuses."""
    try:
        answer: web.StreamResponse = await handler(request)
    except Refusal as refusal:
        return refusal.answer()
    return answer


@asynccontextmanager
async def served(application: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Its URL, on a port that is free unless one is given."""
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
