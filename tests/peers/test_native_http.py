"""Webhooks and sensors of the real flytekit, unchanged, by propfan's connectors."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from aiohttp import web

from propfan.engine import Submission
from propfan.engine.connector_service import server
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector.registry import ConnectorOffer, Offers
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.sensor.connector import SensorConnector
from propfan.plugins.connectors.webhook.connector import WebhookConnector
from tests.peers import environments, flytekit_environment
from tests.peers.connector_peers import engine_with
from tests.peers.flytekit_environment import REPOSITORY
from tests.peers.test_connector_engine_flytekit import PROGRAM, REQUIREMENTS
from tests.unit.plugins.connectors.receivers import Received, Receiver, receiving

pytestmark = [pytest.mark.peer, pytest.mark.anyio]

CONFIG = ConnectorServiceConfig(port=0, metrics_port=0, connectors={"webhook": {"hosts": {"allow-loopback": True}}})


@pytest.fixture(scope="module")
def with_httpx() -> Path:
    """An interpreter of an environment whose flytekit has its webhooks."""
    return environments.folder("flytekit-connectors", REQUIREMENTS) / "bin" / "python"


def told(interpreter: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    program = "tests.peers.programs.flytekit_http_tasks"
    done = subprocess.run(
        [str(interpreter), "-W", "ignore", "-m", program, *arguments],
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


def answer(request: Received) -> web.Response:
    if request.path == "/missing":
        return web.Response(status=404, text="no such hook")
    return web.json_response({"took": request.path})


def sent(receiver: Receiver) -> list[Any]:
    """What counts of the requests, and forgets them."""
    found = [
        (each.method, each.path, sorted(each.query), each.headers.get("x-who"), each.body and each.json())
        for each in receiver.received
    ]
    receiver.received.clear()
    return found


async def test_flytekits_webhooks_and_sensors_run_by_the_service_as_they_do_alone(
    with_httpx: Path, tmp_path: Path
) -> None:
    offers = [ConnectorOffer(kind, "", kind.__name__) for kind in (WebhookConnector, SensorConnector)]
    async with receiving(Receiver(answer)) as receiver:
        async with server.opened(CONFIG, {}, Offers(offers, [])) as service:
            found = await anyio.to_thread.run_sync(
                told, with_httpx, "served", service.address, receiver.url, str(tmp_path)
            )
        keys = [each.headers.get("idempotency-key", "") for each in receiver.received]
        by_us = sent(receiver)
        alone = await anyio.to_thread.run_sync(told, with_httpx, "alone", receiver.url)
        by_flytekit = sent(receiver)
    assert found.pop("phases") == [
        f"{tmp_path}/ready is not there",
        f"SUCCEEDED: {tmp_path}/ready is there, 0 bytes",
    ]
    assert "Webhook failed with status code 404, response: no such hook" in found.pop("refused")
    assert "Webhook failed with status code 404, response: no such hook" in alone.pop("refused")
    assert found == alone
    assert found["post"]["url"] == f"{receiver.url}/peer/hook"
    assert found["post"]["input_data"] == {"n": 3, "text": "peer has 3", "deep": {"parts": [1, 2]}, "answer": 42}
    assert by_us == by_flytekit
    assert [bool(key) for key in keys] == [True, False, True, True]


async def test_sensors_of_a_user_run_where_their_module_is_named(tmp_path: Path) -> None:
    environ = flytekit_environment.environment(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    interpreter = flytekit_environment.python()
    found = await anyio.to_thread.run_sync(lambda: told(interpreter, "local", str(folder), environ=environ))
    assert found["files"] >= 3
    assert found["is_sensor"]
    assert "name the module in connectors.sensor.modules" in found["unnamed"]


async def test_an_engine_runs_flytekits_templates_by_the_service(with_httpx: Path, tmp_path: Path) -> None:
    offers = [ConnectorOffer(kind, "", kind.__name__) for kind in (WebhookConnector, SensorConnector)]
    made = tmp_path / "templates.json"
    async with receiving(Receiver(answer)) as receiver:
        command = [str(with_httpx), "-W", "ignore", str(PROGRAM), receiver.url, str(made)]
        await anyio.to_thread.run_sync(lambda: subprocess.run(command, check=True, capture_output=True, timeout=300))
        templates = {name: base64.b64decode(content) for name, content in json.loads(made.read_text()).items()}
        async with server.opened(CONFIG, {}, Offers(offers, [])) as service:
            port = int(service.address.rpartition(":")[2])
            async with engine_with(port, tmp_path / "engine") as engine:
                with anyio.fail_after(60):
                    hook = await engine.submit(Submission(template=templates["webhook"]))
                    path = literal_map(path=str(tmp_path / "ready")).SerializeToString()
                    sensor = await engine.submit(Submission(template=templates["sensor"], inputs=path))
                    hooked = await engine.wait(hook)
                    (tmp_path / "ready").touch()
                    sensed = await engine.wait(sensor)
    assert (hooked.outcome, sensed.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
    assert receiver.last.json() == {"answer": 42}
