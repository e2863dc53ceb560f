"""An environment with flytekit, the SDK of Flyte 1, beside which the SDK of Flyte 2 can not always be installed.

Built once, outside of the tree; propfan is seen from there through a folder of links.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]

REQUIREMENTS: Final = (
    "flytekit>=1.16.31,<2",
    "kubernetes<37",  # flytekit's requirements hold python-dateutil below 3
    *("aiohttp", "anyio", "flyteidl2", "grpcio-health-checking", "grpcio-reflection", "msgspec", "obstore"),
    *("prometheus-client", "protobuf>=6.32", "pyyaml", "structlog", "uvloop"),
)
"""flytekit, and what propfan imports."""

_BUILD_LIMIT_S: Final = 900


def python() -> Path:
    """Its interpreter; the environment is built when it is not there yet.

    The test is skipped, with the reason, when it can not be built (no network).
    """
    identity = "\n".join((*REQUIREMENTS, sys.version))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "propfan" / "peers"
    folder = cache / f"flytekit-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _build(folder)
    return folder / "bin" / "python"


def _build(folder: Path) -> None:
    venv.EnvBuilder(with_pip=True, clear=True).create(folder)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, *REQUIREMENTS], capture_output=True, text=True, check=False, timeout=_BUILD_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"flytekit could not be installed within {_BUILD_LIMIT_S} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        pytest.skip(f"flytekit can not be installed: {lines[-1]}")
    (folder / "complete").touch()


def environment(folder: Path) -> dict[str, str]:
    """What its programs run with: propfan from the tree, by links below ``folder`` and without its compiled code."""
    links = folder / "links" / "propfan"
    links.mkdir(parents=True)
    for package in ("_speedups", "engine", "pluginmachinery", "plugins"):
        (links / package).symlink_to(REPOSITORY / package)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": f"{links.parent}{os.pathsep}{REPOSITORY}", "PROPFAN_PURE": "1"}
