"""Virtual environments with programs from PyPI, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from tests.cluster import cache


def environment(name: str, *requirements: str) -> Path:
    """The folder of a virtual environment that has exactly these requirements and what they need.

    Raises:
        UnavailableError: pip can not install them; the message has its last words.
    """
    home = _home(name, requirements)
    complete = home / "complete"
    if complete.exists():
        return home
    with cache.exclusive(name):
        if not complete.exists():  # else another process made it meanwhile
            cache.say(f"installing {', '.join(requirements)} from PyPI, once")
            venv.create(home, with_pip=True, clear=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run([*pip, *requirements], capture_output=True, text=True, check=False)
            if done.returncode:
                last_words = "\n".join(done.stderr.splitlines()[-10:])
                raise cache.UnavailableError(f"{', '.join(requirements)} can not be installed:\n{last_words}")
            complete.touch()
    return home


def exists(name: str, *requirements: str) -> bool:
    """Whether ``environment`` has nothing to install."""
    return (_home(name, requirements) / "complete").exists()


def _home(name: str, requirements: tuple[str, ...]) -> Path:
    digest = hashlib.sha256(repr((requirements, sys.version_info[:3])).encode()).hexdigest()[:16]
    return cache.folder() / f"{name}-{digest}"
