"""The connector against the fake workspace: tokens, faults, errors of functions."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from flyteidl2.core import execution_pb2

from propfan.pluginmachinery.connector import Connection, JobContext, RemotePhase, Resource, TaskRequest
from propfan.pluginmachinery.contexts import DataStore
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PermanentError, TransientError
from propfan.pluginmachinery.testing import FakeHttp, connector_setup, http_answer
from propfan.pluginmachinery.testing.builders import NOW
from propfan.plugins.connectors.databricks.connector import DatabricksConnector, DatabricksMeta
from tests.unit.plugins.connectors.databricks.fake_databricks import RefusalError, ended
from tests.unit.plugins.connectors.databricks.rig import CLUSTER, INSTANCE, SECRET, function, named, served

pytestmark = pytest.mark.anyio
PREFIX = "memory:///r1/a0/1"
PERMANENT = execution_pb2.ContainerError.NON_RECOVERABLE
RECOVERABLE = execution_pb2.ContainerError.RECOVERABLE


async def last(connector: DatabricksConnector, meta: DatabricksMeta, job: JobContext | None = None) -> Resource:
    while True:
        resource = await connector.get(meta, job or JobContext())
        if resource.phase.is_terminal:
            return resource


async def run(connector: DatabricksConnector, task: TaskRequest) -> Resource:
    return await last(connector, await connector.create(task), JobContext(connection=task.connection))


async def test_second_submission_finds_the_run_of_the_first() -> None:
    async with served() as (fake, setup):
        metas = [await DatabricksConnector(setup).create(function()) for _ in range(3)]
        other = await DatabricksConnector(setup).create(function(run="r2"))
    assert metas[0] == metas[1] == metas[2] != other
    assert len(fake.submissions) == 2


async def test_phases_are_told_on_the_way() -> None:
    async with served() as (_, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function())
        seen = [(await connector.get(meta, JobContext())).phase for _ in range(4)]
    assert seen == [RemotePhase.INITIALIZING, RemotePhase.RUNNING, RemotePhase.RUNNING, RemotePhase.SUCCEEDED]


async def test_task_brings_its_token_and_the_meta_does_not_have_it() -> None:
    async with served(secrets={}) as (fake, setup):
        fake.tokens.add("dapi-of-the-task")
        connection = Connection({"databricks_token": "dapi-of-the-task"})
        task = function(databricksInstance="adb-7.azuredatabricks.net", secrets=connection.secrets)
        connector = DatabricksConnector(setup)
        meta = await connector.create(task)
        resource = await last(connector, meta, JobContext(connection=connection))
        await connector.delete(meta, JobContext(connection=connection))
    assert resource.phase == RemotePhase.SUCCEEDED
    assert {token for _, token in fake.asked} == {"dapi-of-the-task"}
    assert b"dapi" not in msgspec.json.encode(meta)
    assert "dapi" not in repr((meta, resource, task.connection))


async def test_services_token_is_sent_to_no_host_of_a_tasks_choice() -> None:
    async with served() as (fake, setup):
        connector = DatabricksConnector(setup)
        with pytest.raises(BadTaskSpecificationError, match=r"'evil\.example\.com' is not the service's own: bring"):
            await connector.create(function(databricksInstance="evil.example.com"))
        with pytest.raises(BadTaskSpecificationError, match=r"evil\.example\.com"):
            await connector.get(DatabricksMeta("evil.example.com", 1), JobContext())
    assert not fake.asked


async def test_instances_that_the_operator_names_get_the_services_token() -> None:
    async with served(instance="", instances=["https://Adb-7.azuredatabricks.net/"]) as (_, setup):
        task = function(databricksInstance="https://adb-7.azuredatabricks.net/")
        assert (await run(DatabricksConnector(setup), task)).phase == RemotePhase.SUCCEEDED


@pytest.mark.parametrize(
    "instance", ["a b", "host/path", "user@host", "host:port", "-x", "http://host", "h?x=1", "h#f"]
)
async def test_instance_that_is_no_host_is_refused(instance: str) -> None:
    async with served() as (fake, setup):
        with pytest.raises(BadTaskSpecificationError, match=r"custom\.databricksInstance must be a host's name"):
            await DatabricksConnector(setup).create(
                function(databricksInstance=instance, secrets={"databricks_token": "x"})
            )
    assert not fake.asked


async def test_task_without_an_instance_runs_on_the_default_one() -> None:
    async with served() as (_, setup):
        assert (await DatabricksConnector(setup).create(function(databricksInstance=None))).instance == INSTANCE
    async with served(instance="", environment={"FLYTE_DATABRICKS_INSTANCE": "dbc-9.example.com"}) as (_, setup):
        meta = await DatabricksConnector(setup).create(function(databricksInstance=None))
        assert meta.instance == "dbc-9.example.com"
    async with served(instance="") as (_, setup):
        with pytest.raises(BadTaskSpecificationError, match=r"names no workspace: set it, or connectors\.databricks"):
            await DatabricksConnector(setup).create(function(databricksInstance=None))


async def test_instance_of_the_configuration_must_be_a_host() -> None:
    with pytest.raises(ConfigError, match=r"connectors\.databricks\.instance: "):
        DatabricksConnector(connector_setup(sections={"databricks": {"instance": "no host"}}))


async def test_token_secret_that_the_operator_allows_is_used() -> None:
    secrets = {"team-a/token": "dapi-team-a"}
    async with served(secrets=secrets, token_secrets=["team-a"]) as (fake, setup):
        fake.tokens.add("dapi-team-a")
        connector = DatabricksConnector(setup)
        assert (await run(connector, function(databricksTokenSecret="team-a"))).phase == RemotePhase.SUCCEEDED
        with pytest.raises(BadTaskSpecificationError, match=r"'team-b' is not allowed: add it to .*token-secrets"):
            await connector.create(function(databricksTokenSecret="team-b"))


async def test_missing_token_is_named() -> None:
    async with served(secrets={}) as (_, setup):
        with pytest.raises(PermanentError, match=SECRET):
            await DatabricksConnector(setup).create(function())


async def test_bad_token_fails_the_task_without_showing_it() -> None:
    async with served(secrets={SECRET: "dapi-revoked"}) as (_, setup):
        with pytest.raises(PermanentError, match=r"status 403 .*PERMISSION_DENIED: Invalid access token") as caught:
            await DatabricksConnector(setup).create(function())
    assert caught.value.code == "ServiceNotAllowed"
    assert "dapi" not in str(caught.value)


async def test_other_kinds_of_credentials_are_refused_by_name() -> None:
    async with served() as (_, setup):
        with pytest.raises(BadTaskSpecificationError, match=r"databricksAuthType is 'oidc'"):
            await DatabricksConnector(setup).create(function(databricksAuthType="oidc"))


@pytest.mark.parametrize(
    ("status", "code"), [(429, "REQUEST_LIMIT_EXCEEDED"), (503, "TEMPORARILY_UNAVAILABLE"), (500, "INTERNAL_ERROR")]
)
async def test_busy_workspace_is_asked_again_later(status: int, code: str) -> None:
    async with served() as (fake, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function())
        for call in (
            connector.create(function()),
            connector.get(meta, JobContext()),
            connector.delete(meta, JobContext()),
        ):
            fake.refusals.append(RefusalError(status, code, "busy", {"Retry-After": "7"}))
            with pytest.raises(TransientError, match=code) as caught:
                await call
            assert caught.value.retry_after_s == 7


async def test_submission_whose_answer_was_lost_makes_no_second_run() -> None:
    async with served() as (fake, setup):
        meta = await DatabricksConnector(setup).create(function())
        fake.refusals.append(RefusalError(502, "", "bad gateway"))
        with pytest.raises(TransientError):
            await DatabricksConnector(setup).create(function())
        assert await DatabricksConnector(setup).create(function()) == meta
    assert len(fake.submissions) == 1


async def test_run_that_is_gone_ends_the_task() -> None:
    async with served() as (fake, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function())
        fake.forget(meta.run_id)
        resource = await connector.get(meta, JobContext())
        await connector.delete(meta, JobContext())
    assert resource.phase == RemotePhase.ABORTED
    assert "is gone" in resource.message


async def test_cancelled_run_is_aborted() -> None:
    async with served() as (_, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function())
        await connector.delete(meta, JobContext())
        assert (await last(connector, meta)).phase == RemotePhase.ABORTED


async def test_workspace_says_what_is_wrong_with_the_configuration() -> None:
    async with served() as (_, setup):
        task = function({"new_cluster": {key: CLUSTER[key] for key in ("num_workers",)}})
        with pytest.raises(BadTaskSpecificationError, match=r"status 400 .*Missing required field: new_cluster"):
            await DatabricksConnector(setup).create(task)


async def _failing(store: DataStore, kind: int = PERMANENT) -> None:
    error = execution_pb2.ContainerError(code="USER:Value", message="no such colour", kind=kind)  # type: ignore[arg-type]
    await store.put(f"{PREFIX}/error.pb", execution_pb2.ErrorDocument(error=error).SerializeToString())


@pytest.mark.parametrize(
    ("kind", "phase"), [(PERMANENT, RemotePhase.FAILED), (RECOVERABLE, RemotePhase.RETRYABLE_FAILED)]
)
async def test_function_that_failed_in_a_run_that_did_not_fails_the_task(kind: int, phase: RemotePhase) -> None:
    async with served() as (_, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function({"existing_cluster_id": "c-1"}))
        await _failing(setup.store, kind)
        resource = await last(connector, meta)
    assert resource.phase == phase
    assert "[USER:Value] no such colour" in resource.message


async def test_error_of_an_earlier_try_does_not_outweigh_outputs() -> None:
    async with served() as (_, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function())
        await _failing(setup.store)
        await setup.store.put(f"{PREFIX}/outputs.pb", b"")
        assert (await last(connector, meta)).phase == RemotePhase.SUCCEEDED


async def test_failed_run_tells_its_error_and_its_output() -> None:
    async with served() as (fake, setup):
        fake.courses["f"] = [ended("FAILED", "RUN_EXECUTION_ERROR", "CLIENT_ERROR", "see the output")]
        fake.outputs["f"] = {"error": "ValueError: red", "error_trace": "Traceback of the function"}
        resource = await run(DatabricksConnector(setup), named("f"))
    assert resource.phase == RemotePhase.FAILED
    for told in ("RUN_EXECUTION_ERROR: see the output", "ValueError: red", "Traceback of the function"):
        assert told in resource.message


async def test_notebook_that_fails_is_not_looked_for_in_the_store() -> None:
    async with served() as (_, setup):
        await _failing(setup.store)
        task = function({"existing_cluster_id": "c"}, notebookPath="/Users/a/n")
        meta = await DatabricksConnector(setup).create(task)
        assert meta.output_prefix == ""
        assert (await last(DatabricksConnector(setup), meta)).phase == RemotePhase.SUCCEEDED


async def test_service_principal_of_the_service_asks_with_tokens_of_an_hour() -> None:
    moment = [NOW]
    secrets = {"DATABRICKS_CLIENT_ID": "robot", "DATABRICKS_CLIENT_SECRET": "dose-1"}
    async with served(secrets=secrets) as (fake, setup):
        fake.principals["robot"] = "dose-1"
        connector = DatabricksConnector(msgspec.structs.replace(setup, now=lambda: moment[0]))
        meta = await connector.create(function(databricksAuthType="oauth_m2m"))
        assert meta.client_id == "robot"
        assert (await last(connector, meta)).phase == RemotePhase.SUCCEEDED
        assert len(fake.grants) == 1
        moment[0] += timedelta(minutes=56)
        await connector.get(meta, JobContext())
        assert len(fake.grants) == 2
        fake.tokens.clear()
        await connector.get(meta, JobContext())
        assert len(fake.grants) == 3
    assert b"dose" not in msgspec.json.encode(meta)


async def test_task_brings_its_own_service_principal() -> None:
    async with served(secrets={}) as (fake, setup):
        fake.principals["team"] = "dose-2"
        connection = Connection({"databricks_client_secret": "dose-2"})
        task = function(
            databricksInstance="adb-7.azuredatabricks.net",
            databricksAuthType="oauth_m2m",
            databricksClientId="team",
            secrets=connection.secrets,
        )
        assert (await run(DatabricksConnector(setup), task)).phase == RemotePhase.SUCCEEDED
    assert fake.grants == ["team"]


async def test_oauth_secret_that_the_operator_allows_is_used() -> None:
    async with served(secrets={"databricks-oauth/client_id": "r", "databricks-oauth/client_secret": "s"}) as (
        fake,
        setup,
    ):
        fake.principals["r"] = "s"
        connector = DatabricksConnector(setup)
        task = function(databricksAuthType="oauth_m2m", databricksOauthSecret="databricks-oauth")
        assert (await run(connector, task)).phase == RemotePhase.SUCCEEDED
        with pytest.raises(BadTaskSpecificationError, match=r"databricksOauthSecret 'theirs' is not allowed"):
            await connector.create(function(databricksAuthType="oauth_m2m", databricksOauthSecret="theirs"))


async def test_service_principal_whose_secret_is_wrong_fails_the_task_without_showing_it() -> None:
    secrets = {"DATABRICKS_CLIENT_ID": "robot", "DATABRICKS_CLIENT_SECRET": "dose-1"}
    async with served(secrets=secrets) as (_, setup):
        with pytest.raises(PermanentError, match=r"service principal 'robot': status 401 .*invalid_client") as caught:
            await DatabricksConnector(setup).create(function(databricksAuthType="oauth_m2m"))
    assert "dose" not in str(caught.value)


async def test_secrets_of_the_service_are_not_sent_where_a_meta_says() -> None:
    async with served(secrets={"other/token": "dapi-other"}) as (fake, setup):
        with pytest.raises(BadTaskSpecificationError, match=r"secret 'other' is not among"):
            await DatabricksConnector(setup).get(DatabricksMeta(INSTANCE, 1, token_secret="other"), JobContext())
    assert not fake.asked


async def test_what_a_notebook_returns_is_told() -> None:
    async with served() as (fake, setup):
        task = function({"existing_cluster_id": "c", "run_name": "n"}, notebookPath="/Users/a/n")
        fake.outputs["n"] = {"notebook_output": {"result": "42 rows", "truncated": False}}
        resource = await run(DatabricksConnector(setup), task)
    assert resource.custom_info is not None
    assert resource.custom_info["notebook_result"] == "42 rows"


async def test_output_that_can_not_be_had_costs_nothing_but_itself() -> None:
    async with served() as (fake, setup):
        fake.courses["f"] = [ended("FAILED", "RUN_EXECUTION_ERROR", "CLIENT_ERROR", "see the output")]
        connector = DatabricksConnector(setup)
        meta = await connector.create(named("f"))
        fake.refusals.extend([None, RefusalError(503, "TEMPORARILY_UNAVAILABLE", "busy")])
        resource = await connector.get(meta, JobContext())
    assert resource.phase == RemotePhase.FAILED
    assert resource.message.endswith("see the output")


async def test_answer_of_a_proxy_does_not_mean_that_there_is_no_job() -> None:
    async with served() as (fake, setup):
        connector = DatabricksConnector(setup)
        meta = await connector.create(function())
        for call in (connector.get(meta, JobContext()), connector.delete(meta, JobContext())):
            fake.refusals.append(RefusalError(404, "", "no such site"))
            with pytest.raises(BadTaskSpecificationError, match=r"status 404 .*no such site"):
                await call


async def test_workspace_is_asked_over_tls_at_its_own_host() -> None:
    http = FakeHttp(lambda _: http_answer(json={"run_id": 7}))
    setup = connector_setup(
        http=http, secrets={SECRET: "dapi-service"}, sections={"databricks": {"instance": INSTANCE}}
    )
    meta = await DatabricksConnector(setup).create(function(databricksInstance=None))
    task = function(databricksInstance="adb-7.azuredatabricks.net:8443", secrets={"databricks_token": "dapi-task"})
    await DatabricksConnector(setup).create(task)
    assert meta.run_id == 7
    assert [(call.method, call.url, call.headers["Authorization"]) for call in http.calls] == [
        ("POST", f"https://{INSTANCE}/api/2.1/jobs/runs/submit", "Bearer dapi-service"),
        ("POST", "https://adb-7.azuredatabricks.net:8443/api/2.1/jobs/runs/submit", "Bearer dapi-task"),
    ]


@pytest.mark.parametrize("instance", ["169.254.169.254", "127.0.0.1", "localhost"])
async def test_task_has_no_internal_host_asked(instance: str) -> None:
    async with served(endpoint="") as (_, setup):
        task = function(databricksInstance=instance, secrets={"databricks_token": "dapi-task"})
        with pytest.raises(PermanentError, match=instance) as caught:
            await DatabricksConnector(setup).create(task)
    assert "connectors.databricks.hosts" in str(caught.value)
    assert "dapi" not in str(caught.value)
