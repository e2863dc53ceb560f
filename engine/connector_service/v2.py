"""Flyte 2's connector services (``flyteidl2.connector``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar

import grpc
from flyteidl2.connector import connector_pb2, service_pb2, service_pb2_grpc

from propfan.engine.connector_service.dispatch import Dispatcher
from propfan.engine.connector_service.statuses import CallError
from propfan.pluginmachinery.connector import wire

A = TypeVar("A")
Q = TypeVar("Q")
Context = grpc.aio.ServicerContext[Any, Any]


async def answer(method: Callable[[Q, float | None], Awaitable[A]], request: Q, context: Context) -> A:
    """Calls the dispatcher; a ``CallError`` becomes the call's status."""
    try:
        return await method(request, context.time_remaining())
    except CallError as error:
        await refuse(context, error)


async def refuse(context: Context, error: CallError) -> NoReturn:
    await context.abort(error.code, error.message, error.trailers())
    raise AssertionError("abort raises")


class AsyncConnectorService(service_pb2_grpc.AsyncConnectorServiceServicer):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher

    async def CreateTask(
        self, request: connector_pb2.CreateTaskRequest, context: Context
    ) -> connector_pb2.CreateTaskResponse:
        return await answer(self._dispatcher.create, request, context)

    async def GetTask(self, request: connector_pb2.GetTaskRequest, context: Context) -> connector_pb2.GetTaskResponse:
        return await answer(self._dispatcher.get, request, context)

    async def DeleteTask(
        self, request: connector_pb2.DeleteTaskRequest, context: Context
    ) -> connector_pb2.DeleteTaskResponse:
        return await answer(self._dispatcher.delete, request, context)

    async def GetTaskMetrics(
        self, request: connector_pb2.GetTaskMetricsRequest, context: Context
    ) -> connector_pb2.GetTaskMetricsResponse:
        return await answer(self._dispatcher.get_metrics, request, context)

    async def GetTaskLogs(
        self, request: connector_pb2.GetTaskLogsRequest, context: Context
    ) -> AsyncIterator[connector_pb2.GetTaskLogsResponse]:
        try:
            async for message in self._dispatcher.get_logs(request, context.time_remaining()):
                yield message
        except CallError as error:
            await refuse(context, error)


class ConnectorMetadataService(service_pb2_grpc.ConnectorMetadataServiceServicer):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher

    async def GetConnector(
        self, request: connector_pb2.GetConnectorRequest, context: Context
    ) -> connector_pb2.GetConnectorResponse:
        try:
            found = self._dispatcher.get_connector(request.name)
        except CallError as error:
            await refuse(context, error)
        return connector_pb2.GetConnectorResponse(connector=wire.connector_message(found))

    async def ListConnectors(
        self, request: connector_pb2.ListConnectorsRequest, context: Context
    ) -> connector_pb2.ListConnectorsResponse:
        found = [wire.connector_message(each) for each in self._dispatcher.list_connectors()]
        return connector_pb2.ListConnectorsResponse(connectors=found)


def add_services(server: grpc.aio.Server, dispatcher: Dispatcher) -> tuple[str, ...]:
    """Adds both, and says what they are called."""
    add: Any = service_pb2_grpc
    add.add_AsyncConnectorServiceServicer_to_server(AsyncConnectorService(dispatcher), server)
    add.add_ConnectorMetadataServiceServicer_to_server(ConnectorMetadataService(dispatcher), server)
    # The descriptors, which also have to be loaded for reflection.
    return tuple(service.full_name for service in service_pb2.DESCRIPTOR.services_by_name.values())
