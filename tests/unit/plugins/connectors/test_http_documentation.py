"""What the pages on webhooks and sensors show is good."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.connector import HttpResponse, JobContext, RemotePhase
from propfan.pluginmachinery.testing import (
    FakeHttp,
    HttpCall,
    InMemoryStore,
    connector_setup,
    http_answer,
)
from propfan.plugins.connectors.sensor import Look
from propfan.plugins.connectors.sensor.connector import SensorConnector
from propfan.plugins.connectors.sensor.sensors import OWN, HttpWatch
from propfan.plugins.connectors.webhook.connector import WebhookConnector, WebhookSpec
from tests.unit.plugins.connectors.pages import Page

WEBHOOK, SENSOR = Page("webhook"), Page("sensor")

pytestmark = pytest.mark.anyio


def fields(page: Page) -> set[str]:
    """In the first columns of all tables."""
    return {
        name for row in re.findall(r"^\| (`.*?) \|", page.text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }


async def test_the_webhook_of_the_page_is_sent() -> None:
    def answer(call: HttpCall) -> HttpResponse:
        assert call.url == "https://hooks.example.com/runs/r1"
        assert call.headers["authorization"] == "Bearer t0ken"
        return http_answer(202, body=b"ok")

    connector = WebhookConnector(connector_setup(http=FakeHttp(answer)))
    resource = await connector.do(WEBHOOK.task({"team_token": "t0ken"}, run="r1", rows=3))
    assert f"succeeded: {resource.message}\n" in WEBHOOK.text
    assert resource.outputs is not None
    assert msgspec.json.encode(resource.outputs, order="sorted") == msgspec.json.encode(
        msgspec.json.decode(WEBHOOK.blocks("console")[0].splitlines()[-1]), order="sorted"
    )


async def test_the_sensor_of_the_page_waits() -> None:
    store = InMemoryStore()
    connector = SensorConnector(connector_setup(store=store))
    meta = await connector.create(SENSOR.task(path="/data/ready"))
    assert f"running: {(await connector.get(meta, JobContext())).message}\n" in SENSOR.text
    store.objects["/data/ready"] = b""
    resource = await connector.get(meta, JobContext())
    assert resource.phase is RemotePhase.SUCCEEDED
    assert f"succeeded: {resource.message}\n" in SENSOR.text


async def test_the_sensor_that_the_page_teaches_looks() -> None:
    (written,) = (block for block in SENSOR.blocks("python") if "class RowsSensor" in block)
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
