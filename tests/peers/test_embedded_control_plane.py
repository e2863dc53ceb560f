"""Flyte's services in somebody else's web application, met by the released SDK."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.peers.control_plane import RunningPlane

pytestmark = pytest.mark.peer

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_example_runs_a_program_and_has_a_page_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the example is written with starlette")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "examples.embed_control_plane", str(port)]
    with subprocess.Popen(command, cwd=REPOSITORY) as application:
        try:
            deadline = time.monotonic() + 60
            while not _answers(url):
                assert application.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            client = RunningPlane(tmp_path)
            client.url = url
            client.log.touch()
            assert client.run_program("fan_out") == 30
            with urllib.request.urlopen(f"{url}/runs") as answer:
                assert len(json.load(answer)) == 1
        finally:
            application.terminate()
            application.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
