"""The supervisor program by itself, spoken to over its socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from propfan.engine.processes import supervisor


class Nursery:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(20)
        with theirs:
            self.program = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__], stdin=theirs.fileno(), stderr=subprocess.PIPE
            )

    def intend(self, name: str, *argv: str, **fields: Any) -> Path:
        directory = self.folder / name
        directory.mkdir(exist_ok=True)
        launch = {
            "argv": argv,
            "environment": {"PATH": "/usr/bin:/bin"},
            "working_dir": "/",
            "log": str(directory / "log"),
            "memory_limit_bytes": 0,
        }
        (directory / "launch.json").write_text(json.dumps({**launch, **fields}))
        return directory

    def ask(self, directory: Path) -> str:
        """The error in the answer."""
        self.channel.send(str(directory).encode())
        answer = json.loads(self.channel.recv(65536))
        assert answer["launch"] == str(directory)
        return str(answer["error"])

    def start(self, name: str, *argv: str, **fields: Any) -> Path:
        directory = self.intend(name, *argv, **fields)
        assert self.ask(directory) == ""
        return directory


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    started = Nursery(tmp_path)
    with started.channel:
        yield started
    _, said = started.program.communicate(timeout=20)
    assert (said, started.program.returncode) == (b"", 0)


def process_of(directory: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((directory / "process.json").read_text())
    return found


def exit_of(directory: Path) -> Mapping[str, Any]:
    """How it ended, once its supervisor has."""
    process = process_of(directory)
    try:
        pidfd = os.pidfd_open(process["supervisor_pid"])
    except ProcessLookupError:
        pass
    else:
        signal.alarm(20)
        while supervisor.start_ticks(process["supervisor_pid"]) == process["supervisor_ticks"]:
            os.sched_yield()
        signal.alarm(0)
        os.close(pidfd)
    found: Mapping[str, Any] = json.loads((directory / "exit.json").read_text())
    return found


def test_a_launch_leaves_its_exit_code_and_no_intent(nursery: Nursery) -> None:
    directory = nursery.start("a", "/bin/sh", "-c", "echo $HOME-$PATH; exit 9", environment={"PATH": "/bin"})
    ended = exit_of(directory)
    assert (ended["exit_code"], ended["signal"], ended["out_of_memory"], ended["failure"]) == (9, 0, False, "")
    assert ended["finished_at"] >= process_of(directory)["started_at"]
    assert (directory / "log").read_text() == "-/bin\n"
    assert sorted(p.name for p in directory.iterdir()) == ["exit.json", "log", "process.json"]


def test_a_launch_that_was_claimed_is_not_run_again(nursery: Nursery) -> None:
    directory = nursery.start("a", "/bin/sh", "-c", "echo run")
    exit_of(directory)
    before = process_of(directory)
    assert nursery.ask(directory) == ""
    nursery.intend("a", "/bin/sh", "-c", "echo run")
    assert nursery.ask(directory) == ""
    assert process_of(directory) == before
    assert (directory / "log").read_text() == "run\n"
    assert not (directory / "launch.json").exists()


def test_a_launch_that_was_never_written_is_an_error(nursery: Nursery) -> None:
    assert nursery.ask(nursery.folder / "none") == "launch.json: no such file"


def test_a_container_leads_its_own_session_with_default_signals(nursery: Nursery) -> None:
    script = """
import os, signal
defaults = {signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD)}
print(os.getsid(0) == os.getpgid(0) == os.getpid(), signal.pthread_sigmask(0, []), defaults, sorted(os.listdir("/proc/self/fd")))
"""
    directory = nursery.start("a", sys.executable, "-S", "-c", script)
    exit_of(directory)
    assert (directory / "log").read_text() == "True set() {True} ['0', '1', '2', '3']\n"


def test_a_missing_working_directory_is_a_failure_to_start(nursery: Nursery) -> None:
    ended = exit_of(nursery.start("a", "/bin/true", working_dir="/no/such"))
    assert (ended["exit_code"], ended["failure"]) == (128, "chdir: /no/such: No such file or directory")


def test_a_word_with_a_nul_byte_is_a_failure_to_start(nursery: Nursery) -> None:
    ended = exit_of(nursery.start("a", "/bin/echo", "a\0b"))
    assert (ended["exit_code"], ended["failure"]) == (128, 'exec: "/bin/echo": embedded null byte')


def test_a_supervisor_outlives_the_nursery_and_the_engine(nursery: Nursery) -> None:
    fifo = nursery.folder / "fifo"
    os.mkfifo(fifo)
    directory = nursery.start("a", "/bin/sh", "-c", f"cat {fifo}; exit 4")
    nursery.channel.close()
    nursery.program.wait(20)
    fifo.write_text("")
    assert exit_of(directory)["exit_code"] == 4


def test_a_killed_supervisor_takes_the_container_with_it(nursery: Nursery) -> None:
    directory = nursery.start("a", "/bin/sleep", "1000")
    process = process_of(directory)
    pidfd = os.pidfd_open(process["pid"])
    os.kill(process["supervisor_pid"], signal.SIGKILL)
    signal.alarm(20)
    while supervisor.start_ticks(process["pid"]) == process["pid_ticks"]:
        os.sched_yield()
    signal.alarm(0)
    os.close(pidfd)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 137)])
def test_a_supervisor_passes_on_sigterm_and_kills_on_sigusr1(
    nursery: Nursery, number: signal.Signals, exit_code: int
) -> None:
    directory = nursery.start("a", "/bin/sleep", "1000")
    os.kill(process_of(directory)["supervisor_pid"], number)
    ended = exit_of(directory)
    assert (ended["exit_code"], ended["signal"]) == (exit_code, exit_code - 128)


def test_start_ticks_of_nothing_is_0() -> None:
    assert supervisor.start_ticks(os.getpid()) > 0
    assert supervisor.start_ticks(2**22 + 1) == 0
