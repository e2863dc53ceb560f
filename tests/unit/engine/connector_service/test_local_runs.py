from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.task import common_pb2

from propfan.engine.connector_service import local_runs
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.pluginmachinery.connector import RemotePhase, Resource, SyncConnector, TaskCategory, TaskRequest, values
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    ConnectorError,
    ConnectorNotFoundError,
    ObjectNotFoundError,
    PermanentError,
)
from propfan.pluginmachinery.testing import connector_setup, task_template
from tests.unit.engine.connector_service.rig import greeting

pytestmark = pytest.mark.anyio


class Writer(SyncConnector):
    """Leaves its outputs below the prefix, as a job does."""

    name = "Writer"
    categories = (TaskCategory("greet"),)
    closed: list[str] = []  # noqa: RUF012 - shared by the tests on purpose

    async def do(self, task: TaskRequest) -> Resource:
        outputs = values.to_outputs(self.name, {"greeting": task.output_prefix})
        if task.template.custom["answer"] != "nothing":
            await self.setup.store.put(f"{task.output_prefix}/outputs.pb", outputs.SerializeToString())
        return Resource(RemotePhase.SUCCEEDED)

    async def close(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> ConnectorServiceConfig:
    module = types.ModuleType("local_connectors")
    module.__dict__["connectors"] = [Writer]
    monkeypatch.setitem(sys.modules, "local_connectors", module)
    return ConnectorServiceConfig(modules=("local_connectors",), entry_points=False)


async def run(config: ConnectorServiceConfig, template: Any, **settings: Any) -> local_runs.LocalOutcome:
    async with local_runs.opened(config, {}) as connectors:
        return await local_runs.run(connectors, template, common_pb2.Inputs(), **settings)


async def test_outputs_are_read_where_the_job_left_them(
    config: ConnectorServiceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = await run(config, greeting(answer="x"), output_prefix=f"file://{tmp_path}/out")
    assert outcome.outputs is not None
    assert outcome.outputs.literals[0].value.scalar.primitive.string_value == f"file://{tmp_path}/out"
    monkeypatch.chdir(tmp_path)
    outcome = await run(config, greeting(answer="x"))
    assert outcome.outputs is not None
    prefix = outcome.outputs.literals[0].value.scalar.primitive.string_value
    assert prefix.startswith(f"{tmp_path.as_uri()}/propfan-data/connectors/")


async def test_outputs_that_are_not_there_are_told(config: ConnectorServiceConfig, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match=r"outputs\.pb"):
        await run(config, greeting(answer="nothing"), output_prefix=f"file://{tmp_path}")
    template = greeting(answer="nothing")
    template.interface.outputs.Clear()
    assert (await run(config, template)).outputs is None


async def test_connectors_are_closed(config: ConnectorServiceConfig) -> None:
    before = len(Writer.closed)
    with pytest.raises(ConnectorNotFoundError):
        await run(config, task_template("absent"))
    assert len(Writer.closed) == before + 1


async def test_what_is_refused_is_told() -> None:
    with pytest.raises(ConnectorError, match="absent_module"):
        async with local_runs.opened(ConnectorServiceConfig(modules=("absent_module",), entry_points=False), {}):
            pytest.fail("it is open")


async def test_a_connection_has_the_secrets_that_custom_names() -> None:
    setup = connector_setup(
        secrets={"service_key": "from the service"}, environment={"MY_TOKEN": "from the environment"}
    )
    template = task_template("t", custom={"secrets": {"a": "MY_TOKEN", "b": "service_key"}, "configs": {"url": "x"}})
    connection = await local_runs.connection_of(template, setup)
    assert connection.secrets == {"a": "from the environment", "b": "from the service"}
    assert connection.configs == {"url": "x"}
    assert not (await local_runs.connection_of(task_template("t"), setup)).secrets


async def test_a_connection_that_is_none_is_refused() -> None:
    setup = connector_setup()
    with pytest.raises(
        PermanentError, match=r"Secret ABSENT not found in environment \(it is 'a' in custom\.secrets\)"
    ):
        await local_runs.connection_of(task_template("t", custom={"secrets": {"a": "ABSENT"}}), setup)
    with pytest.raises(BadTaskSpecificationError, match=r"task 'sample': custom\.secrets must map names to texts"):
        await local_runs.connection_of(task_template("t", custom={"secrets": {"a": 7}}), setup)
    assert (await local_runs.connection_of(task_template("t", custom={"secrets": None}), setup)).secrets == {}
    assert (await local_runs.connection_of(task_template("t", custom={"secrets": {"a": None}}), setup)).secrets == {}
