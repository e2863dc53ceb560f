"""The real SDK of Flyte 1, in an environment of its own, drives propfan's connectors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from propfan.engine.connector_service import server
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.pluginmachinery.connector.registry import ConnectorOffer, Offers
from tests.peers import flytekit_environment
from tests.peers.flytekit_environment import REPOSITORY
from tests.peers.greeting import Greeter

pytestmark = pytest.mark.peer

EXAMPLE = REPOSITORY / "examples" / "training_connector"


@pytest.fixture(scope="module")
def interpreter() -> Path:
    return flytekit_environment.python()


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    return flytekit_environment.environment(tmp_path)


def command(interpreter: Path, *arguments: str) -> list[str]:
    return [str(interpreter), "-W", "ignore", "-m", "tests.peers.flytekit_client", *arguments]


def told(interpreter: Path, environ: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        command(interpreter, *arguments),
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.anyio
async def test_flytekit_drives_the_service(interpreter: Path, environ: Mapping[str, str], tmp_path: Path) -> None:
    sys.path.append(str(EXAMPLE))
    import training_connector

    offers = [ConnectorOffer(kind, "", kind.__name__) for kind in (training_connector.TrainingConnector, Greeter)]
    config = ConnectorServiceConfig(port=0, metrics_port=0, connectors={"training": {"folder": str(tmp_path / "jobs")}})
    async with server.opened(config, {}, Offers(offers, [])) as service:
        found = await anyio.to_thread.run_sync(told, interpreter, environ, "served", service.address)
    assert found["kinds"] == {"train-classifier": False, "greet": True}
    assert found["accuracy"] > 0.9
    assert found["greeting"] == "hello peer"


def test_flytekits_tasks_run_by_propfans_mixin(interpreter: Path, environ: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    found = told(interpreter, environ, "local", str(folder))
    assert found["accuracy"] > 0.9
    assert "Expected `int` >= 1 - at `$.epochs`" in found["wrong"]
    assert "task 'peers.train-classifier' took longer than 1 s; its job was deleted" in found["slow"]
    assert "Cannot find connector for task type: no-such-type and version: 0" in found["unknown"]
    assert sorted((job / "deleted").exists() for job in folder.iterdir()) == [False, True]


def test_flytekits_own_mixins_run_registered_connectors(
    interpreter: Path, environ: Mapping[str, str], tmp_path: Path
) -> None:
    found = told(interpreter, environ, "registered", str(tmp_path / "jobs"))
    assert found["accuracy"] > 0.9
    assert found["greeting"] == "hello peer"


def test_ctrl_c_deletes_the_job(interpreter: Path, environ: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    line = command(interpreter, "interrupted", str(folder))
    with subprocess.Popen(line, cwd=REPOSITORY, env=environ, stderr=subprocess.PIPE, text=True) as program:
        try:
            give_up_at = time.monotonic() + 120
            while not any(folder.glob("*/log.txt")):
                assert program.poll() is None, program.stderr and program.stderr.read()
                assert time.monotonic() < give_up_at
                time.sleep(0.1)
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=60)
        finally:
            program.kill()
    (job,) = folder.iterdir()
    assert (job / "deleted").exists(), errors
