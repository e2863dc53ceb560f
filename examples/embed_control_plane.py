"""A web application of one's own with Flyte's services mounted into it: the SDK runs tasks against it.

python -m examples.embed_control_plane [PORT]

Needs ``starlette`` and ``uvicorn``; any other ASGI framework does as well.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from propfan.engine import EngineConfig
from propfan.engine.control_plane import ControlPlane, ControlPlaneConfig


def application(data_dir: Path, endpoint: str) -> Starlette:
    """Its own page tells of runs; everything below ``/flyteidl2.`` is Flyte's."""
    plane = ControlPlane(
        EngineConfig(data_dir=data_dir, keep_work=True),
        ControlPlaneConfig(endpoint=endpoint),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with plane:
            yield

    async def runs(request: Request) -> JSONResponse:
        return JSONResponse(list(await plane.runs()))

    return Starlette(routes=[Route("/runs", runs), Mount("/", app=plane)], lifespan=lifespan)


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with tempfile.TemporaryDirectory(prefix="propfan-") as folder:
        uvicorn.run(application(Path(folder), f"http://127.0.0.1:{port}"), port=port, log_level="warning")


if __name__ == "__main__":
    main()
