"""The connector on the fake, with the HTTP client of the service, and tasks as both SDKs serialise them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

from flyteidl2.core import literals_pb2, tasks_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, TaskRequest
from propfan.pluginmachinery.testing import connector_setup, connector_task, task_template
from tests.unit.plugins.connectors.receivers import http_client
from tests.unit.plugins.connectors.snowflake import fake_snowflake
from tests.unit.plugins.connectors.snowflake.fake_snowflake import FakeSnowflake, public_key, user_key

PLACE = {"account": "org-acct", "user": "me", "database": "DB", "schema": "PUBLIC", "warehouse": "WH"}
USER = "ORG-ACCT.ME"
SECRET = "snowflake_private_key"
NAMES = {SECRET: "GRP_MY_KEY", "snowflake_private_key_passphrase": "GRP_PP"}

service_key = cache(user_key)


def template(statement: str, *, is_v1: bool = False, has_results: bool = True, **custom: Any) -> tasks_pb2.TaskTemplate:
    """``config`` is where Flyte 1's SDK writes, ``custom`` where that of Flyte 2 does."""
    if is_v1:
        made = task_template("snowflake", config={**PLACE, **custom})
    else:
        made = task_template("snowflake", custom={**PLACE, "secrets": NAMES, **custom})
    made.sql.statement = statement
    if has_results:
        entry = made.interface.outputs.variables.add(key="results")
        entry.value.type.structured_dataset_type.SetInParent()
    return made


def query(
    statement: str,
    inputs: literals_pb2.LiteralMap | None = None,
    run: str = "r1",
    secrets: Mapping[str, str] | None = None,
    **more: Any,
) -> TaskRequest:
    return connector_task(template(statement, **more), inputs, run=run, secrets=secrets)


@asynccontextmanager
async def served(**config: Any) -> AsyncIterator[tuple[FakeSnowflake, ConnectorSetup]]:
    """A fake that knows the service's key, and what a connector that knows its way there is made with."""
    async with http_client() as http, fake_snowflake.opened() as fake:
        fake.keys[USER] = public_key(service_key())
        section = {"endpoint": fake.url, **{key.replace("_", "-"): value for key, value in config.items()}}
        yield (
            fake,
            connector_setup(
                http=http,
                secrets={SECRET: service_key()},
                sections={"snowflake": section},
                now=lambda: datetime.now(UTC),
            ),
        )
