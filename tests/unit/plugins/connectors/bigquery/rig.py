"""The connector on the fake, with the HTTP client of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, TaskRequest
from propfan.pluginmachinery.testing import connector_setup, connector_task, task_template
from tests.unit.plugins.connectors.bigquery import fake_bigquery
from tests.unit.plugins.connectors.bigquery.fake_bigquery import FakeBigQuery
from tests.unit.plugins.connectors.receivers import http_client

SECRET = "google_application_credentials"


def template(
    statement: str,
    *,
    has_results: bool = True,
    inputs: Mapping[str, types_pb2.SimpleType] | None = None,
    **custom: Any,
) -> tasks_pb2.TaskTemplate:
    """As the SDKs write it."""
    written = {"ProjectID": "acme", "Location": None, "Domain": "development", **custom}
    made = task_template("bigquery_query_job_task", custom=written, inputs=inputs)
    made.sql.statement = statement
    made.sql.dialect = tasks_pb2.Sql.ANSI
    if has_results:
        entry = made.interface.outputs.variables.add(key="results")
        entry.value.type.structured_dataset_type.SetInParent()
    return made


def query(
    statement: str,
    called_with: literals_pb2.LiteralMap | None = None,
    run: str = "r1",
    secrets: Mapping[str, str] | None = None,
    **more: Any,
) -> TaskRequest:
    return connector_task(template(statement, **more), called_with, run=run, secrets=secrets)


@asynccontextmanager
async def served(
    projects: Mapping[str, str] | None = None, *, has_key: bool = True, **config: Any
) -> AsyncIterator[tuple[FakeBigQuery, ConnectorSetup]]:
    """A fake, and what a connector that knows its way there is made with."""
    async with http_client() as http, fake_bigquery.opened(projects) as fake:
        section = {
            "endpoint": fake.url,
            "token-endpoints": [f"{fake.url}/token"],
            **{key.replace("_", "-"): value for key, value in config.items()},
        }
        secrets = {SECRET: fake.key()} if has_key else {}
        yield fake, connector_setup(http=http, secrets=secrets, sections={"bigquery": section})
