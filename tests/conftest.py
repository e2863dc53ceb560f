"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio._backends import _asyncio as anyio_asyncio
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # how fast an example runs says nothing on a machine that others use as well


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Async tests run on asyncio's own loop: what is promised must not rest on uvloop."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="session", autouse=True)
def late_words_of_grpc() -> Iterator[None]:
    """gRPC has one poller for all event loops: what it still has for the closed loop of a test, it tells that of another."""
    told = anyio_asyncio.TestRunner._exception_handler

    def handle(runner: Any, loop: Any, context: dict[str, Any]) -> None:
        is_of_poller = "PollerCompletionQueue" in str(context.get("message"))
        if not (is_of_poller and str(context.get("exception")) == "Event loop is closed"):
            told(runner, loop, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio_asyncio.TestRunner, "_exception_handler", handle)
        yield
