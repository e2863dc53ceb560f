"""BigQuery and Databricks as tasks of a whole engine, by the connector service that is really served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from flyteidl2.core import execution_pb2, types_pb2
from flyteidl2.task import common_pb2
from google.protobuf.message import Message

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector import values
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from propfan.plugins.connectors.bigquery.connector import BigQueryConnector
from propfan.plugins.connectors.databricks.connector import DatabricksConnector
from tests.unit.engine.connector_service.rig import serving, until
from tests.unit.plugins.connector.rig import engine_at, quick_looks, run, submit
from tests.unit.plugins.connectors.bigquery import fake_bigquery
from tests.unit.plugins.connectors.bigquery import rig as bigquery
from tests.unit.plugins.connectors.bigquery.fake_bigquery import FakeBigQuery
from tests.unit.plugins.connectors.databricks import fake_databricks
from tests.unit.plugins.connectors.databricks import rig as databricks
from tests.unit.plugins.connectors.databricks.fake_databricks import FakeDatabricks, ended, live

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

ARGUMENTS = ("pyflyte-execute", "--inputs", "{{.input}}", "--output-prefix", "{{.outputPrefix}}")
CLOUD_FAILURE = ended("FAILED", "CLOUD_FAILURE", "CLOUD_FAILURE", "spot instance lost")


def config_of(
    bigquery: FakeBigQuery | None = None, databricks_at: FakeDatabricks | None = None
) -> ConnectorServiceConfig:
    sections: dict[str, dict[str, Any]] = {}
    if bigquery is not None:
        sections["bigquery"] = {"endpoint": bigquery.url, "token-endpoints": [f"{bigquery.url}/token"]}
    if databricks_at is not None:
        sections["databricks"] = {"endpoint": databricks_at.url, "instance": databricks.INSTANCE}
    return ConnectorServiceConfig(port=0, metrics_port=0, drain_s=5, connectors=sections)


async def test_a_query_of_a_task_with_its_own_key_has_its_table_as_output(monkeypatch: pytest.MonkeyPatch) -> None:
    store = InMemoryStore()
    async with (
        fake_bigquery.opened({"acme": "EU"}) as fake,
        serving(BigQueryConnector, config=config_of(fake)) as service,
    ):
        monkeypatch.setenv("FLYTE_SECRET_GCP_KEY", fake.key("analyst"))
        made = bigquery.template(
            "SELECT name FROM pets WHERE age > @least ORDER BY name",
            inputs={"least": types_pb2.INTEGER},
            secrets={"google_application_credentials": "GCP_KEY"},
        )
        inputs = literal_map(least=4).SerializeToString()
        async with engine_at(service.service.address, store=store) as engine:
            with anyio.fail_after(20):
                status = await engine.wait(await submit(engine, made, inputs=inputs))
    assert (status.phase, status.outcome) == (Phase.SUCCESS, Outcome.COMPLETED), status
    outputs = common_pb2.Outputs.FromString(store.objects[f"{status.output_prefix}/outputs.pb"])
    (table,) = values.to_natives(common_pb2.Inputs(literals=outputs.literals)).values()
    assert fake.tables[table.uri] == [("o'malley",), ("tom",)]
    assert fake.grants == ["analyst@acme.iam.gserviceaccount.com"]


async def test_a_query_that_fails_tells_its_user_why() -> None:
    async with fake_bigquery.opened() as fake:
        key = {"_FSEC_GOOGLE_APPLICATION_CREDENTIALS": fake.key()}
        async with (
            serving(BigQueryConnector, config=config_of(fake), **key) as service,
            engine_at(service.service.address) as engine,
        ):
            with anyio.fail_after(20):
                status = await run(engine, bigquery.template("SELECT colour FROM pets"))
    assert status.error is not None
    assert "no such column: colour (invalidQuery at query)" in status.error.message
    assert "PRIVATE KEY" not in str(status)


async def leave(body: Mapping[str, Any], name: str, content: Message) -> None:
    """As a function that runs on Databricks leaves its files."""
    parameters = body["tasks"][0]["spark_python_task"]["parameters"]
    prefix = parameters[parameters.index("--output-prefix") + 1]
    folder = anyio.Path(prefix.removeprefix("file://"))
    await folder.mkdir(parents=True, exist_ok=True)
    await (folder / name).write_bytes(content.SerializeToString())


async def test_a_function_on_databricks_leaves_its_outputs_itself(tmp_path: Path) -> None:
    async def work(body: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = common_pb2.Outputs()
        outputs.literals.add(name="o0").value.scalar.primitive.integer = 42
        await leave(body, "outputs.pb", outputs)
        return ended()

    token = {f"_FSEC_{databricks.SECRET}": "dapi-service"}
    async with (
        fake_databricks.opened() as fake,
        serving(DatabricksConnector, config=config_of(databricks_at=fake), **token) as service,
        engine_at(service.service.address, tmp_path) as engine,
    ):
        fake.work = work
        with anyio.fail_after(20):
            key = await submit(engine, databricks.template(arguments=ARGUMENTS))
            status = await engine.wait(key)
        links = {log.uri for event in await engine.history(key) for log in event.logs}
    assert (status.phase, status.outcome) == (Phase.SUCCESS, Outcome.COMPLETED), status
    (link,) = links
    assert link.startswith("https://dbc-1.cloud.databricks.com/#job/5/run/")


async def test_a_function_that_fails_on_a_cluster_of_others_fails_its_task(tmp_path: Path) -> None:
    async def work(body: Mapping[str, Any]) -> Mapping[str, Any]:
        error = execution_pb2.ContainerError(code="ValueError", message="no such colour")
        await leave(body, "error.pb", execution_pb2.ErrorDocument(error=error))
        return ended()

    token = {f"_FSEC_{databricks.SECRET}": "dapi-service"}
    async with (
        fake_databricks.opened() as fake,
        serving(DatabricksConnector, config=config_of(databricks_at=fake), **token) as service,
        engine_at(service.service.address, tmp_path) as engine,
    ):
        fake.work = work
        with anyio.fail_after(20):
            status = await run(engine, databricks.template({"existing_cluster_id": "c-1"}, arguments=ARGUMENTS))
    assert status.error is not None
    assert (status.error.code, status.error.message) == ("ValueError", "no such colour")


async def test_a_run_that_lost_its_machines_costs_an_attempt_and_is_another_run() -> None:
    token = {f"_FSEC_{databricks.SECRET}": "dapi-service"}
    async with (
        fake_databricks.opened() as fake,
        serving(DatabricksConnector, config=config_of(databricks_at=fake), **token) as service,
        engine_at(service.service.address) as engine,
    ):
        fake.courses["nightly"] = [live("RUNNING"), CLOUD_FAILURE]
        made = databricks.template({"run_name": "nightly", "existing_cluster_id": "c-1"})
        made.metadata.retries.retries = 1
        with anyio.fail_after(20):
            status = await run(engine, made)
    assert status.attempts == 2
    assert status.error is not None
    assert "spot instance lost" in status.error.message
    tokens = [body["idempotency_token"] for body in fake.submissions.values()]
    assert len(set(tokens)) == 2


async def test_an_aborted_task_cancels_its_run() -> None:
    token = {f"_FSEC_{databricks.SECRET}": "dapi-service"}
    async with (
        fake_databricks.opened() as fake,
        serving(DatabricksConnector, config=config_of(databricks_at=fake), **token) as service,
        engine_at(service.service.address) as engine,
    ):
        fake.courses["long"] = [live("RUNNING")]
        key = await submit(engine, databricks.template({"run_name": "long", "existing_cluster_id": "c-1"}))
        with anyio.fail_after(20):
            await until(lambda: fake.submissions)
            await engine.abort(key)
            status = await engine.wait(key)
            await until(lambda: fake.cancelled)
    assert status.phase is Phase.ABORTED
    assert list(fake.cancelled) == list(fake.submissions)
