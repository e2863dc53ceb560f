"""Programs that end with the one who started them, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

KEEPER = Path(__file__).with_name("keeper.py")
POLL_S = 0.05


class ProcessEndedError(RuntimeError):
    """A program ended that should have become ready; the message has the end of its log."""


class Process:
    """One program, its process group and its log. It can be started again after it ended."""

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self._env = dict(os.environ if env is None else env)
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of a program that has ended and was not stopped since; 128 and a signal's number when one ended it."""
        return None if self._keeper is None else self._keeper.poll()

    @property
    def pid(self) -> int:
        """Of the program; 0 when it is not running."""
        if self._keeper is None or not self.is_running:
            return 0
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def start(self, *, grace_s: float = 10.0) -> None:
        """Starts the program; its output is appended to the log. ``grace_s`` lies between SIGTERM and SIGKILL."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), str(grace_s), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )

    def await_ready(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Asks until the answer is yes.

        Raises:
            ProcessEndedError: the program ended before.
            TimeoutError: it still runs and is not ready.
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running:
                raise ProcessEndedError(f"{self.name} ended before it was ready: {self.log}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready after {timeout_s:.0f} s: {self.log}\n{self.log_tail()}")
            time.sleep(POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program's process group: SIGSTOP and SIGCONT make it hang and go on."""
        if self._keeper is None or self._keeper.stdin is None or not self.is_running:
            raise RuntimeError(f"{self.name} is not running")
        self._keeper.stdin.write(bytes([number]))
        self._keeper.stdin.flush()

    def kill(self) -> None:
        """Ends the program at once, as a crash would. No error when it is not running."""
        if self.is_running:
            self.signal(signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Asks the program to end, kills it after its grace, and waits for it. No error when it is not running."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait()
        self._keeper = None

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
