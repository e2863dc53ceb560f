"""Whole files of this machine, read in threads of their own: a file system may be on a network, and hang."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from propfan.pluginmachinery.errors import ObjectTooLargeError

T = TypeVar("T")

_THREADS: Final = 4


class LocalFiles:
    """Safe for concurrent calls. Threads are started when they are first needed."""

    def __init__(self) -> None:
        self._threads: Final = ThreadPoolExecutor(_THREADS, "files")

    async def read(self, file: str, *, limit_bytes: int | None) -> bytes:
        """The content. What is not there is opened without waiting, so a named pipe keeps nobody.

        Raises:
            OSError: it can not be read; ``FileNotFoundError`` also of a folder.
            ObjectTooLargeError: it has more than ``limit_bytes``, and was not read.
        """
        return await self._run(lambda: _read(file, limit_bytes))

    async def size(self, file: str) -> int:
        """In bytes. Raises ``OSError``; ``FileNotFoundError`` also of a folder."""
        return await self._run(lambda: _size(file, Path(file).stat()))

    async def _run(self, how: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, how)


def _read(file: str, limit_bytes: int | None) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size_bytes = _size(file, os.fstat(descriptor))
        if limit_bytes is not None and size_bytes > limit_bytes:
            raise ObjectTooLargeError(file, size_bytes, limit_bytes)
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read() or b""
    finally:
        os.close(descriptor)


def _size(file: str, found: os.stat_result) -> int:
    if stat.S_ISDIR(found.st_mode):
        raise FileNotFoundError(f"{file} is a folder")
    return found.st_size
