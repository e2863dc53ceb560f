"""What is costly to make and kept outside of the tree: ``$PROPFAN_CACHE_DIR``, or else ``propfan`` in
``$XDG_CACHE_HOME`` or ``~/.cache``. It can be deleted at any time.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UnavailableError(RuntimeError):
    """Something is not in the cache and can not be made here: no Go, or no way to what it is made from."""


def folder() -> Path:
    """What the test cluster keeps. Made when it is missing."""
    chosen = os.environ.get("PROPFAN_CACHE_DIR")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "propfan"
    found = base / "cluster"
    found.mkdir(parents=True, exist_ok=True)
    return found


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Of several processes that make ``name``, one at a time."""
    with (folder() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process makes {name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    """Tells people why they wait."""
    print(f"test cluster: {text}", file=sys.stderr, flush=True)
