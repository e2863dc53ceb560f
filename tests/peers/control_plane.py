"""``propfan up`` as a process of its own, for tests that meet it as its users do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PROGRAMS: Final = Path(__file__).parent / "programs"

_READY: Final = re.compile(r"Ready at (https?://[^,\s]+)")
_START_S: Final = 60.0
_PROGRAM_S: Final = 240.0


class RunningPlane:
    """A control plane in a folder of its own.

    Args:
        home: Home of the clients, so that what the SDK caches there does not outlive the data.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder: Final = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @classmethod
    @contextlib.contextmanager
    def started(cls, folder: Path) -> Iterator[RunningPlane]:
        plane = cls(folder)
        plane.start()
        try:
            yield plane
        finally:
            plane.stop()

    @property
    def endpoint(self) -> str:
        return self.url.partition("://")[2]

    @property
    def log(self) -> Path:
        return self.folder / "up.log"

    def start(self, *options: str) -> None:
        """Starts it, at the port that it had before, and waits until it answers."""
        propfan = Path(sys.executable).parent / "propfan"
        command = [str(propfan), "-v", "up", "--data-dir", str(self.folder / "data"), "--port", str(self._port)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env=self.environment()
            )
        deadline = time.monotonic() + _START_S
        while not (ready := _READY.search(self.log.read_text())):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not ready in {_START_S} s: {self.log.read_text()}"
            time.sleep(0.05)
        self.url = ready[1]
        self._port = int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """Ctrl-C. The exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(30)

    def kill(self) -> None:
        """As when the machine's power fails, but for what the disk knows."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def environment(self) -> dict[str, str]:
        """Of its clients. The SDK keeps what it has uploaded in mind, in the home directory."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"}

    def run_program(self, name: str) -> Any:
        """What a program of ``programs`` answers."""
        process = self.begin_program(name)
        try:
            said, _ = process.communicate(timeout=_PROGRAM_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            raise AssertionError(f"{name} did not end in {_PROGRAM_S} s: {said.decode()}") from None
        assert process.returncode == 0, f"{name}: {said.decode()}\n{self.log.read_text()[-4000:]}"
        return json.loads(said.decode().strip().splitlines()[-1])

    def begin_program(self, name: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), self.endpoint, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=PROGRAMS,  # what the SDK takes for the code of the program
            env={**self.environment(), **variables},
        )
