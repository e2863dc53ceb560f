"""The connector against the fake: what it sends, faults, credentials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from flyteidl2.core import types_pb2
from google.auth import _exponential_backoff, _helpers, exceptions
from google.oauth2 import service_account

from propfan.pluginmachinery.connector import Connection, Dataset, JobContext, RemotePhase, Resource, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError, TransientError
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.bigquery.connector import BigQueryConnector, BigQueryMeta
from propfan.plugins.connectors.bigquery.jobs import PASSING_REASONS
from tests.unit.plugins.connectors.bigquery.fake_bigquery import FakeBigQuery, RefusalError
from tests.unit.plugins.connectors.bigquery.rig import SECRET, query, served

pytestmark = pytest.mark.anyio


async def last(connector: BigQueryConnector, meta: BigQueryMeta, job: JobContext | None = None) -> Resource:
    while True:
        resource = await connector.get(meta, job or JobContext())
        if resource.phase.is_terminal:
            return resource


async def run(connector: BigQueryConnector, task: TaskRequest) -> Resource:
    return await last(connector, await connector.create(task), JobContext(connection=task.connection))


def sent(fake: FakeBigQuery) -> Mapping[str, Any]:
    (job,) = fake.jobs.values()
    found: Mapping[str, Any] = job["configuration"]["query"]
    return found


def rows(fake: FakeBigQuery, resource: Resource) -> list[tuple[Any, ...]]:
    assert resource.outputs is not None, resource.message
    dataset = resource.outputs["results"]
    assert isinstance(dataset, Dataset)
    return fake.tables[dataset.uri]


async def test_inputs_are_bound_and_not_pasted() -> None:
    kinds = {"name": types_pb2.STRING, "least": types_pb2.INTEGER}
    statement = "SELECT name FROM pets WHERE name = @name OR age > {{ .inputs.least }} ORDER BY age"
    async with served() as (fake, setup):
        task = query(statement, literal_map(name="o'malley' OR 1=1 --", least=4), inputs=kinds)
        resource = await run(BigQueryConnector(setup), task)
        assert rows(fake, resource) == [("tom",), ("o'malley",)]
    assert sent(fake)["query"] == statement.replace("{{ .inputs.least }}", "@least")
    assert "malley" not in sent(fake)["query"]


async def test_succeeded_job_has_its_table_its_page_and_what_it_cost() -> None:
    async with served() as (_, setup):
        task = query("SELECT 1")
        resource = await run(BigQueryConnector(setup), task)
    assert resource.outputs is not None
    assert str(resource.outputs["results"].uri).startswith("bq://acme:_anon.anon")
    (link,) = resource.log_links
    page = f"https://console.cloud.google.com/bigquery?project=acme&j=bq:US:{task.unique_name()}&page=queryresults"
    assert (link.name, link.uri) == ("BigQuery Console", page)
    assert resource.custom_info == {
        "bytes_processed": 4096,
        "bytes_billed": 10485760,
        "slot_ms": 17,
        "cache_hit": False,
        "statement_type": "SELECT",
    }


async def test_configuration_of_the_task_is_the_jobs() -> None:
    table = {"projectId": "acme", "datasetId": "d", "tableId": "t"}
    own = [{"name": "x", "parameterType": {"type": "INT64"}, "parameterValue": {"value": "3"}}]
    async with served() as (fake, setup):
        task = query(
            "SELECT @x + @y",
            literal_map(y=4),
            destinationTable=table,
            maximumBytesBilled="1000000000000",
            maximumBillingTier=2,
            useQueryCache=False,
            queryParameters=own,
            parameterMode="NAMED",
            secrets={},
        )
        resource = await run(BigQueryConnector(setup), task)
        assert rows(fake, resource) == [(7,)]
    assert resource.outputs == {"results": Dataset("bq://acme:d.t")}
    assert sent(fake)["maximumBytesBilled"] == "1000000000000"
    assert sent(fake)["useQueryCache"] is False
    assert sent(fake)["useLegacySql"] is False
    assert not {"ProjectID", "Location", "Domain", "secrets"} & sent(fake).keys()


async def test_input_goes_before_a_parameter_of_the_same_name() -> None:
    own = [{"name": "x", "parameterType": {"type": "INT64"}, "parameterValue": {"value": "3"}}]
    async with served() as (fake, setup):
        resource = await run(BigQueryConnector(setup), query("SELECT @x", literal_map(x=5), queryParameters=own))
        assert rows(fake, resource) == [(5,)]


async def test_second_creation_finds_the_job_of_the_first() -> None:
    async with served({"acme": "US"}) as (fake, setup):
        metas = [await BigQueryConnector(setup).create(query("SELECT 1")) for _ in range(3)]
        other = await BigQueryConnector(setup).create(query("SELECT 1", run="r2"))
    assert metas[0] == metas[1] == metas[2] != other
    assert metas[0].location == "US"
    assert len(fake.jobs) == 2


async def test_job_outside_of_the_multi_regions_is_found_by_its_location() -> None:
    async with served({"acme": "europe-west1"}) as (fake, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        assert meta.location == "europe-west1"
        assert await connector.create(query("SELECT 1")) == meta
        assert (await last(connector, meta)).phase == RemotePhase.SUCCEEDED
        task = query("SELECT 1", run="r2", Location="us-east4")
        assert await connector.create(task) == await connector.create(task)
    assert {location for _, location, _ in fake.jobs} == {"europe-west1", "us-east4"}


async def test_project_is_the_tasks_else_the_configurations_else_the_accounts() -> None:
    async with served({"acme": "US", "other": "US", "third": "US"}) as (_, setup):
        assert (await BigQueryConnector(setup).create(query("SELECT 1", ProjectID="other"))).project == "other"
        assert (await BigQueryConnector(setup).create(query("SELECT 1", ProjectID=None))).project == "acme"
    async with served({"third": "EU"}, project="third", location="EU") as (_, setup):
        meta = await BigQueryConnector(setup).create(query("SELECT 1", ProjectID=None))
        assert (meta.project, meta.location) == ("third", "EU")


async def test_statement_without_results_for_a_declared_output_is_told() -> None:
    async with served() as (_, setup):
        resource = await run(BigQueryConnector(setup), query("INSERT INTO pets VALUES ('a', 1)"))
    assert resource.phase == RemotePhase.FAILED
    assert "its statement (INSERT) has no table of results: take the output 'results' away" in resource.message


@pytest.mark.parametrize("reason", sorted(PASSING_REASONS))
async def test_job_that_ended_for_a_passing_reason_is_tried_again(reason: str) -> None:
    async with served() as (fake, setup):
        fake.job_errors["SELECT"] = {"reason": reason, "message": "try again"}
        resource = await run(BigQueryConnector(setup), query("SELECT 1"))
    assert resource.phase == RemotePhase.RETRYABLE_FAILED
    assert f"try again ({reason})" in resource.message


@pytest.mark.parametrize("reason", ["invalidQuery", "notFound", "accessDenied", "resourcesExceeded", "timeout"])
async def test_job_that_failed_for_good_is_not_tried_again(reason: str) -> None:
    async with served() as (fake, setup):
        fake.job_errors["SELECT"] = {"reason": reason, "message": "no", "location": "query"}
        resource = await run(BigQueryConnector(setup), query("SELECT 1"))
    assert resource.phase == RemotePhase.FAILED
    assert resource.message.endswith(f"failed: no ({reason} at query)")


async def test_phases_are_told_on_the_way_and_unknown_ones_by_name() -> None:
    async with served() as (fake, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        seen = [(await connector.get(meta, JobContext())).phase for _ in range(3)]
        assert seen == [RemotePhase.QUEUED, RemotePhase.RUNNING, RemotePhase.SUCCEEDED]
        (job,) = fake.jobs.values()
        job["status"]["state"] = "DREAMING"
        with pytest.raises(DecodeError, match=rf"job 'acme:{meta.job}': unknown state DREAMING"):
            await connector.get(meta, JobContext())


async def test_cancelled_job_is_aborted() -> None:
    async with served() as (_, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        await connector.delete(meta, JobContext())
        assert (await last(connector, meta)).phase == RemotePhase.ABORTED


async def test_job_that_is_gone_ends_the_task() -> None:
    async with served() as (fake, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        fake.jobs.clear()
        resource = await connector.get(meta, JobContext())
        await connector.delete(meta, JobContext())
    assert (resource.phase, resource.message) == (
        RemotePhase.ABORTED,
        f"job 'acme:{meta.job}' is gone: deleted, or too old",
    )


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "rateLimitExceeded"),
        (403, "quotaExceeded"),
        (400, "resourceInUse"),
        (429, "rateLimitExceeded"),
        (500, "internalError"),
        (503, "backendError"),
        (502, ""),
    ],
)
async def test_busy_service_is_asked_again_later(status: int, reason: str) -> None:
    async with served() as (fake, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        for call in (
            connector.create(query("SELECT 1")),
            connector.get(meta, JobContext()),
            connector.delete(meta, JobContext()),
        ):
            fake.refusals.append(RefusalError(status, reason, "not now", {"Retry-After": "7"}))
            with pytest.raises(TransientError, match="not now") as caught:
                await call
            assert caught.value.retry_after_s == 7


async def test_forbidden_project_is_no_quota() -> None:
    async with served() as (_, setup):
        with pytest.raises(
            PermanentError, match=r"status 403 .*Access Denied: Project other.*\(accessDenied\)"
        ) as caught:
            await BigQueryConnector(setup).create(query("SELECT 1", ProjectID="other"))
    assert caught.value.code == "ServiceNotAllowed"


@pytest.mark.parametrize(
    ("custom", "problem"),
    [
        ({"ProjectID": 7}, "custom.ProjectID must match"),
        ({"ProjectID": "a/../b"}, "custom.ProjectID must match"),
        ({"Location": "eu?x"}, "custom.Location must match"),
        ({"parameterMode": "POSITIONAL"}, "custom.parameterMode must be NAMED"),
        ({"queryParameters": {}}, "custom.queryParameters must be a list of objects"),
        ({"useQueryCache": "maybe"}, r"Invalid value at 'job.configuration.query.useQueryCache' \(invalid\)"),
        ({"noSuchSetting": 1}, 'Unknown name "noSuchSetting"'),
    ],
)
async def test_custom_that_can_not_work_is_refused_by_its_field(custom: Mapping[str, Any], problem: str) -> None:
    async with served() as (_, setup):
        with pytest.raises(BadTaskSpecificationError, match=problem):
            await BigQueryConnector(setup).create(query("SELECT @x", literal_map(x=1), **custom))


async def test_task_without_a_statement_or_with_two_outputs_is_refused() -> None:
    async with served() as (_, setup):
        with pytest.raises(BadTaskSpecificationError, match=r"sql\.statement is empty"):
            await BigQueryConnector(setup).create(query(" "))
        task = query("SELECT 1")
        task.template.interface.outputs.variables.add(key="more")
        with pytest.raises(BadTaskSpecificationError, match=r"declares the outputs results, more"):
            await BigQueryConnector(setup).create(task)


async def test_tasks_own_key_is_used_and_kept_nowhere() -> None:
    async with served({"acme": "US", "team": "US"}, has_key=False) as (fake, setup):
        key = fake.key("analyst", "team")
        connector = BigQueryConnector(setup)
        task = query("SELECT 1", ProjectID=None, secrets={SECRET: key})
        meta = await connector.create(task)
        resource = await last(connector, meta, JobContext(connection=task.connection))
        await connector.delete(meta, JobContext(connection=task.connection))
    assert resource.phase == RemotePhase.SUCCEEDED
    assert meta.project == "team"
    assert fake.grants == ["analyst@team.iam.gserviceaccount.com"]
    assert b"PRIVATE KEY" not in msgspec.json.encode(meta)
    assert "PRIVATE KEY" not in repr((meta, resource, task.connection))


async def test_token_is_asked_for_once_and_again_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (fake, setup):
        connector = BigQueryConnector(setup)
        for number in range(5):
            await connector.create(query("SELECT 1", run=f"r{number}"))
        assert len(fake.grants) == 1
        later = datetime.now(UTC).timestamp() + 3500
        moment = datetime.fromtimestamp(later, UTC).replace(tzinfo=None)
        monkeypatch.setattr(_helpers, "utcnow", lambda: moment)
        await connector.create(query("SELECT 1", run="r9"))
    assert len(fake.grants) == 2


async def test_token_that_was_revoked_is_replaced() -> None:
    async with served() as (fake, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        fake.tokens.clear()
        assert (await last(connector, meta)).phase == RemotePhase.SUCCEEDED
    assert len(fake.grants) == 2


async def test_account_that_bigquery_does_not_know_fails_the_task() -> None:
    async with served() as (fake, setup):
        for _ in range(2):
            fake.refusals.append(RefusalError(401, "authError", "Request had invalid authentication credentials."))
        with pytest.raises(PermanentError, match=r"status 401 .*\(authError\)"):
            await BigQueryConnector(setup).create(query("SELECT 1"))


async def test_key_that_google_does_not_take_fails_the_task() -> None:
    async with served(has_key=False) as (fake, setup):
        key = fake.key("leaver")
        fake._keys.clear()
        with pytest.raises(PermanentError, match=rf"invalid_grant.*check the key in the secret '{SECRET}'") as caught:
            await BigQueryConnector(setup).create(query("SELECT 1", secrets={SECRET: key}))
    assert "PRIVATE KEY" not in str(caught.value)


async def test_key_that_googles_library_can_not_use_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refresh(*_: Any) -> None:
        raise exceptions.InvalidValue("-----BEGIN PRIVATE KEY-----")  # type: ignore[no-untyped-call]

    async with served(has_key=False) as (fake, setup):
        monkeypatch.setattr(service_account.Credentials, "refresh", refresh)
        with pytest.raises(PermanentError, match=rf"secret '{SECRET}' can not be used: InvalidValue") as caught:
            await BigQueryConnector(setup).create(query("SELECT 1", secrets={SECRET: fake.key()}))
    assert "PRIVATE KEY" not in str(caught.value)


async def test_token_endpoint_that_is_down_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exponential_backoff, "time", SimpleNamespace(sleep=lambda _: None))
    async with served(token_endpoints=["http://127.0.0.1:1/token"]) as (fake, setup):
        connector = BigQueryConnector(setup)
        fake.token_refusals.extend(web.json_response({"error": "internal_failure"}, status=500) for _ in range(9))
        with pytest.raises(TransientError, match="no token for BigQuery: internal_failure"):
            await connector.create(query("SELECT 1"))
        key = fake.key(token_uri="http://127.0.0.1:1/token")
        with pytest.raises(TransientError, match=r"no token for BigQuery: .*refused"):
            await connector.create(query("SELECT 1", secrets={SECRET: key}))
        fake.token_refusals.clear()
        await connector.create(query("SELECT 1"))


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("s3cret", "it is no JSON object"),
        ("[]", "it is no JSON object"),
        (
            '{"type": "external_account", "x": "s3cret"}',
            "must be of type service_account, is of type 'external_account'",
        ),
        ('{"type": "service_account", "token_uri": "http://10.0.0.1/"}', "which the service does not ask"),
    ],
)
async def test_secret_of_a_task_that_is_no_key_is_refused_without_being_shown(key: str, problem: str) -> None:
    async with served() as (_, setup):
        with pytest.raises(PermanentError, match=problem) as caught:
            await BigQueryConnector(setup).create(query("SELECT 1", secrets={SECRET: key}))
    assert "s3cret" not in str(caught.value)


async def test_broken_key_is_refused_without_being_shown() -> None:
    async with served() as (fake, setup):
        for changes in ({"private_key": "-----BEGIN s3cret"}, {"client_email": None}):
            key = {name: value for name, value in {**json.loads(fake.key()), **changes}.items() if value is not None}
            with pytest.raises(PermanentError, match=SECRET) as caught:
                await BigQueryConnector(setup).create(query("SELECT 1", secrets={SECRET: json.dumps(key)}))
            assert "s3cret" not in str(caught.value)


async def test_service_without_a_key_takes_the_account_of_its_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(has_key=False) as (fake, setup):
        path = tmp_path / "key.json"
        path.write_text(fake.key("surroundings"))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        assert (await run(BigQueryConnector(setup), query("SELECT 1"))).phase == RemotePhase.SUCCEEDED
    assert fake.grants == ["surroundings@acme.iam.gserviceaccount.com"]


async def test_repr_of_what_a_task_brings_shows_no_values() -> None:
    assert "k3y" not in repr(JobContext(connection=Connection({SECRET: "k3y"})))


async def test_answer_of_a_proxy_does_not_mean_that_there_is_no_job() -> None:
    async with served() as (fake, setup):
        connector = BigQueryConnector(setup)
        meta = await connector.create(query("SELECT 1"))
        for call in (connector.get(meta, JobContext()), connector.delete(meta, JobContext())):
            fake.refusals.append(RefusalError(404, "", "no such site"))
            with pytest.raises(BadTaskSpecificationError, match=r"status 404 .*no such site"):
                await call
