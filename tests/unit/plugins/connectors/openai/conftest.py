from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plugins.connectors.openai.api_server import ApiServer


@pytest.fixture
async def api(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[ApiServer]:
    folder = tmp_path / "openai"
    folder.mkdir()
    server = ApiServer(folder)
    async with server.running():
        yield server
