"""The services, by their generated clients over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.actions.actions_service_connect import ActionsServiceClient
from flyteidl2.actions.actions_service_pb2 import Action, EnqueueRequest, WatchForUpdatesRequest
from flyteidl2.app.app_payload_pb2 import ListRequest as ListAppsRequest
from flyteidl2.app.app_service_connect import AppServiceClient
from flyteidl2.cacheservice import cacheservice_pb2 as v1
from flyteidl2.cacheservice.cacheservice_connect import CacheServiceClient
from flyteidl2.cacheservice.v2 import cacheservice_pb2 as v2
from flyteidl2.cacheservice.v2.cacheservice_connect import CacheServiceClient as ScopedCacheServiceClient
from flyteidl2.cluster.payload_pb2 import SelectClusterRequest, SelectClusterResponse
from flyteidl2.cluster.service_connect import ClusterServiceClient
from flyteidl2.common import identifier_pb2, phase_pb2
from flyteidl2.core import types_pb2
from flyteidl2.dataproxy import dataproxy_service_pb2 as dataproxy
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceClient
from flyteidl2.secret import definition_pb2, payload_pb2
from flyteidl2.secret.secret_connect import SecretServiceClient
from flyteidl2.task import task_definition_pb2, task_service_pb2
from flyteidl2.task.task_service_connect import TaskServiceClient
from flyteidl2.workflow import run_definition_pb2, run_service_pb2
from flyteidl2.workflow.events_proxy_service_connect import EventsProxyServiceClient
from flyteidl2.workflow.events_proxy_service_pb2 import RecordRequest
from flyteidl2.workflow.run_service_connect import RunServiceClient

from tests.unit.engine.control_plane.messages import PROJECT, duration, sleep_task
from tests.unit.engine.control_plane.serving import served, serving_plane

pytestmark = pytest.mark.anyio


def create(name: str = "r1", seconds: float = 0.1) -> run_service_pb2.CreateRunRequest:
    run_id = identifier_pb2.RunIdentifier(org="local", project="demo", domain="development", name=name)
    return run_service_pb2.CreateRunRequest(run_id=run_id, task_spec=sleep_task(), inputs=duration(seconds))


def action_id(name: str = "a0", run: str = "r1") -> identifier_pb2.ActionIdentifier:
    run_id = identifier_pb2.RunIdentifier(org="local", project="demo", domain="development", name=run)
    return identifier_pb2.ActionIdentifier(run=run_id, name=name)


async def until_over(runs: RunServiceClient, name: str = "a0", run: str = "r1") -> run_definition_pb2.ActionDetails:
    """Follows an action to its end."""
    request = run_service_pb2.WatchActionDetailsRequest(action_id=action_id(name, run))
    details = run_definition_pb2.ActionDetails()
    with anyio.fail_after(30):
        async for message in runs.watch_action_details(request):
            details = message.details
    return details


@asynccontextmanager
async def refused(code: Code, said: str) -> AsyncIterator[None]:
    with pytest.raises(ConnectError, match=said) as error:
        yield
    assert error.value.code is code


async def test_a_run_is_created_watched_and_listed() -> None:
    async with served() as url:
        runs = RunServiceClient(url)
        created = await runs.create_run(create())
        assert created.run.action.id == action_id()
        details = await until_over(runs)
        assert details.status.phase == phase_pb2.ACTION_PHASE_SUCCEEDED
        assert details.task == sleep_task()
        listed = await runs.list_runs(run_service_pb2.ListRunsRequest(project_id=PROJECT))
        assert [run.action.status.phase for run in listed.runs] == [phase_pb2.ACTION_PHASE_SUCCEEDED]
        data = await DataProxyServiceClient(url).get_action_data(dataproxy.GetActionDataRequest(action_id=action_id()))
        assert data.inputs == duration(0.1)


async def test_a_run_without_a_name_gets_one() -> None:
    async with served() as url:
        request = run_service_pb2.CreateRunRequest(project_id=PROJECT, task_spec=sleep_task(), inputs=duration(0))
        run = (await RunServiceClient(url).create_run(request)).run.action.id.run
        assert (run.org, run.project, run.domain, len(run.name)) == ("local", "demo", "development", 20)


async def test_requests_that_can_not_be_are_refused_by_field() -> None:
    async with served() as url:
        runs = RunServiceClient(url)
        await runs.create_run(create())
        async with refused(Code.ALREADY_EXISTS, "run r1"):
            await runs.create_run(create())
        async with refused(Code.INVALID_ARGUMENT, "run_id.name: 'No good'"):
            await runs.create_run(create("No good"))
        async with refused(Code.INVALID_ARGUMENT, "one of task_spec and task_id"):
            await runs.create_run(run_service_pb2.CreateRunRequest(project_id=PROJECT))
        async with refused(Code.NOT_FOUND, "run r9"):
            await runs.get_run_details(run_service_pb2.GetRunDetailsRequest(run_id=action_id(run="r9").run))
        async with refused(Code.NOT_FOUND, "is not deployed"):
            named = task_definition_pb2.TaskIdentifier(project="demo", domain="development", name="x", version="v")
            await runs.create_run(run_service_pb2.CreateRunRequest(project_id=PROJECT, task_id=named))


async def test_what_is_not_offered_says_its_name() -> None:
    async with served() as url:
        async with refused(Code.UNIMPLEMENTED, "AppService/List is not offered"):
            await AppServiceClient(url).list(ListAppsRequest())
        async with refused(Code.UNIMPLEMENTED, "RunService/WatchGroups is not offered"):
            async for _ in RunServiceClient(url).watch_groups(run_service_pb2.WatchGroupsRequest()):
                pass


async def test_runs_of_a_project_are_watched() -> None:
    async with served() as url:
        runs = RunServiceClient(url)
        stream = runs.watch_runs(run_service_pb2.WatchRunsRequest(project_id=PROJECT))
        assert list((await anext(stream)).runs) == []
        await runs.create_run(create(seconds=0))
        with anyio.fail_after(30):
            async for message in stream:
                if [run.action.status.phase for run in message.runs] == [phase_pb2.ACTION_PHASE_SUCCEEDED]:
                    break


async def test_children_are_told_of_to_their_parent() -> None:
    async with served() as url:
        runs, actions = RunServiceClient(url), ActionsServiceClient(url)
        await runs.create_run(create(seconds=30))
        uri = (await runs.get_action_data_u_r_is(_uris())).inputs_uri.replace("/a0/", "/child/")
        stream = actions.watch_for_updates(WatchForUpdatesRequest(parent_action_id=action_id()))
        assert (await anext(stream)).control_message.sentinel
        with_inputs = Action(
            action_id=action_id("child"),
            parent_action_name="a0",
            input_uri=uri,
            run_output_base=uri.rpartition("/child")[0],
        )
        with_inputs.task.spec.CopyFrom(sleep_task("other"))
        await actions.enqueue(EnqueueRequest(action=with_inputs))
        async with refused(Code.ALREADY_EXISTS, "r1/child exists"):
            await actions.enqueue(EnqueueRequest(action=with_inputs))
        first = (await anext(stream)).action_update
        assert (first.action_id.name, first.phase) == ("child", phase_pb2.ACTION_PHASE_QUEUED)
        await runs.abort_run(run_service_pb2.AbortRunRequest(run_id=action_id().run, reason="enough"))
        assert (await until_over(runs)).abort_info.reason == "enough"
        assert (await until_over(runs, "child")).status.phase in (
            phase_pb2.ACTION_PHASE_ABORTED,
            phase_pb2.ACTION_PHASE_FAILED,  # there are no inputs where it looks for them
        )


def _uris() -> run_service_pb2.GetActionDataURIsRequest:
    return run_service_pb2.GetActionDataURIsRequest(action_id=action_id())


async def test_a_child_of_nobody_is_refused() -> None:
    async with served() as url:
        runs, actions = RunServiceClient(url), ActionsServiceClient(url)
        await runs.create_run(create())
        orphan = Action(
            action_id=action_id("child"),
            parent_action_name="a7",
            input_uri="memory://b/i",
            run_output_base="memory://b",
        )
        orphan.task.spec.CopyFrom(sleep_task())
        async with refused(Code.NOT_FOUND, "r1/a7"):
            await actions.enqueue(EnqueueRequest(action=orphan))
        orphan.action_id.run.name = "r9"
        async with refused(Code.NOT_FOUND, "r9"):
            await actions.enqueue(EnqueueRequest(action=orphan))


async def test_a_condition_waits_for_its_signal() -> None:
    async with served() as url:
        runs, actions = RunServiceClient(url), ActionsServiceClient(url)
        await runs.create_run(create(seconds=30))
        condition = Action(action_id=action_id("ask"), parent_action_name="a0", run_output_base="memory://b/x")
        condition.condition.name = "approve"
        condition.condition.type.simple = types_pb2.BOOLEAN
        await actions.enqueue(EnqueueRequest(action=condition))
        payload = run_service_pb2.EventPayload(bool_value=True)
        await runs.signal_event(run_service_pb2.SignalEventRequest(action_id=action_id("ask"), payload=payload))
        details = await until_over(runs, "ask")
        assert details.status.phase == phase_pb2.ACTION_PHASE_SUCCEEDED
        assert details.signal_info.output.scalar.primitive.boolean
        stream = actions.watch_for_updates(WatchForUpdatesRequest(parent_action_id=action_id()))
        assert (await anext(stream)).action_update.value.scalar.primitive.boolean


async def test_tasks_are_deployed_once_a_version() -> None:
    async with served() as url:
        tasks = TaskServiceClient(url)
        named = task_definition_pb2.TaskIdentifier(
            org="local", project="demo", domain="development", name="sleeper", version="v1"
        )
        request = task_service_pb2.DeployTaskRequest(task_id=named, spec=sleep_task())
        await tasks.deploy_task(request)
        await tasks.deploy_task(request)
        async with refused(Code.ALREADY_EXISTS, "version v1"):
            await tasks.deploy_task(task_service_pb2.DeployTaskRequest(task_id=named, spec=sleep_task("other")))
        found = await tasks.get_task_details(task_service_pb2.GetTaskDetailsRequest(task_id=named))
        assert found.details.spec == sleep_task()
        listed = await tasks.list_tasks(task_service_pb2.ListTasksRequest(project_id=PROJECT))
        assert [task.task_id.version for task in listed.tasks] == ["v1"]


async def test_an_upload_is_for_one_object_of_one_content() -> None:
    async with served(max_upload_bytes=2048) as url, aiohttp.ClientSession() as http:
        content = b"x" * 1000
        request = dataproxy.CreateUploadLocationRequest(
            project="demo", domain="development", filename="a.tgz", content_md5=hashlib.md5(content).digest()
        )
        where = await DataProxyServiceClient(url).create_upload_location(request)
        for body, status in ((b"y" * 1000, 400), (b"x" * 4000, 413), (content, 200)):
            async with http.put(where.signed_url, data=body) as answer:
                assert answer.status == status
        async with http.get(where.signed_url.replace("/upload/", "/download/")) as answer:
            assert answer.status == 403
        async with http.put(where.signed_url[:-4] + "AAAA", data=content) as answer:
            assert answer.status == 403


@pytest.mark.parametrize("name", ["../x", "a/../../b", "/etc/passwd", "a//b"])
async def test_no_upload_leaves_its_place(name: str) -> None:
    async with served() as url, refused(Code.INVALID_ARGUMENT, "filename"):
        request = dataproxy.CreateUploadLocationRequest(project="demo", domain="development", filename=name)
        await DataProxyServiceClient(url).create_upload_location(request)


async def test_secrets_go_in_and_never_come_out() -> None:
    async with served() as url:
        secrets = SecretServiceClient(url)
        identifier = definition_pb2.SecretIdentifier(name="key", project="demo")
        spec = definition_pb2.SecretSpec(string_value="very secret")
        await secrets.create_secret(payload_pb2.CreateSecretRequest(id=identifier, secret_spec=spec))
        async with refused(Code.ALREADY_EXISTS, "secret demo/key"):
            await secrets.create_secret(payload_pb2.CreateSecretRequest(id=identifier, secret_spec=spec))
        found = await secrets.get_secret(payload_pb2.GetSecretRequest(id=identifier))
        assert "very secret" not in str(found)
        await secrets.delete_secret(payload_pb2.DeleteSecretRequest(id=identifier))
        async with refused(Code.NOT_FOUND, "secret demo/key"):
            await secrets.get_secret(payload_pb2.GetSecretRequest(id=identifier))


async def test_a_token_is_asked_for_where_there_is_one() -> None:
    async with served(token="sesame") as url, aiohttp.ClientSession() as http:
        async with refused(Code.UNAUTHENTICATED, "bearer token"):
            await ClusterServiceClient(url).select_cluster(SelectClusterRequest())
        known = await ClusterServiceClient(url).select_cluster(
            SelectClusterRequest(), headers={"authorization": "Bearer sesame"}
        )
        assert known == SelectClusterResponse()
        async with http.get(f"{url}/healthz") as answer:
            assert answer.status == 200


async def test_answers_to_this_machine_are_not_compressed() -> None:
    headers = {"accept-encoding": "gzip", "content-type": "application/json"}
    async with served() as url, aiohttp.ClientSession(headers=headers) as http:
        service = "flyteidl2.project.ProjectService/ListProjects"
        async with http.post(f"{url}/{service}", data=b"{}") as answer:
            assert (answer.status, answer.headers.get("content-encoding", "identity")) == (200, "identity")


async def test_many_watchers_of_one_run_are_all_told() -> None:
    async with served() as url:
        runs = RunServiceClient(url)
        await runs.create_run(create(seconds=1.0))
        ended: list[int] = []

        async def watch() -> None:
            ended.append((await until_over(runs)).status.phase)

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(watch)
        assert ended == [phase_pb2.ACTION_PHASE_SUCCEEDED] * 100


async def test_an_executor_elsewhere_tells_events_and_shares_the_cache() -> None:
    async with served() as url:
        await RunServiceClient(url).create_run(create(seconds=30))
        event = run_definition_pb2.ActionEvent(id=action_id(), attempt=1, phase=phase_pb2.ACTION_PHASE_FAILED)
        event.updated_time.GetCurrentTime()
        event.error_info.message = "told from afar"
        await EventsProxyServiceClient(url).record(RecordRequest(events=[event]))
        assert (await until_over(RunServiceClient(url))).error_info.message == "told from afar"

        cache, scope = ScopedCacheServiceClient(url), v2.Identifier(project="demo", domain="development")
        get = v2.GetCacheRequest(identifier=scope, base_request=v1.GetCacheRequest(key="k"))
        async with refused(Code.NOT_FOUND, "cache entry"):
            await cache.get(get)
        put = v1.PutCacheRequest(key="k", output=v1.CachedOutput(output_uri="s3://b/o"))
        await cache.put(v2.PutCacheRequest(identifier=scope, base_request=put))
        async with refused(Code.ALREADY_EXISTS, "there is one"):
            await cache.put(v2.PutCacheRequest(identifier=scope, base_request=put))
        assert (await cache.get(get)).output.output_uri == "s3://b/o"
        other = v2.GetCacheRequest(identifier=v2.Identifier(project="x"), base_request=v1.GetCacheRequest(key="k"))
        async with refused(Code.NOT_FOUND, "x/"):
            await cache.get(other)


async def test_a_reservation_is_one_owners_until_it_is_released() -> None:
    async with served() as url:
        cache = CacheServiceClient(url)

        async def reserve(owner: str) -> str:
            request = v1.GetOrExtendReservationRequest(key="k", owner_id=owner)
            request.heartbeat_interval.FromSeconds(10)
            return (await cache.get_or_extend_reservation(request)).reservation.owner_id

        assert [await reserve("a"), await reserve("b"), await reserve("a")] == ["a", "a", "a"]
        async with refused(Code.NOT_FOUND, "b has none"):
            await cache.release_reservation(v1.ReleaseReservationRequest(key="k", owner_id="b"))
        await cache.release_reservation(v1.ReleaseReservationRequest(key="k", owner_id="a"))
        assert await reserve("b") == "b"


async def test_a_watcher_that_hangs_up_is_not_kept() -> None:
    async with serving_plane() as (plane, url):
        await RunServiceClient(url).create_run(create(seconds=30))
        view = await plane.ledger.view("r1")

        async def watch() -> None:
            request = WatchForUpdatesRequest(parent_action_id=action_id())
            with contextlib.suppress(ConnectError):  # it is cancelled
                async for _ in ActionsServiceClient(url).watch_for_updates(request):
                    pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            with anyio.fail_after(30):
                while view.watchers != 1:  # noqa: ASYNC110  # nobody tells of its coming
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            while view.watchers:  # noqa: ASYNC110  # nor of its going
                await anyio.sleep(0.01)
