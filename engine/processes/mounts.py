# It is loaded for each container that mounts, so it imports little: no pathlib.
# ruff: noqa: PTH101, PTH102, PTH103, PTH112, PTH115, PTH116, PTH118, PTH120, PTH123, PTH211
"""Folders at paths of one process' own: what a container sees at the paths where its volumes are mounted.

A process that enters gets a mount namespace, and a user namespace around it where it is not the machine's
administrator; it keeps its user. Nobody else sees the mounts, and they end with it. Supervisors use this file
without the packages around it, so it imports nothing but the standard library.

Run as a program it ends with 0 where that is possible: kernels and container engines may forbid it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Mapping

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def enter(mounts: Mapping[str, str], staging: str) -> None:
    """Lets this process, which has one thread, see folders at other paths.

    A path that is not there is made within a copy of the folder above it that has all the same entries. The working
    directory must be set anew.

    Args:
        mounts: By absolute path, the folder that is seen there.
        staging: An empty folder; new ones are made in it.

    Raises:
        OSError: the machine does not allow it, or a path can not be a folder.
    """
    _unshare()
    _mount("none", "/", MS_REC | MS_PRIVATE)
    opened = {path: os.open(folder, os.O_PATH | os.O_DIRECTORY) for path, folder in mounts.items()}
    for number, (path, folder) in enumerate(sorted(opened.items())):
        real = os.path.realpath(path)
        if not os.path.isdir(real):
            copy = os.path.join(staging, str(number))
            os.mkdir(copy)
            _make(real, copy)
        _mount(f"/proc/self/fd/{folder}", real, MS_BIND | MS_REC)
    for folder in opened.values():
        os.close(folder)


def _unshare() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWNS) == 0:
        return
    if ctypes.get_errno() != errno.EPERM:
        raise _error("unshare")
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        raise _error("unshare")
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(content)


def _make(path: str, copy: str) -> None:
    """Makes a folder that is not there, for this process only."""
    above = os.path.dirname(path)
    while not os.path.isdir(above):
        if os.path.lexists(above):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), above)
        above = os.path.dirname(above)
    _mount("tmpfs", copy, MS_NOSUID | MS_NODEV, b"tmpfs")
    for entry in os.scandir(above):
        target = os.path.join(copy, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
            continue
        if entry.is_dir():
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
        _mount(entry.path, target, MS_BIND | MS_REC)
    os.makedirs(os.path.join(copy, os.path.relpath(path, above)))
    os.chmod(copy, os.stat(above).st_mode & 0o7777)
    if above == "/":
        os.chroot(copy)
    else:
        _mount(copy, above, MS_BIND | MS_REC)


def _mount(source: str, target: str, flags: int, kind: bytes | None = None) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None) != 0:
        raise _error(target)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def _probe() -> int:
    with tempfile.TemporaryDirectory() as folder:
        staging = os.path.join(folder, "staging")
        os.mkdir(staging)
        child = os.fork()
        if child == 0:
            try:
                enter({os.path.join(folder, "there", "it", "is"): staging, "/propfan-probe": folder}, staging)
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(_probe())
