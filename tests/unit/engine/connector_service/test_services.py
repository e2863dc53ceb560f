"""Both Flytes' services, over a real channel."""

from __future__ import annotations

from typing import Any

import grpc
import msgspec
import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import literals_pb2 as literals_v1
from flyteidl.core import tasks_pb2 as tasks_v1
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from propfan.engine.connector_service.config import LimitConfig
from tests.unit.engine.connector_service.rig import (
    CONFIG,
    Greeter,
    Jobs,
    all_of,
    category,
    greeting,
    job,
    offers_of,
    serving,
)

pytestmark = pytest.mark.anyio

Phase = execution_pb2.TaskExecution


async def test_a_job_lives_from_create_to_delete() -> None:
    async with serving() as it:
        meta = await it.client.create(job())
        assert msgspec.json.decode(meta)["id"].startswith("sample-")
        resource = await it.client.get(meta)
        assert MessageToDict(resource) == {
            "phase": "SUCCEEDED",
            "message": "fine",
            "outputs": {"literals": [{"name": "n", "value": {"scalar": {"primitive": {"integer": "1"}}}}]},
        }
        await it.client.delete(meta)
        assert it.connector("Jobs").calls == ["create", "get", "delete"]


async def test_connectors_are_listed_as_a_control_plane_asks() -> None:
    async with serving() as it:
        answer = await it.client.connectors.ListConnectors(connector_pb2.ListConnectorsRequest())
        assert [MessageToDict(each) for each in answer.connectors] == [
            {"name": "Greeter", "supportedTaskCategories": [{"name": "greet"}]},
            {"name": "Jobs", "supportedTaskCategories": [{"name": "job"}, {"name": "job", "version": 1}]},
        ]
        answer = await it.client.connectors.GetConnector(connector_pb2.GetConnectorRequest(name="Greeter"))
        assert answer.connector.name == "Greeter"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.client.connectors.GetConnector(connector_pb2.GetConnectorRequest(name="X"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "Cannot find connector for name: X; there are: Greeter, Jobs"


async def test_agents_are_listed_for_flyte_1() -> None:
    async with serving() as it:
        answer = await it.client.agents.ListAgents(agent_pb2.ListAgentsRequest())
        assert [MessageToDict(each) for each in answer.agents] == [
            {
                "name": "Greeter",
                "isSync": True,
                "supportedTaskTypes": ["greet"],
                "supportedTaskCategories": [{"name": "greet"}],
            },
            {
                "name": "Jobs",
                "supportedTaskTypes": ["job"],
                "supportedTaskCategories": [{"name": "job"}, {"name": "job", "version": 1}],
            },
        ]
        assert (await it.client.agents.GetAgent(agent_pb2.GetAgentRequest(name="Jobs"))).agent.name == "Jobs"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.client.agents.GetAgent(agent_pb2.GetAgentRequest(name="X"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def job_v1(task_type: str = "job", **custom: Any) -> tasks_v1.TaskTemplate:
    return tasks_v1.TaskTemplate.FromString(job(task_type, **custom).SerializeToString())


async def test_a_job_of_flyte_1_lives_from_create_to_delete() -> None:
    async with serving() as it:
        created = await it.client.agent.CreateTask(
            agent_pb2.CreateTaskRequest(template=job_v1(), output_prefix="s3://x")
        )
        meta = created.resource_meta
        both = {"task_type": "job", "task_category": agent_pb2.TaskCategory(name="job")}
        for asked in ({"task_type": "job"}, {"task_category": both["task_category"]}, both):
            found = await it.client.agent.GetTask(agent_pb2.GetTaskRequest(resource_meta=meta, **asked))
            assert found.resource.phase == Phase.SUCCEEDED
            assert found.resource.state == agent_pb2.SUCCEEDED
            assert found.resource.outputs.literals["n"].scalar.primitive.integer == 1
            await it.client.agent.DeleteTask(agent_pb2.DeleteTaskRequest(resource_meta=meta, **asked))


async def test_the_task_type_alone_means_version_0() -> None:
    class Newer(Jobs):
        categories = (Jobs.categories[1],)

    async with serving(Newer) as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.client.agent.GetTask(agent_pb2.GetTaskRequest(resource_meta=b"{}", task_type="job"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "Cannot find connector for task type: job and version: 0; there is version 1"


async def test_states_of_flyte_1_follow_the_phases() -> None:
    from propfan.engine.connector_service import v1

    states = {
        name: agent_pb2.State.Name(v1._resource(connector_pb2.Resource(phase=name)).state)
        for name, _ in Phase.Phase.items()
    }
    assert states == {
        "UNDEFINED": "PENDING",
        "QUEUED": "PENDING",
        "INITIALIZING": "PENDING",
        "WAITING_FOR_RESOURCES": "PENDING",
        "RUNNING": "RUNNING",
        "SUCCEEDED": "SUCCEEDED",
        "ABORTED": "PERMANENT_FAILURE",
        "FAILED": "PERMANENT_FAILURE",
        "RETRYABLE_FAILED": "RETRYABLE_FAILURE",
    }


def sync_requests(**custom: Any) -> list[agent_pb2.ExecuteTaskSyncRequest]:
    template = tasks_v1.TaskTemplate.FromString(greeting(**custom).SerializeToString())
    primitive = literals_v1.Primitive(string_value="world")
    name = literals_v1.Literal(scalar=literals_v1.Scalar(primitive=primitive))
    return [
        agent_pb2.ExecuteTaskSyncRequest(
            header=agent_pb2.CreateRequestHeader(template=template, output_prefix="s3://x")
        ),
        agent_pb2.ExecuteTaskSyncRequest(inputs=literals_v1.LiteralMap(literals={"name": name})),
    ]


async def test_a_task_of_flyte_1_is_done_in_one_call() -> None:
    async with serving() as it:
        (answer,) = await all_of(it.client.sync_agent.ExecuteTaskSync(iter(sync_requests())))
        resource = answer.header.resource
        assert resource.phase == Phase.SUCCEEDED
        assert resource.outputs.literals["greeting"].scalar.primitive.string_value == "hello world"


async def test_a_stream_without_inputs_has_none() -> None:
    async with serving() as it:
        stream = it.client.sync_agent.ExecuteTaskSync(iter(sync_requests()[:1]))
        (answer,) = await all_of(stream)
        assert answer.header.resource.outputs.literals["greeting"].scalar.primitive.string_value == "hello you"


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([], "the stream ended before its header"),
        (sync_requests()[1:], "the stream must bring a header, then inputs: 'header' was expected"),
        (sync_requests()[:1] * 2, "the stream must bring a header, then inputs: 'inputs' was expected"),
    ],
)
async def test_a_stream_that_is_none_is_refused(requests: list[Any], problem: str) -> None:
    async with serving() as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await all_of(it.client.sync_agent.ExecuteTaskSync(iter(requests)))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == problem


async def test_an_asynchronous_connector_does_not_do_at_once() -> None:
    header = agent_pb2.CreateRequestHeader(template=job_v1())
    async with serving() as it:
        stream = it.client.sync_agent.ExecuteTaskSync(iter([agent_pb2.ExecuteTaskSyncRequest(header=header)]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await all_of(stream)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "[Jobs] does not support sync execution" in str(caught.value.details())


async def test_flyte_2_reaches_a_synchronous_connector_by_create_and_get() -> None:
    async with serving() as it:
        meta = await it.client.create(greeting())
        resource = await it.client.get(meta, "greet")
        assert resource.phase == Phase.SUCCEEDED
        assert resource.outputs.literals[0].value.scalar.primitive.string_value == "hello you"
        await it.client.delete(meta, "greet")
        for nonsense in (b"", b"{}", meta[:1] + b"\xff\xff"):
            with pytest.raises(grpc.aio.AioRpcError, match="is none that its CreateTask answered") as caught:
                await it.client.get(nonsense, "greet")
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_outputs_too_large_for_a_meta_are_left_where_the_caller_looks() -> None:
    async with serving() as it:
        meta = await it.client.create(greeting(answer="large"))
        assert len(meta) < 1000
        assert not (await it.client.get(meta, "greet")).HasField("outputs")
        store = it.connector("Greeter").setup.store
        content = await store.get("memory:///r1/a0/1/outputs.pb")
        assert len(content) > 300_000


async def test_logs_are_streamed_to_both() -> None:
    async with serving() as it:
        meta = await it.client.create(job())
        request = connector_pb2.GetTaskLogsRequest(resource_meta=meta, task_category=category("job"), token="t")
        found = await all_of(it.client.connector.GetTaskLogs(request))
        kinds = [each.WhichOneof("part") for each in found]
        assert kinds == ["body", "header", "body", "header", "body"]
        assert [each.body.lines[0].message for each in found if each.HasField("body")] == ["t0", "t1", "t2"]
        older = agent_pb2.GetTaskLogsRequest(resource_meta=meta, task_type="job")
        agent = await all_of(it.client.agent.GetTaskLogs(older))
        assert [each.body.structured_lines[0].message for each in agent if each.HasField("body")] == ["0", "1", "2"]


async def test_metrics_are_told_to_both() -> None:
    async with serving() as it:
        meta = await it.client.create(job())
        request = connector_pb2.GetTaskMetricsRequest(
            resource_meta=meta, task_category=category("job"), queries=["cpu", "memory"]
        )
        answer = await it.client.connector.GetTaskMetrics(request)
        assert [each.metric for each in answer.results] == ["cpu", "memory"]
        older = agent_pb2.GetTaskMetricsRequest(resource_meta=meta, task_type="job", queries=["cpu"])
        assert [each.metric for each in (await it.client.agent.GetTaskMetrics(older)).results] == ["cpu"]


async def test_what_a_connector_lacks_is_unimplemented() -> None:
    async with serving() as it:
        meta = await it.client.create(greeting())
        with pytest.raises(grpc.aio.AioRpcError, match="connector 'Greeter' has no metrics") as caught:
            await it.client.connector.GetTaskMetrics(
                connector_pb2.GetTaskMetricsRequest(resource_meta=meta, task_category=category("greet"))
            )
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        request = connector_pb2.GetTaskLogsRequest(resource_meta=meta, task_category=category("greet"))
        with pytest.raises(grpc.aio.AioRpcError, match="connector 'Greeter' has no logs"):
            await all_of(it.client.connector.GetTaskLogs(request))


async def test_secrets_of_the_task_reach_the_connector_and_no_message() -> None:
    async with serving() as it:
        meta = await it.client.create(job(answer="secret"))
        request = connector_pb2.GetTaskRequest(resource_meta=meta, task_category=category("job"))
        request.connection.secrets["token"] = "s3cret-value"
        assert (await it.client.connector.GetTask(request)).resource.message == "s3cret-value"
        request.resource_meta = meta.replace(b'"secret"', b'"absent s3cret-value"')
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.client.connector.GetTask(request)
        assert "KeyError: 'absent ***'" in str(caught.value.details())


async def test_health_and_reflection_know_every_service() -> None:
    services = {
        "flyteidl2.connector.AsyncConnectorService",
        "flyteidl2.connector.ConnectorMetadataService",
        "flyteidl.service.AsyncAgentService",
        "flyteidl.service.SyncAgentService",
        "flyteidl.service.AgentMetadataService",
        "grpc.health.v1.Health",
    }
    async with serving() as it:
        health: Any = health_pb2_grpc.HealthStub(it.client.channel)
        for name in ("", *services):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        stubs: Any = reflection_pb2_grpc
        reflection = stubs.ServerReflectionStub(it.client.channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        (found,) = await all_of(reflection.ServerReflectionInfo(iter(asked)))
        listed = {service.name for service in found.list_services_response.service}
        assert listed == services | {"grpc.reflection.v1alpha.ServerReflection"}
        asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in services]
        answers = await all_of(reflection.ServerReflectionInfo(iter(asked)))
        assert all(each.HasField("file_descriptor_response") for each in answers)


async def test_connectors_run_in_threads_of_their_own_and_are_closed() -> None:
    import threading

    async with serving() as it:
        jobs = it.connector("Jobs")
        await it.client.create(job())
        assert jobs.threads
        assert threading.get_ident() not in jobs.threads
        assert not jobs.is_closed.is_set()
    assert jobs.is_closed.is_set()


async def test_limits_of_a_connector_may_be_configured() -> None:
    config = msgspec.structs.replace(CONFIG, limits={"Jobs": LimitConfig(max_concurrent_calls=3)})
    async with serving(config=config) as it:
        slots = {host.connector.name: host.slots.value for host in it.service._hosts}
        assert slots == {"Jobs": 3, "Greeter": 100}


async def test_without_flyteidl_only_flyte_2_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "flyteidl.admin", None)
    monkeypatch.setitem(sys.modules, "flyteidl", None)
    monkeypatch.delitem(sys.modules, "propfan.engine.connector_service.v1", raising=False)
    monkeypatch.delattr("propfan.engine.connector_service.v1", raising=False)
    async with serving() as it:
        assert not it.service.serves_v1
        await it.client.create(job())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.client.agents.ListAgents(agent_pb2.ListAgentsRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_offers_are_made_once_each() -> None:
    made: list[type] = []

    class Counted(Greeter):
        def __init__(self, setup: Any) -> None:
            made.append(type(self))
            super().__init__(setup)

    assert len(offers_of(Counted).found) == 1
    async with serving(Counted) as it:
        assert [line.name for line in it.service.connectors] == ["Greeter"]
    assert made == [Counted]
