"""A login node: asyncssh's own server, in a thread, with made-up programs of Slurm on its ``PATH``."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncssh
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, TaskRequest
from propfan.pluginmachinery.testing import task_template
from propfan.pluginmachinery.testing.connector_fakes import connector_setup, connector_task
from tests.unit.plugins.connectors.slurm import fake_slurm
from tests.unit.plugins.connectors.slurm.fake_slurm import FakeSlurm

SECRET: Final = "FLYTE_SLURM_PRIVATE_KEY"
DROP: Final = "lose-the-connection"
"""A command that the login node does not survive."""

_HOST_KEY: Final = asyncssh.generate_private_key("ssh-ed25519")
_KEY: Final = asyncssh.generate_private_key("ssh-ed25519")
KEY: Final = _KEY.export_private_key().decode()
WRONG_KEY: Final = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
LOCKED_KEY: Final = _KEY.export_private_key("pkcs8-pem", "open sesame").decode()


class Cluster:
    """Runs from ``start`` to ``stop``, any number of times, on one port.

    Attributes:
        connections: So many were made.
        greeting: Of the login shell, before what a command prints.
    """

    def __init__(self, folder: Path, portal: BlockingPortal) -> None:
        self.folder: Final = folder
        self.connections = 0
        self.greeting = ""
        self._portal: Final = portal
        self._programs: Final = folder / "bin"
        self._server: asyncssh.SSHAcceptor | None = None
        self._open: Final[list[asyncssh.SSHServerConnection]] = []
        self._running: Final[list[asyncio.subprocess.Process]] = []
        self.port = 0
        self.slurm: Final = FakeSlurm(folder)
        self._slurm: Final = portal.call(self.slurm.serve)
        fake_slurm.install(self._programs, self._slurm[1])

    def uninstall(self, name: str) -> None:
        """As the shell says it; the machine of the tests may have the real one."""
        (self._programs / name).write_text(f"#!/bin/sh\nexec /none/{name}\n")

    def start(self) -> None:
        self._portal.call(self._listen)
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {_HOST_KEY.export_public_key().decode()}")
        (self.folder / "ssh_config").write_text(f"Host cluster\n  HostName 127.0.0.1\n  Port {self.port}\n  User u\n")

    def stop(self) -> None:
        self._portal.call(self._close)

    def drop_connections(self) -> None:
        self._portal.call(self._drop)

    def setup(self, key: str | None = KEY, **slurm: Any) -> ConnectorSetup:
        return connector_setup(secrets={} if key is None else {SECRET: key}, sections={"slurm": self.section(**slurm)})

    def section(self, **slurm: Any) -> Mapping[str, Any]:
        """The configuration that knows the login node as ``cluster``."""
        known = {"known-hosts": str(self.folder / "known_hosts"), "ssh-config": str(self.folder / "ssh_config")}
        return {**known, "folder": str(self.folder / "notes"), **{k.replace("_", "-"): v for k, v in slurm.items()}}

    async def close(self) -> None:
        self._slurm[0].close()
        await self._slurm[0].wait_closed()

    async def _listen(self) -> None:
        self._server = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Watch(self),
            server_host_keys=[_HOST_KEY],
            authorized_client_keys=asyncssh.import_authorized_keys(_KEY.export_public_key().decode()),
            process_factory=self._run,
            sftp_factory=True,
            encoding=None,
        )
        self.port = self._server.get_port()

    async def _close(self) -> None:
        await self._drop()
        for local in self._running:
            if local.returncode is None:  # of a caller that did not wait
                os.killpg(local.pid, signal.SIGKILL)
                await local.wait()
        self._running.clear()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _drop(self) -> None:
        for connection in self._open:
            connection.abort()
        self._open.clear()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if process.command == DROP:
            await self._drop()
            return
        environment = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
        }
        local = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            process.command or "",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=self.folder,
            start_new_session=True,
        )
        self._running.append(local)
        output, errors = await local.communicate(await process.stdin.read())
        process.stdout.write(self.greeting.encode() + output)
        process.stderr.write(errors)
        process.exit(local.returncode or 0)


class _Watch(asyncssh.SSHServer):
    def __init__(self, cluster: Cluster) -> None:
        self._cluster: Final = cluster

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._cluster.connections += 1
        self._cluster._open.append(conn)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    with start_blocking_portal("asyncio") as portal:
        cluster = Cluster(folder, portal)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
            portal.call(cluster.close)


def script_task(script: str | None = None, *, run: str = "r1", **custom: Any) -> TaskRequest:
    """A task of type ``slurm`` as the SDK's SlurmTask and SlurmShellTask send it."""
    given = {} if script is None else {"script": script}
    return connector_task(script_template(**given, **custom), run=run)


def script_template(**custom: Any) -> tasks_pb2.TaskTemplate:
    return task_template("slurm", custom={"ssh_config": {"host": "cluster"}, **custom})


def with_secret(task: TaskRequest, key: str) -> TaskRequest:
    connection = msgspec.structs.replace(task.connection, secrets={SECRET: key})
    return msgspec.structs.replace(task, connection=connection)
