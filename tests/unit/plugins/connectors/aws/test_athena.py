"""Tasks of type ``presto``."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, Dataset, RemotePhase, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing.connector_contract import ConnectorContract, JobStory
from propfan.plugins.connectors.aws import athena
from propfan.plugins.connectors.aws.athena import PHASES, AthenaConnector, QueryMeta
from tests.unit.plugins.connectors.aws.amazon import Amazon, refusal
from tests.unit.plugins.connectors.aws.rig import create, delete, get, query_task, schema_at, setup_at

pytestmark = pytest.mark.anyio

MISSING = {"State": "FAILED", "StateChangeReason": "TABLE_NOT_FOUND: line 1:15", "AthenaError": {"Retryable": False}}
BUSY = {"State": "FAILED", "AthenaError": {"Retryable": True, "ErrorMessage": "out of resources"}}
STATES = {"from missing": MISSING, "from busy": BUSY, "from stopped": {"State": "CANCELLED"}}
UNLOAD = "UNLOAD (SELECT * FROM t)\nTO '{{ .rawOutputDataPrefix }}' WITH (format = 'PARQUET')"


class TestContract(ConnectorContract):
    connector_class = AthenaConnector
    stories = (
        JobStory("selects", query_task("select 1"), RemotePhase.SUCCEEDED, message="SUCCEEDED"),
        JobStory(
            "unloads",
            query_task(UNLOAD),
            RemotePhase.SUCCEEDED,
            {"results": schema_at("s3://flyte/r1/a0/1/raw")},
        ),
        JobStory("has no such table", query_task("select * from missing"), RemotePhase.FAILED, message="TABLE_NOT"),
        JobStory("finds no room", query_task("select * from busy"), RemotePhase.RETRYABLE_FAILED, message="out of"),
        JobStory("is stopped", query_task("select * from stopped"), RemotePhase.ABORTED),
    )

    @pytest.fixture
    def setup_ctx(self, aws: Amazon) -> ConnectorSetup:
        aws.query_states = STATES  # type: ignore[assignment]
        return setup_at(aws)


@pytest.fixture
def connector(aws: Amazon) -> AthenaConnector:
    return AthenaConnector(setup_at(aws))


async def request_of(connector: AthenaConnector, aws: Amazon, task: TaskRequest) -> Any:
    await create(connector, task)
    return aws.last("StartQueryExecution").arguments


async def ended(connector: AthenaConnector, task: TaskRequest) -> Any:
    meta = await create(connector, task)
    while not (resource := await get(connector, meta)).phase.is_terminal:
        assert resource.outputs is None
    return resource


def test_all_states_of_the_api_are_known() -> None:
    model = botocore.session.get_session().get_service_model("athena")
    assert set(PHASES) == set(model.shape_for("QueryExecutionState").enum)


async def test_query_is_what_the_sdk_says(connector: AthenaConnector, aws: Amazon) -> None:
    statement = "select * from t where ds = '{{ .Inputs.ds }}' limit {{.inputs.n}}"
    task = query_task(statement, {"ds": "2026-01-01", "n": 7}, schema="db", routingGroup="", catalog="lake")
    request = await request_of(connector, aws, task)
    assert request["QueryString"] == "select * from t where ds = '2026-01-01' limit 7"
    assert request["QueryExecutionContext"] == {"Database": "db", "Catalog": "lake"}
    assert request["ResultConfiguration"] == {"OutputLocation": "s3://flyte/r1/a0/1/athena/"}
    assert "WorkGroup" not in request


async def test_what_the_task_leaves_open_is_configured(aws: Amazon) -> None:
    athena = {"output-location": "workgroup", "workgroup": "primary", "catalog": "lake"}
    request = await request_of(AthenaConnector(setup_at(aws, athena=athena)), aws, query_task("select 1"))
    assert request["WorkGroup"] == "primary"
    assert request["QueryExecutionContext"] == {"Catalog": "lake"}
    assert "ResultConfiguration" not in request
    aws.reset()
    athena = {"output-location": "s3://results/"}
    request = await request_of(AthenaConnector(setup_at(aws, athena=athena)), aws, query_task("select 1"))
    assert request["ResultConfiguration"] == {"OutputLocation": "s3://results/"}


async def test_results_lie_where_athena_says(connector: AthenaConnector) -> None:
    resource = await ended(connector, query_task("select 1", results="structured_dataset"))
    location = resource.outputs["results"]
    assert isinstance(location, Dataset)
    query = resource.custom_info["query_execution_id"]
    assert location == Dataset(f"s3://flyte/r1/a0/1/athena/{query}.csv", "csv")
    host = "https://us-east-1.console.aws.amazon.com/athena/home?region=us-east-1"
    assert resource.log_links[0].uri == f"{host}#/query-editor/history/{query}"


async def test_unloaded_files_are_the_results(connector: AthenaConnector) -> None:
    resource = await ended(connector, query_task(UNLOAD, results="structured_dataset"))
    assert resource.outputs == {"results": Dataset("s3://flyte/r1/a0/1/raw", "parquet")}


async def test_query_without_outputs_has_none(connector: AthenaConnector) -> None:
    assert (await ended(connector, query_task("select 1", results=""))).outputs is None


async def test_results_that_nobody_can_read_fail_the_task(connector: AthenaConnector) -> None:
    resource = await ended(connector, query_task("select 1", output_prefix="gs://flyte/r1"))
    assert resource.phase is RemotePhase.FAILED
    assert "connectors.aws.athena.output-location" in resource.message


async def test_abort_stops_the_query(connector: AthenaConnector, aws: Amazon) -> None:
    meta = await create(connector, query_task("select 1"))
    await delete(connector, meta)
    resource = await get(connector, meta)
    assert resource.phase is RemotePhase.ABORTED
    assert aws.count("StopQueryExecution") == 1


async def test_query_that_can_not_be_stopped_any_more_is_over(connector: AthenaConnector, aws: Amazon) -> None:
    meta = await create(connector, query_task("select 1"))
    aws.query_states = {"select": {"State": "SUCCEEDED"}}
    aws.faults["StopQueryExecution"] = [refusal("InvalidRequestException", "it has ended")]
    await delete(connector, meta)


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        ("unload (select 'to') to 's3://a/b' with (format='ORC', compression = 'gzip') ;", ("s3://a/b", "orc")),
        ("  UNLOAD(select 1)TO 's3://a'WITH(field_delimiter=',')", ("s3://a", "")),
        ("select \"to 's3://a' with ()\"", ("", "csv")),
        ("unload x to 's3://a' with (" + " to 's3://a' with (" * 10_000, ("", "csv")),
        ("unload x to 's3://a' with ()" + " " * 100_000 + "x", ("", "csv")),
    ],
)
def test_unload_is_recognised(statement: str, unloaded: tuple[str, str]) -> None:
    assert athena._unloaded(statement) == unloaded


async def test_query_that_athena_forgot_is_over(connector: AthenaConnector) -> None:
    meta = QueryMeta("5ac4e8a1-0000-4000-8000-000000000000", "us-east-1")
    resource = await get(connector, meta)
    assert resource.phase is RemotePhase.ABORTED
    assert "does not know query '5ac4e8a1" in resource.message
    await delete(connector, meta)


async def test_unknown_state_is_named(connector: AthenaConnector, aws: Amazon) -> None:
    aws.query_states = {"select": {"State": "THINKING"}}
    meta = await create(connector, query_task("select 1"))
    with pytest.raises(TransientError, match=r"has a state that is not known here: 'THINKING'"):
        await get(connector, meta)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (query_task("  "), r"custom\.statement is empty"),
        (query_task("select {{.inputs.no}}", {"n": 1}), r"custom\.statement: .*no"),
        (query_task("select 1", routingGroup="nobody's"), r"athena: start the query: "),
    ],
)
async def test_what_can_not_run_is_refused(connector: AthenaConnector, task: TaskRequest, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await create(connector, task)


@pytest.mark.parametrize(
    ("action", "code", "kind"),
    [
        ("StartQueryExecution", "TooManyRequestsException", TransientError),
        ("StartQueryExecution", "InternalServerException", TransientError),
        ("StartQueryExecution", "AccessDeniedException", PermanentError),
        ("GetQueryExecution", "ThrottlingException", TransientError),
        ("GetQueryExecution", "ExpiredTokenException", PermanentError),
        ("StopQueryExecution", "ThrottlingException", TransientError),
        ("StopQueryExecution", "InvalidRequestException", BadTaskSpecificationError),
    ],
)
async def test_faults_say_what_to_do(
    connector: AthenaConnector, aws: Amazon, action: str, code: str, kind: type[Exception]
) -> None:
    async def life() -> None:
        meta = await create(connector, query_task("select 1"))
        await get(connector, meta)
        await delete(connector, meta)

    aws.query_states = {"select": {"State": "RUNNING"}}
    aws.faults[action] = [refusal(code, "because")]
    with pytest.raises(kind, match=rf"athena: .*{code}: because") as caught:
        await life()
    assert type(caught.value) is kind
