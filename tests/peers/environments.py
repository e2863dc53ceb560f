"""Virtual environments of peers that can not be installed beside propfan: built once, outside of the tree."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

_BUILD_LIMIT_S: Final = 900


def folder(name: str, requirements: Sequence[str], *, alone: Sequence[str] = ()) -> Path:
    """The environment that has ``requirements``, built when it is not there yet.

    The test is skipped, with the reason, when it can not be built (no network).

    Args:
        alone: Requirements that are installed without what they depend on.
    """
    identity = hashlib.sha256("\n".join((*requirements, *alone, sys.version)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "propfan" / "peers"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / f"{name}-{identity}"
    with (cache / f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "complete").exists():
            venv.EnvBuilder(with_pip=True, clear=True).create(made)
            _install(made, *requirements)
            if alone:
                _install(made, "--no-deps", *alone)
            (made / "complete").touch()
    return made


def _install(made: Path, *requirements: str) -> None:
    pip = [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*pip, *requirements], capture_output=True, text=True, check=False, timeout=_BUILD_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{', '.join(requirements)} could not be installed within {_BUILD_LIMIT_S} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        pytest.skip(f"{', '.join(requirements)} can not be installed: {lines[-1]}")
