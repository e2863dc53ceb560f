"""What the pages on webhooks and sensors show is good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.connector import HttpResponse, JobContext, RemotePhase, TaskRequest
from propfan.pluginmachinery.testing import (
    FakeHttp,
    HttpCall,
    InMemoryStore,
    connector_setup,
    connector_task,
    http_answer,
    literal_map,
)
from propfan.plugins.connectors.sensor import Look
from propfan.plugins.connectors.sensor.config import SensorConfig
from propfan.plugins.connectors.sensor.connector import SensorConnector
from propfan.plugins.connectors.sensor.sensors import OWN, HttpWatch
from propfan.plugins.connectors.webhook.connector import WebhookConfig, WebhookConnector, WebhookSpec

DOCS = Path(__file__).parents[4] / "docs" / "connectors"
WEBHOOK = (DOCS / "webhook.md").read_text()
SENSOR = (DOCS / "sensor.md").read_text()

pytestmark = pytest.mark.anyio


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def task(page: str, secrets: dict[str, str] | None = None, **inputs: Any) -> TaskRequest:
    """The first file that the page shows."""
    template = tasks_pb2.TaskTemplate()
    json_format.ParseDict(yaml.safe_load(blocks(page, "yaml")[0]), template)
    return connector_task(template, literal_map(**inputs), secrets=secrets)


def fields(page: str) -> set[str]:
    """In the first columns of all tables."""
    return {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


async def test_the_webhook_of_the_page_is_sent() -> None:
    def answer(call: HttpCall) -> HttpResponse:
        assert call.url == "https://hooks.example.com/runs/r1"
        assert call.headers["authorization"] == "Bearer t0ken"
        return http_answer(202, body=b"ok")

    connector = WebhookConnector(connector_setup(http=FakeHttp(answer)))
    resource = await connector.do(task(WEBHOOK, {"team_token": "t0ken"}, run="r1", rows=3))
    assert f"succeeded: {resource.message}\n" in WEBHOOK
    assert resource.outputs is not None
    assert msgspec.json.encode(resource.outputs, order="sorted") == msgspec.json.encode(
        msgspec.json.decode(blocks(WEBHOOK, "console")[0].splitlines()[-1]), order="sorted"
    )


async def test_the_sensor_of_the_page_waits() -> None:
    store = InMemoryStore()
    connector = SensorConnector(connector_setup(store=store))
    meta = await connector.create(task(SENSOR, path="/data/ready"))
    assert f"running: {(await connector.get(meta, JobContext())).message}\n" in SENSOR
    store.objects["/data/ready"] = b""
    resource = await connector.get(meta, JobContext())
    assert resource.phase is RemotePhase.SUCCEEDED
    assert f"succeeded: {resource.message}\n" in SENSOR


async def test_the_sensor_that_the_page_teaches_looks() -> None:
    (written,) = (block for block in blocks(SENSOR, "python") if "class RowsSensor" in block)
    names: dict[str, Any] = {}
    exec(written, names)
    setup = connector_setup(http=FakeHttp(lambda _: http_answer(200, 7)))
    look = await names["RowsSensor"](setup).poke("events", at_least=9)
    assert look == Look(is_over=False, message="events has 7 of 9 rows")


def test_all_fields_and_sensors_are_there() -> None:
    specs = {field.encode_name for field in msgspec.structs.fields(WebhookSpec)}
    assert specs <= fields(WEBHOOK)
    watch = {field.encode_name for field in msgspec.structs.fields(HttpWatch)}
    assert watch | {kind.__name__ for kind in OWN} <= fields(SENSOR)


@pytest.mark.parametrize(
    ("page", "name", "kind"), [(WEBHOOK, "webhook", WebhookConfig), (SENSOR, "sensor", SensorConfig)]
)
def test_settings_are_all_there_with_their_defaults(page: str, name: str, kind: Any) -> None:
    printed = yaml.safe_load(blocks(page, "yaml")[-1])["connectors"]
    assert connector_setup(sections=printed).section(name, kind) == kind()
    assert set(printed[name]) == {field.encode_name for field in msgspec.structs.fields(kind)}
    assert set(printed[name]["hosts"]) == {"allow", "deny", "allow-loopback"}
