"""Programs end with the one who started them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.process import Process, ProcessEndedError

ROOT = Path(__file__).parents[2]
LISTENER = "trap 'echo asked; exit 0' TERM; sleep 600 & echo $$ $!; wait"
"""A program with a child; it tells both numbers."""

OWNER = """
import sys
from pathlib import Path
from tests.cluster.process import Process
process = Process("listener", ["sh", "-c", sys.argv[1]], Path(sys.argv[2]))
process.start()
process.await_ready(lambda: len(process.log.read_text().split()) == 2, timeout_s=30)
print("ready", flush=True)
sys.stdin.read()
"""


def started(tmp_path: Path, script: str = LISTENER) -> Process:
    process = Process("listener", ["sh", "-c", script], tmp_path / "log")
    process.start(grace_s=0.2)
    process.await_ready(lambda: process.log.read_text() != "", timeout_s=30)
    return process


def numbers(log: Path) -> list[int]:
    return [int(word) for word in log.read_text().splitlines()[0].split()]


def await_gone(pids: list[int]) -> None:
    """By the kernel's word, not by asking again and again."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(descriptor) as ended:
            assert select.select([ended], [], [], 30)[0], f"{pid} still runs"


def test_a_stopped_program_is_asked_first(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.stop()
    assert process.log.read_text().splitlines()[-1] == "asked"
    assert not process.is_running
    await_gone(numbers(process.log))


def test_a_program_that_does_not_listen_is_killed_with_its_children(tmp_path: Path) -> None:
    process = started(tmp_path, "trap '' TERM; sleep 600 & echo $$ $!; wait; wait")
    process.stop()
    await_gone(numbers(process.log))


def test_a_program_that_hangs_can_be_stopped(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.signal(signal.SIGSTOP)
    process.stop()
    await_gone(numbers(process.log))


def test_a_killed_program_is_not_asked_and_can_start_again(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.kill()
    assert "asked" not in process.log.read_text()
    await_gone(numbers(process.log))
    process.start()
    assert process.is_running
    process.kill()


def test_a_program_that_ends_early_tells_its_last_words(tmp_path: Path) -> None:
    process = started(tmp_path, "echo no such thing; exit 3")
    with pytest.raises(ProcessEndedError, match="no such thing"):
        process.await_ready(lambda: False, timeout_s=30)
    process.stop()


@pytest.mark.parametrize("victim", ["owner", "keeper"])
def test_nothing_outlives_an_owner_or_a_keeper_that_is_killed(tmp_path: Path, victim: str) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", OWNER, LISTENER, str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        program, child = numbers(log)
        status = Path(f"/proc/{program}/status").read_text()
        keeper = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        os.kill(owner.pid if victim == "owner" else keeper, signal.SIGKILL)
        await_gone([program] if victim == "keeper" else [program, child])
        if victim == "keeper":
            os.kill(child, signal.SIGKILL)
        owner.kill()
