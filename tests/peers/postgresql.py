"""A PostgreSQL server of its own for a test, on a free port, as another user than root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

_DEBIAN: Final = Path("/usr/lib/postgresql")
_USER: Final = "postgres"


def find_programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; ``None`` when the server is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next(iter(sorted(_DEBIAN.glob("*/bin"), reverse=True)), None)


class PostgreSQL:
    """Runs from ``__enter__`` to ``__exit__``; its data goes with it."""

    def __init__(self, programs: Path) -> None:
        self._programs: Final = programs
        self._folder: Final = Path(tempfile.mkdtemp(prefix="propfan-postgresql-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: Final = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        if os.getuid() == 0:
            shutil.chown(self._folder, _USER)
        self._run("initdb", "-D", str(self._folder / "data"), "-U", _USER, "--auth=trust", "--no-sync")
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        self._run(
            "pg_ctl", "-D", str(self._folder / "data"), "-w", "-l", str(self._folder / "log"), "-o", options, "start"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def query(self, statement: str) -> str:
        done = subprocess.run(
            [self._programs / "psql", "-At", self.url, "-c", statement], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def _run(self, program: str, *arguments: str) -> None:
        """As ``postgres``: the server refuses to be root."""
        command = [str(self._programs / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", _USER, "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
