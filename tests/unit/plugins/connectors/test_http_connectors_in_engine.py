"""Webhooks and sensors as tasks of a whole engine, by the connector service that is really served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from flyteidl2.core import types_pb2
from flyteidl2.task import common_pb2

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.task_events import ActionPhase
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector import values
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from propfan.plugins.connectors.sensor.connector import SensorConnector
from propfan.plugins.connectors.webhook.connector import WebhookConnector
from tests.unit.engine.connector_service.rig import serving
from tests.unit.plugins.connector.rig import engine_at, quick_looks, submit, template
from tests.unit.plugins.connectors.receivers import Receiver, never, receiving

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

CONFIG = ConnectorServiceConfig(
    port=0,
    metrics_port=0,
    drain_s=5,
    connectors={"webhook": {"hosts": {"allow-loopback": True}}, "sensor": {"hosts": {"allow-loopback": True}}},
)


def outputs_in(store: InMemoryStore) -> dict[str, Any]:
    (path,) = (path for path in store.objects if path.endswith("/outputs.pb"))
    return values.to_natives(common_pb2.Inputs(literals=common_pb2.Outputs.FromString(store.objects[path]).literals))


async def test_a_webhook_is_delivered_and_its_answer_is_the_output() -> None:
    store = InMemoryStore()
    async with (
        receiving(Receiver(lambda _: web.json_response({"took": True}, status=202))) as receiver,
        serving(WebhookConnector, SensorConnector, config=CONFIG) as service,
        engine_at(service.service.address, store=store) as engine,
    ):
        custom = {"url": f"{receiver.url}/hook", "method": "POST", "data": {"n": "{inputs.n}"}, "show_data": True}
        made = template("webhook", custom=custom, inputs={"n": types_pb2.INTEGER}, outputs={"info": types_pb2.STRUCT})
        with anyio.fail_after(20):
            status = await engine.wait(await submit(engine, made, inputs=literal_map(n=3).SerializeToString()))
    assert (status.phase, status.outcome) == (Phase.SUCCESS, Outcome.COMPLETED)
    (received,) = receiver.received
    assert received.json() == {"n": 3}
    info = outputs_in(store)["info"]
    assert (info["status_code"], msgspec.json.decode(info["response_data"])) == (202, {"took": True})
    assert info["input_data"] == {"n": 3}


async def test_a_webhook_that_is_refused_fails_its_task_with_the_answer() -> None:
    async with (
        receiving(Receiver(lambda _: web.Response(status=422, text="no such colour"))) as receiver,
        serving(WebhookConnector, SensorConnector, config=CONFIG) as service,
        engine_at(service.service.address) as engine,
    ):
        made = template("webhook", custom={"url": receiver.url}, outputs={"info": types_pb2.STRUCT})
        with anyio.fail_after(20):
            status = await engine.wait(await submit(engine, made))
    assert status.phase is not Phase.SUCCESS
    assert "status code 422, response: no such colour" in str(status)
    assert len(receiver.received) == 1


async def test_a_post_whose_fate_is_unknown_is_repeated_by_the_tasks_retries_under_another_key() -> None:
    answers = iter([web.Response(status=502), web.Response(text="fine")])
    async with (
        receiving(Receiver(lambda _: next(answers))) as receiver,
        serving(WebhookConnector, SensorConnector, config=CONFIG) as service,
        engine_at(service.service.address) as engine,
    ):
        made = template("webhook", retries=1, custom={"url": receiver.url}, outputs={"info": types_pb2.STRUCT})
        with anyio.fail_after(20):
            status = await engine.wait(await submit(engine, made))
    assert status.phase is Phase.SUCCESS
    first, second = (each.headers["idempotency-key"] for each in receiver.received)
    assert first != second


async def test_a_receiver_that_does_not_answer_in_time_is_told_once() -> None:
    """Though the task would wait for longer than the engine does."""
    async with (
        receiving(Receiver(never)) as receiver,
        serving(WebhookConnector, SensorConnector, config=CONFIG) as service,
        engine_at(service.service.address, deployment={"defaultTimeout": "1s"}) as engine,
    ):
        made = template("webhook", custom={"url": receiver.url, "timeout_sec": 60}, outputs={"info": types_pb2.STRUCT})
        with anyio.fail_after(20):
            status = await engine.wait(await submit(engine, made))
    assert "the receiver may have taken it" in str(status)
    assert len(receiver.received) == 1


async def test_a_sensor_runs_until_its_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "ready"
    custom = {"sensor_module": "flytekit.sensor.file_sensor", "sensor_name": "FileSensor"}
    async with (
        serving(WebhookConnector, SensorConnector, config=CONFIG) as service,
        engine_at(service.service.address) as engine,
    ):
        made = template("sensor", custom=custom, inputs={"path": types_pb2.STRING})
        with anyio.fail_after(30):
            key = await submit(engine, made, inputs=literal_map(path=str(path)).SerializeToString())
            async with engine.events(key=key) as events:
                async for _, event in events:
                    assert not event.is_final, event
                    if event.phase is ActionPhase.RUNNING:
                        path.touch()
                        break
            status = await engine.wait(key)
    assert status.phase is Phase.SUCCESS


async def test_a_sensor_ends_with_the_timeout_of_its_task(tmp_path: Path) -> None:
    custom = {"sensor_module": "flytekit.sensor.file_sensor", "sensor_name": "FileSensor"}
    async with (
        serving(WebhookConnector, SensorConnector, config=CONFIG) as service,
        engine_at(service.service.address) as engine,
    ):
        made = template("sensor", custom=custom, inputs={"path": types_pb2.STRING})
        made.metadata.timeout.FromMilliseconds(500)
        inputs = literal_map(path=str(tmp_path / "never")).SerializeToString()
        with anyio.fail_after(30):
            status = await engine.wait(await submit(engine, made, inputs=inputs))
    assert status.outcome is Outcome.TIMED_OUT
