"""A program that is killed in the middle of its tasks goes on with them when it is started again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill9_program.py")
TASKS = 300
LIMIT_S = 120.0


@contextmanager
def program(folder: Path) -> Iterator[subprocess.Popen[str]]:
    marks = folder / "marks"
    marks.mkdir(exist_ok=True)
    command = [sys.executable, str(PROGRAM), str(folder / "data"), str(marks), str(TASKS)]
    with (
        (folder / "log").open("a") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def begun(folder: Path) -> int:
    return sum(1 for _ in (folder / "marks").iterdir())


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["at once", "half way"])
def test_no_task_is_lost_and_none_runs_twice_in_one_attempt(tmp_path: Path, share: float) -> None:
    with program(tmp_path) as running:
        assert running.stdout is not None
        deadline = time.monotonic() + LIMIT_S
        while begun(tmp_path) <= share * TASKS:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
    assert begun(tmp_path) < TASKS, "it was over before it was killed: the test says nothing"

    with program(tmp_path) as running:
        out, _ = running.communicate(timeout=LIMIT_S)
    lines = out.splitlines()
    assert lines[-1:] == ["over"], (tmp_path / "log").read_text()
    expected = {f"r{index}-a0 Completed {2 if index % 5 == 0 else 1}" for index in range(TASKS)}
    assert set(lines[1:-1]) == expected
    for index in range(TASKS):
        attempts = (tmp_path / "marks" / str(index)).read_text().split()
        assert attempts == (["0", "1"] if index % 5 == 0 else ["0"]), f"task {index} ran in attempts {attempts}"
