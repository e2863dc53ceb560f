"""flytekit's agents, the older family: found by asking, called by their own services, also in one synchronous call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import grpc
import pytest
from flyteidl2.core import literals_pb2
from grpc import aio

from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from tests.unit.plugins.connector.rig import INTEGER, engine_at, quick_looks, run, template

agent_pb2 = pytest.importorskip("flyteidl.admin.agent_pb2", reason="needs the 'connectors' extra")

from flyteidl.service import agent_pb2_grpc  # noqa: E402

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

SUCCEEDED, RUNNING, FAILED = 3, 2, 5
CUSTOM = {"secrets": {"token": "NO_SUCH_SECRET"}}


class Agents(
    agent_pb2_grpc.AsyncAgentServiceServicer,
    agent_pb2_grpc.SyncAgentServiceServicer,
    agent_pb2_grpc.AgentMetadataServiceServicer,
):
    """Type ``job`` is polled, type ``call`` is done at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.phase = SUCCEEDED
        self.outputs: Any = literal_map(o0=7).SerializeToString()

    def _resource(self) -> Any:
        outputs = agent_pb2.Resource.DESCRIPTOR.fields_by_name["outputs"].message_type._concrete_class()
        outputs.ParseFromString(self.outputs)
        return agent_pb2.Resource(phase=self.phase, message="its end", outputs=outputs)

    async def CreateTask(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.calls.append(f"create {request.template.type} {sorted(request.inputs.literals)}")
        return agent_pb2.CreateTaskResponse(resource_meta=b"\x80pickled")

    async def GetTask(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.calls.append(f"get {request.task_category.name} {request.resource_meta!r}")
        return agent_pb2.GetTaskResponse(resource=self._resource())

    async def ExecuteTaskSync(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's name
        header = (await anext(request_iterator)).header
        inputs = (await anext(request_iterator)).inputs
        self.calls.append(f"do {header.template.type} {sorted(inputs.literals)}")
        head = agent_pb2.ExecuteTaskSyncResponseHeader(resource=self._resource())
        yield agent_pb2.ExecuteTaskSyncResponse(header=head)

    async def ListAgents(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        made = [
            agent_pb2.Agent(name=name, is_sync=is_sync, supported_task_categories=[agent_pb2.TaskCategory(name=name)])
            for name, is_sync in (("job", False), ("call", True))
        ]
        return agent_pb2.ListAgentsResponse(agents=made)


@asynccontextmanager
async def serving(agents: Agents) -> AsyncIterator[str]:
    server, add = aio.server(), cast("Any", agent_pb2_grpc)
    add.add_AsyncAgentServiceServicer_to_server(agents, server)
    add.add_SyncAgentServiceServicer_to_server(agents, server)
    add.add_AgentMetadataServiceServicer_to_server(agents, server)
    port = server.add_insecure_port("localhost:0")
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(None)


def a_task(task_type: str) -> Any:
    return template(task_type, inputs={"n": INTEGER}, outputs={"o0": INTEGER}, custom=CUSTOM)


@pytest.mark.parametrize("task_type", ["job", "call"])
async def test_agent_is_found_and_runs_a_task_to_its_outputs(task_type: str) -> None:
    agents, store = Agents(), InMemoryStore()
    async with serving(agents) as endpoint, engine_at(endpoint, store=store) as engine:
        with anyio.fail_after(20):
            status = await run(engine, a_task(task_type), inputs=literal_map(n=1).SerializeToString())
    assert status.outcome is Outcome.COMPLETED, status
    written = literals_pb2.LiteralMap.FromString(store.objects[f"{status.output_prefix}/outputs.pb"])
    assert written.literals["o0"].scalar.primitive.integer == 7
    asynchronous = ["create job ['n']", "get job b'\\x80pickled'"]
    assert agents.calls == (asynchronous if task_type == "job" else ["do call ['n']"])


async def test_synchronous_agent_must_come_to_an_end() -> None:
    agents = Agents()
    agents.phase = RUNNING
    async with serving(agents) as endpoint, engine_at(endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, a_task("call"), inputs=literal_map(n=1).SerializeToString())
    assert status.error is not None
    assert "is synchronous and answered with phase RUNNING" in status.error.message


async def test_synchronous_failure_is_the_tasks() -> None:
    agents = Agents()
    agents.phase = FAILED
    async with serving(agents) as endpoint, engine_at(endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, a_task("call"), inputs=literal_map(n=1).SerializeToString())
    assert status.error is not None
    assert status.error.message == "failed to run the job: its end"


async def test_endpoint_that_is_no_connector_is_told_when_its_tasks_are_created() -> None:
    server = aio.server()
    port = server.add_insecure_port("localhost:0")
    await server.start()
    async with engine_at(f"localhost:{port}", supportedTaskTypes=["job"]) as engine:
        with anyio.fail_after(20):
            status = await run(engine)
    await server.stop(None)
    assert status.error is not None
    assert grpc.StatusCode.UNIMPLEMENTED.name in status.error.message
    assert "is this the endpoint of a connector" in status.error.message
