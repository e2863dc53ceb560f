"""Statements as tasks of a whole engine, by the connector service that is really served."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import msgspec
import pytest
from flyteidl2.core import literals_pb2, types_pb2

from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.sqlalchemy import SQLAlchemyConnector
from tests.unit.engine.connector_service.rig import CONFIG, serving
from tests.unit.plugins.connector.rig import engine_at, quick_looks, run, submit
from tests.unit.plugins.connectors.sqlalchemy.rig import template

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "pets.db"
    connection = sqlite3.connect(found)
    with connection:
        connection.execute("create table pets (name text, age integer)")
        connection.execute("insert into pets values ('tom', 9), ('ada', 3)")
    connection.close()
    return found


async def test_rows_of_a_query_are_the_output_of_its_task(file: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, connectors={"sqlalchemy": {"sqlite-folders": [str(tmp_path)]}})
    async with (
        serving(SQLAlchemyConnector, config=config) as service,
        engine_at(service.service.address, tmp_path / "engine") as engine,
    ):
        made = template("select name from pets where age > {{.inputs.least}}", f"sqlite:///{file}")
        made.interface.inputs.variables.add(key="least").value.type.simple = types_pb2.INTEGER
        with anyio.fail_after(20):
            inputs = literal_map(least=5).SerializeToString()
            status = await engine.wait(await submit(engine, made, inputs=inputs))
        assert status.outcome is Outcome.COMPLETED, status
        content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
        schema = literals_pb2.LiteralMap.FromString(content).literals["results"].scalar.schema
        assert schema.uri == f"{status.output_prefix}/results"
        assert await engine.store.size(f"{schema.uri}/00000")


async def test_a_statement_that_fails_tells_its_user_why(tmp_path: Path) -> None:
    async with (
        serving(SQLAlchemyConnector, config=CONFIG) as service,
        engine_at(service.service.address, tmp_path / "engine") as engine,
    ):
        with anyio.fail_after(20):
            status = await run(engine, template("select colour from pets", "sqlite://"))
            refused = await run(engine, template("select 1", "sqlite:////etc/passwd"))
    assert status.error is not None
    assert "no such table: pets" in status.error.message
    assert refused.error is not None
    assert "sqlite-folders" in refused.error.message
