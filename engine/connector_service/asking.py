"""Asks a running connector service what it serves, whichever Flyte it is of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc

from propfan.pluginmachinery.connector import ConnectorMetadata, TaskCategory
from propfan.pluginmachinery.errors import ConfigError, UnavailableError

_TIMEOUT_S: Final = 10.0


async def list_connectors(endpoint: str, ca: Path | None = None) -> Sequence[ConnectorMetadata]:
    """What the service answers.

    Args:
        endpoint: ``host:port``.
        ca: Authorities that it is trusted by; without them it is asked without TLS.

    Raises:
        UnavailableError: it does not answer, or is no connector service.
        ConfigError: the authorities can not be read.
    """
    async with _channel(endpoint, ca) as channel:
        try:
            return await _list(channel)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(
                f"connector service {endpoint}", f"{error.code().name}: {error.details()}"
            ) from error


def _channel(endpoint: str, ca: Path | None) -> grpc.aio.Channel:
    if ca is None:
        return grpc.aio.insecure_channel(endpoint)
    try:
        authorities = ca.read_bytes()
    except OSError as error:
        raise ConfigError("--ca", f"{ca} can not be read: {error.strerror or error}") from error
    return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(authorities))


async def _list(channel: grpc.aio.Channel) -> Sequence[ConnectorMetadata]:
    """Flyte 1's service says more; one of Flyte 2 alone does not have it."""
    with contextlib.suppress(ModuleNotFoundError):  # flyteidl is not installed
        try:
            return await _list_agents(channel)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
    stub = service_pb2_grpc.ConnectorMetadataServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    answer = await stub.ListConnectors(connector_pb2.ListConnectorsRequest(), timeout=_TIMEOUT_S)
    return [
        ConnectorMetadata(each.name, _categories(each.supported_task_categories), is_sync=False)
        for each in answer.connectors
    ]


async def _list_agents(channel: grpc.aio.Channel) -> Sequence[ConnectorMetadata]:
    from flyteidl.admin import agent_pb2
    from flyteidl.service import agent_pb2_grpc

    stub = agent_pb2_grpc.AgentMetadataServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    answer = await stub.ListAgents(agent_pb2.ListAgentsRequest(), timeout=_TIMEOUT_S)
    return [
        ConnectorMetadata(each.name, _categories(each.supported_task_categories), each.is_sync)
        for each in answer.agents
    ]


def _categories(messages: Iterable[Any]) -> tuple[TaskCategory, ...]:
    return tuple(TaskCategory(each.name, each.version) for each in messages)
