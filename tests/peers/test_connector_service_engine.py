"""propfan's engine and propfan's connector service: a task from its submission to its outputs, over gRPC."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from flyteidl2.core import types_pb2
from flyteidl2.task import common_pb2

from propfan.engine import Engine, Submission
from propfan.engine.connector_service import server
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector import (
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
    values,
)
from propfan.pluginmachinery.connector.registry import ConnectorOffer, Offers
from propfan.pluginmachinery.testing import literal_map, task_template
from tests.peers.connector_peers import engine_with
from tests.peers.flytekit_environment import REPOSITORY
from tests.peers.greeting import Greeter

pytestmark = [pytest.mark.peer, pytest.mark.anyio]

sys.path.append(str(REPOSITORY / "examples" / "training_connector"))


class Secretive(SyncConnector):
    """Needs a secret that nobody gives it."""

    name = "Secretive"
    categories = (TaskCategory("secretive"),)

    async def do(self, task: TaskRequest) -> Resource:
        await self.get_secret("vault_key", task.connection)
        return Resource(RemotePhase.SUCCEEDED)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    import training_connector

    kinds: Any = (training_connector.TrainingConnector, Greeter, Secretive)
    offers = Offers([ConnectorOffer(kind, "", kind.__name__) for kind in kinds], [])
    config = ConnectorServiceConfig(port=0, metrics_port=0, connectors={"training": {"folder": str(tmp_path / "jobs")}})
    async with (
        server.opened(config, {}, offers) as service,
        engine_with(int(service.address.rsplit(":", 1)[1]), tmp_path / "state") as running,
    ):
        yield running


async def submit(engine: Engine, task_type: str, custom: Any = None, inputs: Any = None, **outputs: Any) -> TaskKey:
    declared = dict.fromkeys(inputs or (), types_pb2.STRING)
    template = task_template(task_type, custom=custom, inputs=declared, outputs=outputs)
    given = literal_map(**inputs).SerializeToString() if inputs else None
    return await engine.submit(Submission(template=template.SerializeToString(), inputs=given))


async def outputs_of(engine: Engine, key: TaskKey) -> dict[str, Any]:
    status = await engine.wait(key)
    assert status.outcome is Outcome.COMPLETED, status
    content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
    return values.to_natives(common_pb2.Inputs.FromString(content))


async def test_a_job_is_run_to_its_outputs(engine: Engine) -> None:
    with anyio.fail_after(90):
        key = await submit(engine, "train-classifier", {"epochs": 20}, accuracy=types_pb2.FLOAT)
        assert (await outputs_of(engine, key))["accuracy"] > 0.9


async def test_a_synchronous_task_is_run_to_its_outputs(engine: Engine) -> None:
    with anyio.fail_after(90):
        key = await submit(engine, "greet", inputs={"name": "engine"}, greeting=types_pb2.STRING)
        assert await outputs_of(engine, key) == {"greeting": "hello engine"}


async def test_a_task_that_is_wrong_fails_with_its_field(engine: Engine) -> None:
    with anyio.fail_after(90):
        status = await engine.wait(await submit(engine, "train-classifier", {"epochs": 0}))
        assert status.outcome is Outcome.FAILED
        assert status.error is not None
        assert "Expected `int` >= 1 - at `$.epochs`" in status.error.message


async def test_a_missing_secret_fails_the_task_by_name(engine: Engine) -> None:
    with anyio.fail_after(90):
        status = await engine.wait(await submit(engine, "secretive"))
        assert status.outcome is Outcome.FAILED
        assert status.error is not None
        assert "set the variable _FSEC_VAULT_KEY or the file /etc/secrets/vault_key" in status.error.message


async def test_an_aborted_task_deletes_its_job(engine: Engine, tmp_path: Path) -> None:
    with anyio.fail_after(90):
        key = await submit(engine, "train-classifier", {"epochs": 10_000})
        async with engine.events(key=key) as events:
            async for _, event in events:
                if event.phase.name == "RUNNING":
                    break
        await engine.abort(key, "enough")
        assert (await engine.wait(key)).outcome is Outcome.ABORTED
        (job,) = [path async for path in anyio.Path(tmp_path / "jobs").iterdir()]
        while not await (job / "deleted").exists():  # noqa: ASYNC110 - a file tells nobody
            await anyio.sleep(0.05)
