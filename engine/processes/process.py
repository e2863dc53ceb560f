"""One container as a process: started through a supervisor, found again after a crash, waited for, signalled."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.abc
import msgspec
import structlog

from propfan.engine.processes import supervisor

LAUNCH_MARKER: Final = "PROPFAN_LAUNCH"
"""Environment variable that names the launch; it marks the descendants of a supervisor that was killed."""

LOST_EXIT_CODE: Final = 137
"""What a kubelet reports for a container whose end nobody saw (reason ``ContainerStatusUnknown``)."""

Record = TypeVar("Record", bound=msgspec.Struct)

ANSWER_S: Final = 10.0
"""How long a supervisor may take to start a process, seconds; it takes milliseconds."""

logger = structlog.get_logger(__name__)


class Launch(msgspec.Struct, frozen=True):
    """What to execute.

    Attributes:
        argv: The first is looked up in the environment's PATH.
        memory_limit_bytes: 0 is no limit.
        mounts: By the path that the process sees, a folder.
        holds_sigterm: It is started with SIGTERM blocked, and takes it when it is ready to.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    working_dir: str
    log: str
    memory_limit_bytes: int = 0
    mounts: Mapping[str, str] = {}
    holds_sigterm: bool = False


class LaunchError(Exception):
    """The machine could not start a supervisor or a process; nothing runs. Worth another try."""


class ProcessRecord(msgspec.Struct, frozen=True):
    """``process.json``: a process is its pid, its start time in clock ticks since boot, and the boot."""

    supervisor_pid: int
    supervisor_ticks: int
    pid: int
    pid_ticks: int
    boot_id: str
    started_at: float

    @property
    def container_id(self) -> str:
        return f"process://{self.pid}-{self.pid_ticks}"


class Exit(msgspec.Struct, frozen=True):
    """``exit.json``: how a container ended.

    Attributes:
        failure: Why it could not be executed; empty when it was.
        is_lost: Nobody saw the end: the supervisor was killed or the machine restarted.
    """

    exit_code: int
    signal: int = 0
    finished_at: float = 0.0
    out_of_memory: bool = False
    failure: str = ""
    is_lost: bool = False


class ContainerProcess:
    """A container that has been started, perhaps by an engine that is no more."""

    def __init__(self, directory: Path, record: ProcessRecord, pidfd: int | None) -> None:
        self._directory = directory
        self._pidfd = pidfd
        self.record = record

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(self.record.started_at, UTC)

    async def wait(self) -> Exit:
        """Waits without a thread or a timer; may be cancelled and called again."""
        if self._pidfd is not None:
            await anyio.wait_readable(self._pidfd)
        if (ended := _read(self._directory / "exit.json", Exit)) is not None:
            return ended
        await anyio.to_thread.run_sync(_kill_marked, str(self._directory))
        ended = Exit(LOST_EXIT_CODE, finished_at=datetime.now(UTC).timestamp(), is_lost=True)
        with suppress(OSError):  # the next reader comes to the same conclusion
            supervisor.write_atomically(str(self._directory / "exit.json"), msgspec.to_builtins(ended))
        return ended

    def terminate(self) -> None:
        """SIGTERM to the container's process group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the main process; its descendants follow."""
        self._signal(signal.SIGUSR1)

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


def find(directory: Path) -> ContainerProcess | None:
    """The process of a launch, running or ended; ``None`` when it has never been started."""
    record = _read(directory / "process.json", ProcessRecord)
    if record is None:
        return None
    return ContainerProcess(directory, record, _open_pidfd(record))


def unrecorded(directory: Path, container_id: str, started_at: datetime) -> ContainerProcess:
    """A process that is only known by name; its end is lost."""
    pid, _, ticks = container_id.removeprefix("process://").partition("-")
    record = ProcessRecord(0, 0, int(pid), int(ticks), "", started_at.timestamp())
    return ContainerProcess(directory, record, None)


def _open_pidfd(record: ProcessRecord) -> int | None:
    if record.boot_id != supervisor.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record.supervisor_pid)
    except ProcessLookupError:
        return None
    # Opened first, compared second: from here on the descriptor means this process whatever the pid becomes.
    if supervisor.start_ticks(record.supervisor_pid) != record.supervisor_ticks:
        os.close(pidfd)
        return None
    return pidfd


def _write_intent(directory: Path, launch: Launch) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / "launch.partial"
        partial.write_bytes(msgspec.json.encode(launch))
        partial.rename(directory / "launch.json")
    except OSError as error:
        raise LaunchError(f"{error.filename}: {error.strerror}") from error


def _read(path: Path, model: type[Record]) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=model)
    except FileNotFoundError:
        return None


def _kill_marked(launch: str) -> None:
    """Kills what is left of a launch whose supervisor was killed: all processes that carry its marker.

    A process is without an environment for a moment while it executes a program, so nobody is
    believed to be gone before several looks have found nobody.
    """
    marker = f"{LAUNCH_MARKER}={launch}".encode()
    looks = 0
    while looks < 3:
        looks += 1
        for pid in supervisor.all_pids():
            if _carries(pid, marker):
                looks = 0
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _carries(pid: int, marker: bytes) -> bool:
    try:
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


class Nursery:
    """Starts containers through the supervisor program. Open it with ``open_nursery``."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pending: dict[str, Answer] = {}
        self._channel: socket.socket | None = None
        self._sending = anyio.Lock()

    async def start(self, directory: Path, launch: Launch) -> ContainerProcess:
        """Starts the launch of this directory unless that has happened before, by whomever.

        Raises:
            LaunchError: it does not run; the same call may be repeated.
        """
        if (process := find(directory)) is not None:
            return process
        path = str(directory)
        marked = msgspec.structs.replace(launch, environment={**launch.environment, LAUNCH_MARKER: path})
        _write_intent(directory, marked)
        answer = self._pending[path] = Answer()
        try:
            with anyio.move_on_after(ANSWER_S):  # a supervisor that was killed does not answer
                await self._send(path)
                await answer.arrived.wait()
        finally:
            del self._pending[path]
        if (process := find(directory)) is None:
            raise LaunchError(answer.error or "the supervisor has not started it in time")
        return process

    async def _send(self, path: str) -> None:
        async with self._sending:
            while self._channel is not None:
                try:
                    self._channel.send(path.encode())
                except BlockingIOError:
                    await anyio.wait_writable(self._channel)
                except OSError:
                    return  # the nursery has died; the next one is told of all that is pending
                else:
                    return

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keeps a nursery process running until cancelled."""
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with ours:
                with theirs:
                    program = _spawn(theirs, self._log)
                try:
                    self._channel = ours
                    for path in list(self._pending):
                        await self._send(path)
                    task_status.started()
                    task_status = anyio.TASK_STATUS_IGNORED
                    await self._receive(ours)
                finally:
                    self._channel = None
                    ours.close()
                    await _reap(program)
            logger.warning("supervisor program ended, starting another", exit_code=program.returncode)
            await anyio.sleep(0.1)

    async def _receive(self, channel: socket.socket) -> None:
        while True:
            await anyio.wait_readable(channel)
            try:
                while message := channel.recv(65536):
                    self._settle(msgspec.json.decode(message, type=_Message))
            except BlockingIOError:
                continue
            except OSError:
                return
            return

    def _settle(self, message: _Message) -> None:
        if (answer := self._pending.get(message.launch)) is not None:
            answer.error = message.error
            answer.arrived.set()


class Answer:
    def __init__(self) -> None:
        self.arrived = anyio.Event()
        self.error = ""


class _Message(msgspec.Struct, frozen=True):
    launch: str
    error: str


def _spawn(channel: socket.socket, log_path: Path) -> subprocess.Popen[bytes]:
    """The interpreter is isolated: it sees no variable and no package of this one."""
    with log_path.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=channel.fileno(),
            stdout=log,
            stderr=log,
            cwd="/",
            env={},
            start_new_session=True,
        )


async def _reap(program: subprocess.Popen[bytes]) -> None:
    """Waits for a nursery whose channel is closed; it ends at once, even when this scope is cancelled."""
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(program.wait)


@asynccontextmanager
async def open_nursery(data_dir: Path) -> AsyncIterator[Nursery]:
    """A nursery whose containers outlive it."""
    nursery = Nursery(data_dir / "supervisor.log")
    async with anyio.create_task_group() as tasks:
        await tasks.start(nursery.serve)
        try:
            yield nursery
        finally:
            tasks.cancel_scope.cancel()
