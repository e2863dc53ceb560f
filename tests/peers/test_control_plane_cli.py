"""The command line of the released SDK against ``propfan up``, with its settings in a file as its users have them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.control_plane import PROGRAMS, RunningPlane

pytestmark = pytest.mark.peer

CONFIG = """\
admin:
  endpoint: dns:///{endpoint}
  insecure: true
image:
  builder: local
task:
  project: demo
  domain: development
"""


class Flyte:
    """The command, and the folder it is called in."""

    def __init__(self, plane: RunningPlane) -> None:
        self._environment = {**plane.environment(), "NO_COLOR": "1", "COLUMNS": "300", "TERM": "dumb"}
        settings = Path(self._environment["HOME"]) / ".flyte" / "config.yaml"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(CONFIG.format(endpoint=plane.endpoint), encoding="utf-8")

    def __call__(self, *arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "flyte"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=PROGRAMS, env=self._environment, timeout=240, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def flyte(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flyte]:
    with RunningPlane.started(tmp_path_factory.mktemp("plane")) as plane:
        yield Flyte(plane)


def test_a_run_from_the_prompt_to_its_logs(flyte: Flyte) -> None:
    said = flyte("run", "--follow", "nesting.py", "main", "--x", "1")
    found = re.search(r"Created Run: (\w+)", said)
    assert found is not None, said
    run = found[1]
    assert run in flyte("get", "run")
    assert "nesting.leaf" in flyte("get", "action", run)
    assert "Flyte runtime started" in flyte("get", "logs", run, "a0")
    assert "'3'" in flyte("get", "io", run).replace('"', "'")


def test_a_task_that_was_deployed_is_listed_and_run_by_its_name(flyte: Flyte) -> None:
    flyte("deploy", "--version", "v7", "deployed.py", "env")
    assert "deployed.main" in flyte("get", "task")
    assert "Created Run" in flyte("run", "--follow", "deployed-task", "deployed.main", "--x", "3")


def test_secrets_are_made_listed_and_removed(flyte: Flyte) -> None:
    flyte("create", "secret", "token-of-mine", "--value", "hush")
    listed = flyte("get", "secret")
    assert "token-of-mine" in listed
    assert "hush" not in listed
    flyte("delete", "secret", "token-of-mine")
    assert "token-of-mine" not in flyte("get", "secret")


def test_a_run_is_aborted(flyte: Flyte) -> None:
    said = flyte("run", "aborting.py", "main")
    run = re.search(r"Created Run: (\w+)", said)
    assert run is not None, said
    flyte("abort", "run", run[1])
    assert re.search(r"aborted", flyte("get", "run", run[1]), re.IGNORECASE)
