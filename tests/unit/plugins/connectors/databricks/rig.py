"""The connector on the fake, with the HTTP client of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from flyteidl2.core import tasks_pb2, types_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, TaskRequest
from propfan.pluginmachinery.testing import InMemoryStore, connector_setup, connector_task, task_template
from tests.unit.plugins.connectors.databricks import fake_databricks
from tests.unit.plugins.connectors.databricks.fake_databricks import FakeDatabricks
from tests.unit.plugins.connectors.receivers import http_client

SECRET = "FLYTE_DATABRICKS_ACCESS_TOKEN"
INSTANCE = "dbc-1.cloud.databricks.com"
CLUSTER: Mapping[str, Any] = {"spark_version": "13.3.x-scala2.12", "node_type_id": "m6i.large", "num_workers": 2}
ARGUMENTS = ("pyflyte-execute", "--inputs", "memory:///in.pb", "--output-prefix", "memory:///r1/a0/1")


def template(
    conf: Mapping[str, Any] | None = None, *, arguments: tuple[str, ...] = ARGUMENTS, **custom: Any
) -> tasks_pb2.TaskTemplate:
    """As the SDKs write it, on a new cluster unless the configuration says otherwise."""
    written = {
        "executorPath": "/opt/venv/bin/python3",
        "mainApplicationFile": "local:///opt/venv/bin/entrypoint.py",
        "databricksInstance": INSTANCE,
        "databricksConf": {"new_cluster": dict(CLUSTER)} if conf is None else dict(conf),
        **custom,
    }
    return task_template(
        "databricks",
        image="ghcr.io/acme/spark:1",
        args=arguments,
        env={"STAGE": "test"},
        custom=written,
        outputs={"o0": types_pb2.INTEGER},
    )


def function(conf: Mapping[str, Any] | None = None, *, run: str = "r1", **more: Any) -> TaskRequest:
    secrets = more.pop("secrets", None)
    return connector_task(template(conf, **more), run=run, secrets=secrets)


def named(name: str) -> TaskRequest:
    """A function whose run has a name by which the fake knows its course."""
    return function({"run_name": name, "new_cluster": dict(CLUSTER)}, run=name)


@asynccontextmanager
async def served(
    *, secrets: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None, **config: Any
) -> AsyncIterator[tuple[FakeDatabricks, ConnectorSetup]]:
    """A fake, and what a connector that knows its way there is made with."""
    async with http_client() as http, fake_databricks.opened() as fake:
        section = {
            "instance": INSTANCE,
            "endpoint": fake.url,
            **{key.replace("_", "-"): value for key, value in config.items()},
        }
        setup = connector_setup(
            http=http,
            secrets={SECRET: "dapi-service"} if secrets is None else secrets,
            store=InMemoryStore(),
            sections={"databricks": section},
            environment=environment,
        )
        yield fake, setup
