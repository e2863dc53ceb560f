"""Tasks run by their connectors in this very process, without a service: for trying them out, and for SDKs."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from flyteidl2.core import tasks_pb2
from flyteidl2.task import common_pb2

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.loading import chosen, connector_setup, require
from propfan.pluginmachinery.connector import (
    Connection,
    Connector,
    ConnectorRegistry,
    ConnectorSetup,
    RemotePhase,
    Resource,
    TaskRequest,
    local,
    values,
)
from propfan.pluginmachinery.connector import registry as registries
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConnectorError, PermanentError
from propfan.pluginmachinery.readers import DEFAULT_LIMIT_BYTES


class LocalConnectors(msgspec.Struct, frozen=True):
    """Connectors that were made on this event loop, what they were made with, and what is not there."""

    registry: ConnectorRegistry
    setup: ConnectorSetup
    refused: Sequence[ConnectorError] = ()
    not_offered: Sequence[registries.NotOffered] = ()


class LocalOutcome(msgspec.Struct, frozen=True):
    """How a task ended; outputs only where it succeeded and declares some."""

    resource: Resource
    outputs: common_pb2.Outputs | None = None


@asynccontextmanager
async def opened(config: ConnectorServiceConfig, environ: Mapping[str, str]) -> AsyncIterator[LocalConnectors]:
    """The connectors that the configuration names, to be used while the block runs.

    Raises:
        ConfigError: a setting can not be used.
        ConnectorError: as ``loading.require``.
    """
    found = registries.offers(config.modules, entry_points=config.entry_points)
    made: list[Connector | ConnectorError] = []
    async with connector_setup(config, environ) as setup:
        try:
            for offer in found.found:
                try:
                    made.append(offer.make(setup))
                except ConnectorError as error:
                    made.append(error)
            choice = chosen(found, made)
            require(choice, config)
            yield LocalConnectors(choice.registry, setup, choice.refused, found.not_offered)
        finally:
            for connector in made:
                if isinstance(connector, Connector):
                    await connector.close()


async def run(
    connectors: LocalConnectors,
    template: tasks_pb2.TaskTemplate,
    inputs: common_pb2.Inputs,
    *,
    output_prefix: str = "",
    timeout_s: float | None = None,
    poll_interval_s: float = 1.0,
    on_look: Callable[[Resource], None] | None = None,
) -> LocalOutcome:
    """Runs one task to its end; its job is deleted when the run is cancelled or takes too long.

    Args:
        output_prefix: URI for outputs that the job writes itself; below the working directory when empty.

    Raises:
        ConnectorNotFoundError: no connector runs the task's type.
        TimeoutError: it took longer than ``timeout_s``.
        PropfanError: what the connector raises; a task that failed is no error.
    """
    connector = connectors.registry.get_connector(template.type, template.task_type_version)
    prefix = output_prefix or (Path.cwd() / "propfan-data" / "connectors" / uuid.uuid4().hex).as_uri()
    task = TaskRequest(template, inputs, prefix, connection=await connection_of(template, connectors.setup))
    resource = await local.run(connector, task, poll_interval_s=poll_interval_s, timeout_s=timeout_s, on_look=on_look)
    if resource.phase != RemotePhase.SUCCEEDED or not template.interface.outputs.variables:
        return LocalOutcome(resource)
    if resource.outputs is not None:
        return LocalOutcome(resource, values.to_outputs(connector.name, resource.outputs, template.interface))
    content = await connectors.setup.store.get(f"{prefix}/outputs.pb", limit_bytes=DEFAULT_LIMIT_BYTES)
    return LocalOutcome(resource, common_pb2.Outputs.FromString(content))


async def connection_of(template: tasks_pb2.TaskTemplate, setup: ConnectorSetup) -> Connection:
    """What ``custom`` says of the connection, with the secrets' values.

    ``custom.secrets`` maps logical names to the names of secrets: an environment variable of that name, else
    whatever the setup's secrets find.

    Raises:
        BadTaskSpecificationError: ``secrets`` or ``configs`` is no mapping of texts.
        PermanentError: a secret is not there; named.
    """
    mappings: dict[str, Mapping[str, str]] = {}
    for name in ("secrets", "configs"):
        value = template.custom.fields.get(name)
        members = value.struct_value.fields if value is not None else {}
        # SDKs write null for what was not set.
        texts = {key: text for key, text in members.items() if text.WhichOneof("kind") != "null_value"}
        if any(text.WhichOneof("kind") != "string_value" for text in texts.values()):
            raise BadTaskSpecificationError(f"task '{template.id.name}': custom.{name} must map names to texts")
        mappings[name] = {key: text.string_value for key, text in texts.items()}
    secrets = {}
    for logical, key in mappings["secrets"].items():
        if key in setup.environment:
            secrets[logical] = setup.environment[key]
            continue
        try:
            secrets[logical] = await setup.secrets.get(key)
        except PermanentError as error:
            problem = f"Secret {key} not found in environment (it is '{logical}' in custom.secrets): {error.message}"
            raise PermanentError(error.code, problem) from error
    return Connection(secrets, mappings["configs"])
