"""A real S3 server on loopback: ``moto`` in an environment of its own, as it pins libraries that propfan needs newer."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO

import pytest

MOTO = "moto[server]==5.1.*"
_READY = re.compile(rb"Running on (http://127\.0\.0\.1:\d+)")


def installed_python() -> Path:
    """The interpreter of the environment, made when it is missing; skips when it can not be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "propfan"
    home, mark = cache / "moto-venv", cache / "moto-venv" / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "moto-venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (mark.exists() and mark.read_text() == MOTO):
            venv.create(home, with_pip=True, clear=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                pytest.skip(f"{MOTO} can not be installed: {done.stderr.strip().splitlines()[-1:]}")
            mark.write_text(MOTO)
    return home / "bin" / "python"


@contextmanager
def s3_server() -> Iterator[str]:
    """Its URL. Buckets are made by a PUT, with any credentials."""
    command = [str(installed_python()), "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    address: Future[str] = Future()

    def drain(log: IO[bytes]) -> None:
        for line in log:
            if not address.done() and (match := _READY.search(line)):
                address.set_result(match[1].decode())
        if not address.done():
            address.set_exception(RuntimeError("the S3 server ended before it listened"))

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment()) as server:
        assert server.stderr is not None
        reader = Thread(target=drain, args=(server.stderr,))
        reader.start()
        try:
            yield address.result(timeout=60)
        finally:
            server.terminate()
            reader.join()


def create_bucket(endpoint: str, bucket: str) -> None:
    request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1", "HOME": str(Path(sys.prefix).parent)}
