"""Connector servers of the SDKs as processes, and an engine that has them as its connectors."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
from grpc import aio

from propfan.engine import Engine, EngineConfig
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_events import TaskEvent
from propfan.pluginmachinery.registry import Registry
from propfan.plugins.connector import entry

START_LIMIT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ConnectorProcess:
    """A server that may be stopped and started again on its port."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        self._folder = folder
        self._environment = environment
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self._folder / "connector.log"

    async def start(self) -> None:
        """Returns once it answers."""
        command = [*self._command, "--port", str(self.port), "--prometheus_port", str(free_port())]
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time
                command, cwd=self._folder, env=kept | dict(self._environment), stdout=log, stderr=log
            )
        with anyio.fail_after(START_LIMIT_S):
            async with aio.insecure_channel(f"localhost:{self.port}") as channel:
                while channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
                    assert self._process.poll() is None, self.log.read_text()
                    with anyio.move_on_after(0.2):
                        await channel.wait_for_state_change(channel.get_state())

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def ended(process: ConnectorProcess) -> Iterator[ConnectorProcess]:
    """Stops it in the end."""
    try:
        yield process
    finally:
        process.stop()


def engine_with(port: int, folder: Path, **connector: Any) -> Engine:
    registry = Registry()
    registry.register(entry)
    section = {
        "defaultConnector": {"endpoint": f"localhost:{port}", "insecure": True, "defaultTimeout": "30s"},
        "webApi": {"caching": {"resyncInterval": "5s"}, "readRateLimiter": {"qps": 1000}},
        "pollInterval": "1s",
        **connector,
    }
    return Engine(EngineConfig(data_dir=folder, plugins={"connector-service": section}), registry=registry)


async def events_of(engine: Engine, key: TaskKey) -> list[TaskEvent]:
    return list(await engine.history(key))
