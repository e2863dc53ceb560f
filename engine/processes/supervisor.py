"""The process that starts one container, waits for it and writes down how it ended.

This file is run as a script by an isolated interpreter (``python -I -S``) and imports nothing but
the standard library. The runtime starts it once; that process, the *nursery*, forks one supervisor
per container, so that a container costs two forks and no interpreter start: about 5 ms of a core
and, while it runs, 1.9 MB, where an interpreter for each would cost 12 ms more and 7 MB. Supervisors
do not depend on the nursery or on the engine: both may be killed at any time and no exit code is lost.

Protocol on file descriptor 0, a ``SOCK_SEQPACKET`` socket: a request is the path of a launch
directory; the answer is JSON ``{"launch": <path>, "error": <text>}``, sent when the process has been
executed or has failed to be. The nursery ends when the other side closes the socket.

A launch directory holds, in order of appearance:

``launch.json``   the intent, written by the runtime; removed once the process has started
``process.json``  who runs it; it is linked into place before the container's first instruction,
                  so a second supervisor of the same launch finds it and runs nothing
``exit.json``     how it ended

A supervisor takes two signals: SIGTERM is passed on to the container's process group, SIGUSR1
kills the container. Like a container's PID 1, the end of the main process is the end of all its
descendants, also of those in other sessions: the supervisor is their subreaper and kills them.
Should the supervisor itself be killed, the kernel kills the main process (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

START_ERROR = 128
"""Exit code of a process that could not be executed, as container runtimes report it."""

OOM_SCORE = "500"
"""``oom_score_adj`` of containers: a kernel out of memory takes them before supervisors and the engine."""

ALLOCATION_BYTES_PER_S = 2 << 30
"""How fast memory is assumed to fill up; sets how soon a container below its limit is looked at again."""

MEMORY_INTERVAL_S = (0.05, 2.0)

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE)
_KERNEL_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""A kernel without CONFIG_PROC_CHILDREN does not; then all processes are looked through."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none, or only a zombie.

    Field 22 of ``/proc/<pid>/stat`` (proc(5)). With the boot id it tells a process from a later
    one of the same pid.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def write_atomically(path: str, value: dict[str, Any]) -> None:
    partial = f"{path}.{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(partial, path)


def claim(directory: str, record: dict[str, Any]) -> bool:
    """Puts ``process.json`` in place with its content; false when the launch has been claimed before."""
    partial = os.path.join(directory, f"process.json.{os.getpid()}")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(record, file)
    try:
        os.link(partial, os.path.join(directory, "process.json"))
    except FileExistsError:
        return False
    finally:
        os.unlink(partial)
    return True


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def children_of(pid: int) -> list[int]:
    if not _KERNEL_LISTS_CHILDREN:
        return [other for other in all_pids() if _parent_of(other) == pid]
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it ended while we looked
    return found


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def resident_bytes(limit_bytes: int) -> int:
    """Memory of all descendants. Shared pages count once, but only where that decides.

    The cheap sum of resident sizes counts them for each process; only when that exceeds the limit
    is the proportional size read, which walks the page tables.
    """
    descendants = children_of(os.getpid())
    for pid in descendants:
        descendants += children_of(pid)
    resident = sum(_resident(pid) for pid in descendants)
    if resident <= limit_bytes or len(descendants) == 1:
        return resident
    return sum(_proportional(pid) for pid in descendants)


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
    except OSError:
        return _resident(pid)


def serve(channel: int) -> None:
    """Forks one supervisor per request until the other side closes the channel."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.disable()
    gc.freeze()
    while request := os.read(channel, 65536):
        directory = os.fsdecode(request)
        try:
            pid = os.fork()
        except OSError as error:
            answer(channel, directory, f"fork: {error.strerror}")
            continue
        if pid == 0:
            try:
                supervise(directory, channel)
            except Exception as error:  # noqa: BLE001 - the last frame of the process; all that is left is to tell
                traceback.print_exc()
                sys.stderr.flush()
                answer(channel, directory, f"{type(error).__name__}: {error}")
            finally:
                os._exit(0)


def answer(channel: int, directory: str, error: str = "") -> None:
    with contextlib.suppress(OSError):  # the engine is gone; its successor reads the files
        os.write(channel, json.dumps({"launch": directory, "error": error}).encode())


def supervise(directory: str, channel: int) -> None:
    """One container from its intent to its exit record."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for ignored in _IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    intent = os.path.join(directory, "launch.json")
    try:
        with open(intent, encoding="utf-8") as file:
            launch = json.load(file)
    except FileNotFoundError:
        started = os.path.exists(os.path.join(directory, "process.json"))
        answer(channel, directory, "" if started else "launch.json: no such file")
        return
    launch["staging"] = os.path.join(directory, "staging")
    try:
        go, problem, child = fork_container(launch)
    except OSError as error:
        answer(channel, directory, f"fork: {error.strerror}")
        return
    me = os.getpid()
    record = {
        "supervisor_pid": me,
        "supervisor_ticks": start_ticks(me),
        "pid": child,
        "pid_ticks": start_ticks(child),
        "boot_id": boot_id(),
        "started_at": time.time(),
    }
    try:
        if not claim(directory, record):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(intent)
            answer(channel, directory)
            return
    except OSError as error:
        answer(channel, directory, f"process.json: {error.strerror}")
        return
    with contextlib.suppress(BrokenPipeError):  # somebody has killed it already
        os.write(go, b"!")
    os.close(go)
    with open(problem, encoding="utf-8") as pipe:
        failure = pipe.read()
    os.unlink(intent)
    answer(channel, directory)
    os.close(channel)
    status, out_of_memory = attend(child, int(launch["memory_limit_bytes"]))
    end_descendants()
    ended = {"finished_at": time.time(), "out_of_memory": out_of_memory, "failure": failure}
    if failure:
        ended |= {"exit_code": START_ERROR, "signal": 0}
    elif os.WIFSIGNALED(status):
        ended |= {"exit_code": 128 + os.WTERMSIG(status), "signal": os.WTERMSIG(status)}
    else:
        ended |= {"exit_code": os.WEXITSTATUS(status), "signal": 0}
    write_exit(directory, ended)


def fork_container(launch: dict[str, Any]) -> tuple[int, int, int]:
    """Forks the container's process, which waits for a byte in the first pipe before it executes.

    Returns:
        The pipe to let it go, the pipe that tells why it could not be executed, and its pid. When
        the supervisor ends without letting it go, it ends too.
    """
    go_read, go_write = os.pipe()
    problem_read, problem_write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(go_read)
        os.close(problem_write)
        return go_write, problem_read, child
    try:
        os.close(go_write)
        os.setsid()
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() == parent and os.read(go_read, 1):
            os.write(problem_write, execute(launch).encode(errors="replace"))
    finally:
        os._exit(START_ERROR)


def execute(launch: dict[str, Any]) -> str:
    """Becomes the container's program, or says why it can not."""
    step = launch["log"]
    try:
        log = os.open(step, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if launch.get("mounts"):
            step = "mount"
            os.makedirs(launch["staging"], exist_ok=True)
            load_mounts().enter(launch["mounts"], launch["staging"])
        step = f"chdir: {launch['working_dir']}"
        os.chdir(launch["working_dir"])
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE)
        for ignored in (*_IGNORED, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGTERM,) if launch.get("holds_sigterm") else ())
        step = f'exec: "{launch["argv"][0]}"'
        os.execvpe(launch["argv"][0], launch["argv"], launch["environment"])
    except FileNotFoundError as error:
        if step.startswith("exec") and "/" not in launch["argv"][0]:
            return f"{step}: executable file not found in $PATH"
        return f"{step}: {error.strerror}"
    except (OSError, ValueError) as error:
        return f"{step}: {getattr(error, 'strerror', None) or error}"


def load_mounts() -> Any:
    """The file beside this one, which is no package's here."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("mounts", os.path.join(os.path.dirname(__file__), "mounts.py"))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def attend(child: int, limit_bytes: int) -> tuple[int, bool]:
    """Waits for the end of the main process. A limit of 0 is none.

    Returns:
        Its wait status, and whether it was killed for its memory.
    """
    out_of_memory = False
    interval_s = MEMORY_INTERVAL_S[0]
    while True:
        happened = signal.sigtimedwait(_SIGNALS, interval_s) if limit_bytes else signal.sigwaitinfo(_SIGNALS)
        if happened is None:
            headroom = limit_bytes - resident_bytes(limit_bytes)
            if headroom < 0:
                out_of_memory = True
                kill(child, signal.SIGKILL)
            interval_s = min(max(headroom / ALLOCATION_BYTES_PER_S, MEMORY_INTERVAL_S[0]), MEMORY_INTERVAL_S[1])
        elif happened.si_signo == signal.SIGCHLD:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == child:
                    return status, out_of_memory and os.WIFSIGNALED(status)
                if pid == 0:
                    break
        elif happened.si_signo == signal.SIGTERM:
            kill(-child, signal.SIGTERM)
        else:
            kill(child, signal.SIGKILL)


def kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # not reaped yet, so it is there; but it may have become another user's
        os.kill(pid, number)


def end_descendants() -> None:
    """Kills and reaps what the main process left behind, until nothing is left."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for pid in children_of(os.getpid()):
            kill(pid, signal.SIGKILL)
        os.waitpid(-1, 0)


def write_exit(directory: str, ended: dict[str, Any]) -> None:
    """A full disk delays the record; only the removal of its directory makes it void."""
    while True:
        try:
            write_atomically(os.path.join(directory, "exit.json"), ended)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(1.0)
        else:
            return


if __name__ == "__main__":
    serve(0)
