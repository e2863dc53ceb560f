"""The real ``propfan`` as a process of its own, and task files for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROPFAN = (sys.executable, "-c", "from propfan.engine.cli import main; main()")
TIMEOUT_S = 60.0
"""Nothing here takes as long; it keeps a broken command from holding up the tests."""

TASK = """
id: {{name: {name}}}
type: raw-container
container:
  image: busybox
  command: [/bin/sh, -c]
  args:
    - |
{script}
  resources:
    requests: [{{name: CPU, value: {cpu}}}, {{name: MEMORY, value: 8Mi}}]
metadata: {{retries: {{retries: {retries}}}}}
"""


def environment(**changes: str) -> Mapping[str, str]:
    """Without what would change the output: the width of a terminal, settings of the developer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROPFAN_DATA", "COLUMNS"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **changes}


def task_file(folder: Path, script: str, *, name: str = "task", cpu: str = "10m", retries: int = 0) -> Path:
    """A task that runs a shell script."""
    path = folder / f"{name}.yaml"
    indented = textwrap.indent(textwrap.dedent(script).strip(), " " * 6)
    path.write_text(TASK.format(name=name, script=indented, cpu=cpu, retries=retries))
    return path


def propfan(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    command = [*PROPFAN, *map(str, args)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


class Running:
    """A command at work, whose lines can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((process.stdout, self.out), (process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, is_there: Callable[[list[str], list[str]], bool]) -> None:
        """Until the lines of standard output and error are as wanted; fails when the command ends before."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: is_there(self.out, self.err) or not any(reader.is_alive() for reader in self._readers),
                TIMEOUT_S,
            )
            assert done, f"nothing of the kind: {self.out} {self.err}"
            assert is_there(self.out, self.err), f"it ended: {self.out} {self.err}"

    def end(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code, once all was read."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(TIMEOUT_S)
        return code


@contextmanager
def running(*args: object, cwd: Path, **env: str) -> Iterator[Running]:
    """A command that is stopped, with what it runs, at the end of the block if it still runs."""
    process = subprocess.Popen(
        [*PROPFAN, *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    command = Running(process)
    try:
        yield command
    finally:
        _stop(process)
        command.end()
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()


def _stop(process: subprocess.Popen[str]) -> None:
    """As a user would, twice at most: killed at once, it would leave its tasks to the next run, which never comes."""
    for _ in range(2):
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
    process.kill()


def until_file(path: Path, command: Running) -> str:
    """The content of a file that the command's task writes, once it is there and not empty."""
    _until(lambda: path.exists() and path.stat().st_size > 0, command, f"{path} does not come")
    return path.read_text()


def until_files(folder: Path, count: int, command: Running) -> None:
    """Until that many of the command's tasks, whichever they are, have written a file."""
    _until(lambda: len(list(folder.iterdir())) >= count, command, f"{folder} does not get {count} files")


def _until(holds: Callable[[], bool], command: Running, otherwise: str) -> None:
    tick = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.02)):
        if holds():
            return
        assert command.process.poll() is None, f"it ended: {command.out} {command.err}"
        tick.wait(0.02)
    raise AssertionError(otherwise)


def lines_of(output: str) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
