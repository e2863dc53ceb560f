"""Flyte 1's agent services (``flyteidl.service``); needs the package ``flyteidl``.

Their messages are those of Flyte 2 on the wire, with maps where Flyte 2 has lists of entries, so each is
read again as its successor. What is different is here: task types without a category, states, and the
service for tasks that are done in one call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

import grpc
from flyteidl.admin import agent_pb2
from flyteidl.service import agent_pb2 as service_pb2
from flyteidl.service import agent_pb2_grpc
from flyteidl2.connector import connector_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message

from propfan.engine.connector_service.dispatch import Dispatcher
from propfan.engine.connector_service.statuses import CallError
from propfan.engine.connector_service.v2 import Context, answer, refuse
from propfan.pluginmachinery.connector import ConnectorMetadata, RemotePhase

M = TypeVar("M", bound=Message)

_STATES: Final = {
    RemotePhase.RUNNING: agent_pb2.RUNNING,
    RemotePhase.SUCCEEDED: agent_pb2.SUCCEEDED,
    RemotePhase.ABORTED: agent_pb2.PERMANENT_FAILURE,
    RemotePhase.FAILED: agent_pb2.PERMANENT_FAILURE,
    RemotePhase.RETRYABLE_FAILED: agent_pb2.RETRYABLE_FAILURE,
}
"""``Resource.state``, which callers read that know no phases; everything else is ``PENDING``."""


def _as(kind: type[M], message: Message) -> M:
    """The same bytes as another message."""
    return kind.FromString(message.SerializeToString())


def _with_category(
    message: connector_pb2.GetTaskRequest
    | connector_pb2.DeleteTaskRequest
    | connector_pb2.GetTaskMetricsRequest
    | connector_pb2.GetTaskLogsRequest,
    task_type: str,
) -> None:
    """Callers that know no categories send the task type alone, and mean version 0."""
    if not message.task_category.name:
        message.task_category.CopyFrom(connector_pb2.TaskCategory(name=task_type))


def _resource(message: connector_pb2.Resource) -> agent_pb2.Resource:
    resource = _as(agent_pb2.Resource, message)
    resource.state = _STATES.get(RemotePhase(message.phase), agent_pb2.PENDING)
    return resource


def _agent(metadata: ConnectorMetadata) -> agent_pb2.Agent:
    return agent_pb2.Agent(
        name=metadata.name,
        supported_task_types=list(dict.fromkeys(each.name for each in metadata.categories)),
        is_sync=metadata.is_sync,
        supported_task_categories=[
            agent_pb2.TaskCategory(name=each.name, version=each.version) for each in metadata.categories
        ],
    )


class AsyncAgentService(agent_pb2_grpc.AsyncAgentServiceServicer):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher

    async def CreateTask(self, request: agent_pb2.CreateTaskRequest, context: Context) -> agent_pb2.CreateTaskResponse:
        created = await answer(self._dispatcher.create, _as(connector_pb2.CreateTaskRequest, request), context)
        return agent_pb2.CreateTaskResponse(resource_meta=created.resource_meta)

    async def GetTask(self, request: agent_pb2.GetTaskRequest, context: Context) -> agent_pb2.GetTaskResponse:
        asked = _as(connector_pb2.GetTaskRequest, request)
        _with_category(asked, request.task_type)
        found = await answer(self._dispatcher.get, asked, context)
        return agent_pb2.GetTaskResponse(resource=_resource(found.resource))

    async def DeleteTask(self, request: agent_pb2.DeleteTaskRequest, context: Context) -> agent_pb2.DeleteTaskResponse:
        asked = _as(connector_pb2.DeleteTaskRequest, request)
        _with_category(asked, request.task_type)
        await answer(self._dispatcher.delete, asked, context)
        return agent_pb2.DeleteTaskResponse()

    async def GetTaskMetrics(
        self, request: agent_pb2.GetTaskMetricsRequest, context: Context
    ) -> agent_pb2.GetTaskMetricsResponse:
        asked = _as(connector_pb2.GetTaskMetricsRequest, request)
        _with_category(asked, request.task_type)
        return _as(agent_pb2.GetTaskMetricsResponse, await answer(self._dispatcher.get_metrics, asked, context))

    async def GetTaskLogs(
        self, request: agent_pb2.GetTaskLogsRequest, context: Context
    ) -> AsyncIterator[agent_pb2.GetTaskLogsResponse]:
        asked = _as(connector_pb2.GetTaskLogsRequest, request)
        _with_category(asked, request.task_type)
        try:
            async for message in self._dispatcher.get_logs(asked, context.time_remaining()):
                yield _as(agent_pb2.GetTaskLogsResponse, message)
        except CallError as error:
            await refuse(context, error)


class SyncAgentService(agent_pb2_grpc.SyncAgentServiceServicer):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher

    async def ExecuteTaskSync(
        self, request_iterator: AsyncIterator[agent_pb2.ExecuteTaskSyncRequest], context: Context
    ) -> AsyncIterator[agent_pb2.ExecuteTaskSyncResponse]:
        """First a header, then the inputs; answered by one header, whose resource has the outputs."""
        request = connector_pb2.CreateTaskRequest()
        try:
            await self._receive(request_iterator, request)
        except (ValueError, ProtobufDecodeError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        done = await answer(self._dispatcher.do, request, context)
        head = agent_pb2.ExecuteTaskSyncResponseHeader(resource=_resource(done))
        yield agent_pb2.ExecuteTaskSyncResponse(header=head)

    async def _receive(
        self, messages: AsyncIterator[agent_pb2.ExecuteTaskSyncRequest], request: connector_pb2.CreateTaskRequest
    ) -> None:
        """Fills the request; raises ``ValueError`` when the messages come in another order."""
        expected = "header"
        async for message in messages:
            if message.WhichOneof("part") != expected:
                raise ValueError(f"the stream must bring a header, then inputs: '{expected}' was expected")
            if expected == "inputs":
                request.inputs.MergeFromString(message.inputs.SerializeToString())
                return
            header = message.header
            request.template.MergeFromString(header.template.SerializeToString())
            request.output_prefix = header.output_prefix
            if header.HasField("task_execution_metadata"):
                request.task_execution_metadata.MergeFromString(header.task_execution_metadata.SerializeToString())
            expected = "inputs"
        if expected == "header":
            raise ValueError("the stream ended before its header")


class AgentMetadataService(agent_pb2_grpc.AgentMetadataServiceServicer):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher

    async def GetAgent(self, request: agent_pb2.GetAgentRequest, context: Context) -> agent_pb2.GetAgentResponse:
        try:
            found = self._dispatcher.get_connector(request.name)
        except CallError as error:
            await refuse(context, error)
        return agent_pb2.GetAgentResponse(agent=_agent(found))

    async def ListAgents(self, request: agent_pb2.ListAgentsRequest, context: Context) -> agent_pb2.ListAgentsResponse:
        return agent_pb2.ListAgentsResponse(agents=[_agent(each) for each in self._dispatcher.list_connectors()])


def add_services(server: grpc.aio.Server, dispatcher: Dispatcher) -> tuple[str, ...]:
    """Adds all of them, and says what they are called."""
    add: Any = agent_pb2_grpc
    add.add_AsyncAgentServiceServicer_to_server(AsyncAgentService(dispatcher), server)
    add.add_SyncAgentServiceServicer_to_server(SyncAgentService(dispatcher), server)
    add.add_AgentMetadataServiceServicer_to_server(AgentMetadataService(dispatcher), server)
    return tuple(service.full_name for service in service_pb2.DESCRIPTOR.services_by_name.values())
