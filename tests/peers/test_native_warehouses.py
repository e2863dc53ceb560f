"""Tasks that the SDKs' plugins for BigQuery and Databricks serialise, run unchanged by propfan's connectors.

The warehouses are fakes after their vendors' published contracts: they can not be had here.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import literals_pb2 as v1_literals_pb2
from flyteidl.core import tasks_pb2 as v1_tasks_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl2.core import literals_pb2
from flyteidl2.task import common_pb2

from propfan.engine import Submission
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector import RemotePhase, values
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from propfan.plugins.connectors.bigquery.connector import BigQueryConnector
from propfan.plugins.connectors.databricks.connector import DatabricksConnector
from tests.peers import environments
from tests.unit.engine.connector_service.rig import Serving, serving
from tests.unit.plugins.connector.rig import engine_at, quick_looks
from tests.unit.plugins.connectors.bigquery import fake_bigquery
from tests.unit.plugins.connectors.bigquery.fake_bigquery import FakeBigQuery
from tests.unit.plugins.connectors.databricks import fake_databricks
from tests.unit.plugins.connectors.databricks.fake_databricks import FakeDatabricks

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.peer, pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

FLYTE1: Final = "1.16.31"
FLYTE2: Final = "2.12.1"
PROGRAMS: Final = Path(__file__).parent / "programs"
INSTANCE: Final = "dbc-1.cloud.databricks.com"


def serialised(python: Path, program: str) -> Mapping[str, bytes]:
    """Templates by name, as the program prints them."""
    done = subprocess.run(
        [str(python), "-W", "ignore", str(PROGRAMS / program)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "PYTHONPATH": str(PROGRAMS.parent / "sdk_templates"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["name"]: base64.b64decode(each["template"]) for each in told}


@pytest.fixture(scope="module")
def flyte1() -> Mapping[str, bytes]:
    needed = (f"flytekit=={FLYTE1}", "kubernetes<36", f"flytekitplugins-bigquery=={FLYTE1}", "aiohttp")
    folder = environments.folder("warehouses-flyte1", needed, alone=(f"flytekitplugins-spark=={FLYTE1}",))
    return serialised(folder / "bin" / "python", "warehouses_flyte1.py")


@pytest.fixture(scope="module")
def flyte2() -> Mapping[str, bytes]:
    needed = (f"flyte=={FLYTE2}", "kubernetes<36", f"flyteplugins-bigquery=={FLYTE2}", "aiohttp")
    alone = (f"flyteplugins-spark=={FLYTE2}", f"flyteplugins-databricks=={FLYTE2}")
    folder = environments.folder("warehouses-flyte2", needed, alone=alone)
    return serialised(folder / "bin" / "python", "warehouses_flyte2.py")


class Warehouses:
    """Both fakes, and the service whose connectors ask them."""

    def __init__(self, bigquery: FakeBigQuery, databricks: FakeDatabricks, service: Serving) -> None:
        self.bigquery: Final = bigquery
        self.databricks: Final = databricks
        self.service: Final = service


@asynccontextmanager
async def warehouses() -> AsyncIterator[Warehouses]:
    async with fake_bigquery.opened() as bigquery, fake_databricks.opened() as databricks:
        sections: dict[str, dict[str, Any]] = {
            "bigquery": {"endpoint": bigquery.url, "token-endpoints": [f"{bigquery.url}/token"]},
            "databricks": {"endpoint": databricks.url, "instance": INSTANCE},
        }
        secrets = {
            "_FSEC_GOOGLE_APPLICATION_CREDENTIALS": bigquery.key("service"),
            "_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN": "dapi-service",
        }
        config = ConnectorServiceConfig(port=0, metrics_port=0, drain_s=5, connectors=sections)
        async with serving(BigQueryConnector, DatabricksConnector, config=config, **secrets) as service:
            yield Warehouses(bigquery, databricks, service)


def literal_of(value: Any) -> literals_pb2.Literal:
    return literal_map(value=value).literals["value"]


async def by_agent(service: Serving, template: bytes, **inputs: Any) -> agent_pb2.Resource:
    """Runs a task over the services of Flyte 1."""
    agent = service.client.agent
    made = v1_tasks_pb2.TaskTemplate.FromString(template)
    literals = v1_literals_pb2.LiteralMap()
    for name, value in inputs.items():
        given = value if isinstance(value, list) else [value]
        read = [v1_literals_pb2.Literal.FromString(literal_of(each).SerializeToString()) for each in given]
        if isinstance(value, list):
            literals.literals[name].collection.literals.extend(read)
        else:
            literals.literals[name].CopyFrom(read[0])
    request = agent_pb2.CreateTaskRequest(template=made, inputs=literals, output_prefix=f"memory:///{made.id.name}/1")
    meta = (await agent.CreateTask(request)).resource_meta
    assert (await agent.CreateTask(request)).resource_meta == meta
    category = agent_pb2.TaskCategory(name=made.type, version=made.task_type_version)
    with anyio.fail_after(20):
        while True:
            looked = await agent.GetTask(agent_pb2.GetTaskRequest(resource_meta=meta, task_category=category))
            if RemotePhase(looked.resource.phase).is_terminal:
                resource: agent_pb2.Resource = looked.resource
                return resource


async def by_engine(service: Serving, template: bytes, store: InMemoryStore | None = None, **inputs: Any) -> TaskStatus:
    """Runs a task by a whole engine of Flyte 2."""
    async with engine_at(service.service.address, store=store) as engine:
        with anyio.fail_after(20):
            content = literal_map(**inputs).SerializeToString() if inputs else None
            return await engine.wait(await engine.submit(Submission(template=template, inputs=content)))


async def test_flytekits_query_is_called_with_its_inputs(flyte1: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        resource = await by_agent(
            made.service, flyte1["query"], least=3, since=datetime(2026, 1, 1, tzinfo=UTC), names=["x", "y"]
        )
        assert resource.phase == TaskExecution.SUCCEEDED, resource.message
        dataset = resource.outputs.literals["results"].scalar.structured_dataset
        assert made.bigquery.tables[dataset.uri] == [("tom", 5), ("o'malley", 9)]
    (log,) = resource.log_links
    assert log.uri.startswith("https://console.cloud.google.com/bigquery?project=acme&j=bq:US:")


async def test_flytekits_query_keeps_its_configuration(flyte1: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        resource = await by_agent(made.service, flyte1["configured"])
        assert resource.outputs.literals["results"].scalar.structured_dataset.uri == "bq://acme:results.pets"
        assert made.bigquery.tables["bq://acme:results.pets"] == [("rex",)]
        (job,) = made.bigquery.jobs.values()
    query = job["configuration"]["query"]
    assert query["maximumBytesBilled"] == "1000000000000"
    assert query["useQueryCache"] is False


async def test_flytekits_statement_without_results_succeeds(flyte1: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        resource = await by_agent(made.service, flyte1["statement"])
    assert resource.phase == TaskExecution.SUCCEEDED, resource.message
    assert resource.custom_info["statement_type"] == "INSERT"


async def test_flytekits_function_runs_on_a_new_cluster(flyte1: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        resource = await by_agent(made.service, flyte1["on_new_cluster"], n=1)
        assert resource.phase == TaskExecution.SUCCEEDED, resource.message
        (body,) = made.databricks.submissions.values()
    (task,) = body["tasks"]
    assert task["new_cluster"]["docker_image"] == {"url": "ghcr.io/acme/spark:1"}
    assert task["new_cluster"]["spark_conf"] == {"spark.driver.memory": "1g"}
    assert task["new_cluster"]["spark_env_vars"]["FLYTE_FAIL_ON_ERROR"] == "true"
    assert task["spark_python_task"]["parameters"][0] == "pyflyte-execute"
    assert (body["run_name"], body["timeout_seconds"], body["max_retries"]) == ("on-new-cluster", 3600, 1)


async def test_flytekits_function_runs_on_serverless_compute(flyte1: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        resource = await by_agent(made.service, flyte1["serverless"], n=1)
        assert resource.phase == TaskExecution.SUCCEEDED, resource.message
        (body,) = made.databricks.submissions.values()
    assert body["tasks"][0]["environment_key"] == "mine"
    assert body["tasks"][0]["spark_python_task"]["parameters"][-1] == "--flyte-credential-provider=lake"


async def test_flytekits_notebook_runs(flyte1: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        resource = await by_agent(made.service, flyte1["notebook"])
        assert resource.phase == TaskExecution.SUCCEEDED, resource.message
        (body,) = made.databricks.submissions.values()
    parameters = {"notebook_path": "/Users/somebody/report", "base_parameters": {"day": "2026-01-01"}}
    assert body["tasks"][0]["notebook_task"] == parameters


async def test_flytes_query_runs_with_the_key_that_it_names(
    flyte2: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = InMemoryStore()
    async with warehouses() as made:
        monkeypatch.setenv("FLYTE_SECRET_GCP_KEY", made.bigquery.key("analyst"))
        status = await by_engine(made.service, flyte2["query"], store, least=3)
        assert status.outcome is Outcome.COMPLETED, status.error
        written = common_pb2.Outputs.FromString(store.objects[f"{status.output_prefix}/outputs.pb"])
        (table,) = values.to_natives(common_pb2.Inputs(literals=written.literals)).values()
        assert made.bigquery.tables[table.uri] == [("tom",), ("o'malley",)]
        assert made.bigquery.grants == ["analyst@acme.iam.gserviceaccount.com"]


async def test_flytes_statement_runs_with_the_services_account(flyte2: Mapping[str, bytes]) -> None:
    async with warehouses() as made:
        status = await by_engine(made.service, flyte2["statement"])
        assert status.outcome is Outcome.COMPLETED, status.error
        assert made.bigquery.grants == ["service@acme.iam.gserviceaccount.com"]


@pytest.mark.parametrize(("name", "token"), [("with_token", "dapi-of-the-task"), ("without_token", "dapi-service")])
async def test_flytes_function_runs_with_the_token_that_it_names_or_the_services(
    name: str, token: str, flyte2: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYTE_SECRET_DATABRICKS_TOKEN", "dapi-of-the-task")
    store = InMemoryStore()

    async def work(body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leaves what the function would."""
        parameters = body["tasks"][0]["spark_python_task"]["parameters"]
        assert parameters[0] == "a0"
        outputs = common_pb2.Outputs()
        outputs.literals.add(name="o0").value.scalar.primitive.integer = 1
        prefix = parameters[parameters.index("--outputs-path") + 1]
        await store.put(f"{prefix}/outputs.pb", outputs.SerializeToString())
        return fake_databricks.ended()

    async with warehouses() as made:
        made.databricks.tokens.add("dapi-of-the-task")
        made.databricks.work = work
        status = await by_engine(made.service, flyte2[name], store, n=1)
        assert status.outcome is Outcome.COMPLETED, status.error
        assert {used for _, used in made.databricks.asked} == {token}


async def test_fakes_are_what_the_vendors_own_clients_expect() -> None:
    folder = environments.folder("warehouse-clients", ("google-cloud-bigquery==3.40.0", "databricks-sdk==0.40.0"))
    async with fake_bigquery.opened() as bigquery, fake_databricks.opened() as databricks:
        program = [str(folder / "bin" / "python"), "-W", "ignore", str(PROGRAMS / "warehouse_clients.py")]
        arguments = [bigquery.url, bigquery.key(), databricks.url, "dapi-service"]
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
        with anyio.fail_after(120):
            done = await anyio.run_process([*program, *arguments], env=environ, check=False)
        assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    destination = told["bigquery"].pop("destination")
    assert destination.startswith("acme._anon.anon")
    assert told["bigquery"] == {
        "states": ["PENDING", "PENDING", "RUNNING"],
        "bytes": 4096,
        "duplicate": "duplicate",
        "failed": "invalidQuery",
        "missing": "notFound",
        "unknown": "badRequest",
        "cancelled": "DONE",
    }
    first, second = told["databricks"].pop("runs")
    assert first == second
    assert told["databricks"] == {
        "states": ["PENDING", "RUNNING", "TERMINATING", "TERMINATED"],
        "result": "SUCCESS",
        "code": "SUCCESS",
        "page": f"https://dbc-1.cloud.databricks.com/#job/5/run/{first}",
        "missing": "ResourceDoesNotExist",
        "wrong": "InvalidParameterValue",
    }
