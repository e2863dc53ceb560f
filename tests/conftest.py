"""What all tests share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Async tests run on asyncio's own loop: what is promised must not rest on uvloop."""
    return "asyncio", {"use_uvloop": False}
