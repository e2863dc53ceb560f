"""Runs one program and ends it when its owner is gone: ``python keeper.py GRACE_S PROGRAM [ARGUMENT ...]``.

Standard input is the owner's hand: a byte is the number of a signal for the program's whole process group, the end
of the input means that the owner closed it or died: the group gets SIGTERM, and SIGKILL after ``GRACE_S`` seconds.
Ends as the program did. A program whose keeper is killed is killed by the kernel.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
IGNORED = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and an end of the session, are the owner's to act on


def main(grace_s: float, command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in IGNORED:  # what is ignored stays ignored across exec
            signal.signal(number, signal.SIG_DFL)

    # Here is one thread only, so that code between fork and exec is safe.
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=prepare)  # noqa: PLW1509
    ended = os.pidfd_open(program.pid)
    events = select.poll()
    events.register(ended, select.POLLIN)
    events.register(sys.stdin.fileno(), select.POLLIN)
    while program.returncode is None:
        ready = {descriptor for descriptor, _ in events.poll()}
        if ended in ready:
            program.wait()
        elif number := os.read(sys.stdin.fileno(), 1):
            os.killpg(program.pid, number[0])
        else:
            stop(program, ended, grace_s)
    return program.returncode if program.returncode >= 0 else 128 - program.returncode


def stop(program: subprocess.Popen[bytes], ended: int, grace_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGCONT):
        os.killpg(program.pid, number)
    select.select([ended], [], [], grace_s)
    os.killpg(program.pid, signal.SIGKILL)  # the program is not waited for yet, so its group exists
    program.wait()


if __name__ == "__main__":
    for ignored in IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    raise SystemExit(main(float(sys.argv[1]), sys.argv[2:]))
