"""Messages of both families.

Flyte 2's ``flyteidl2.connector`` and flytekit's ``flyteidl.admin`` have the same field numbers and types, so that
one set of messages serves both; they differ in the names of services, and in what is left out. Tests compare the
descriptors. ``LiteralMap`` and ``Inputs`` (or ``Outputs``) are the same bytes likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from flyteidl2.connector import connector_pb2
from flyteidl2.core import identifier_pb2, literals_pb2, security_pb2, tasks_pb2
from flyteidl2.task import common_pb2
from google.protobuf import struct_pb2, unknown_fields
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.pluginmachinery.connector.requests import IDEMPOTENCY_ANNOTATION
from propfan.pluginmachinery.contexts import TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError
from propfan.plugins.connector.config import Family

_SERVICES: Final = {
    Family.FLYTEIDL2: {
        "CreateTask": "/flyteidl2.connector.AsyncConnectorService/CreateTask",
        "GetTask": "/flyteidl2.connector.AsyncConnectorService/GetTask",
        "DeleteTask": "/flyteidl2.connector.AsyncConnectorService/DeleteTask",
        "ListConnectors": "/flyteidl2.connector.ConnectorMetadataService/ListConnectors",
        "ExecuteTaskSync": "/flyteidl2.connector.SyncConnectorService/ExecuteTaskSync",
    },
    Family.FLYTEIDL: {
        "CreateTask": "/flyteidl.service.AsyncAgentService/CreateTask",
        "GetTask": "/flyteidl.service.AsyncAgentService/GetTask",
        "DeleteTask": "/flyteidl.service.AsyncAgentService/DeleteTask",
        "ListConnectors": "/flyteidl.service.AgentMetadataService/ListAgents",
        "ExecuteTaskSync": "/flyteidl.service.SyncAgentService/ExecuteTaskSync",
    },
}

_IS_SYNC_FIELD: Final = 3
"""Of ``flyteidl.admin.Agent``; ``flyteidl2`` has none, which is read all the same."""

_LENGTH_DELIMITED: Final = 2


def method_path(family: Family, method: str) -> str:
    return _SERVICES[family][method]


class Category(msgspec.Struct, frozen=True):
    """A task type, in one version, that a connector offers."""

    name: str
    version: int
    is_sync: bool = False


class ConnectionNames(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a task says of its connection: the *names* of its secrets. Values are looked up for each call."""

    task_type: str = ""
    secrets: dict[str, str] = {}
    configs: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.secrets or self.configs)


def connection_names(template: tasks_pb2.TaskTemplate) -> ConnectionNames:
    """``secrets``, ``configs`` and ``taskType`` of the template's ``custom``, which holds other things too.

    Raises:
        BadTaskSpecificationError: one of them is there and is not what it must be; names it.
    """
    if not template.HasField("custom"):
        return ConnectionNames()
    fields = template.custom.fields
    kind = fields.get("taskType", fields.get("task_type"))
    return ConnectionNames(
        kind.string_value if kind is not None else "",
        _texts(fields, "secrets"),
        _texts(fields, "configs"),
    )


def _texts(fields: Mapping[str, struct_pb2.Value], name: str) -> dict[str, str]:
    value = fields.get(name)
    if value is None or value.WhichOneof("kind") in (None, "null_value"):
        return {}
    if value.WhichOneof("kind") != "struct_value":
        raise BadTaskSpecificationError(f"custom.{name}: must be an object of texts")
    found = {}
    for key, member in value.struct_value.fields.items():
        match member.WhichOneof("kind"):
            case "string_value":
                found[key] = member.string_value
            case "null_value":  # SDKs write what was not set
                continue
            case _:
                raise BadTaskSpecificationError(f"custom.{name}.{key}: must be a text")
    return found


def connection_message(names: ConnectionNames, values: Mapping[str, str]) -> security_pb2.Connection:
    return security_pb2.Connection(task_type=names.task_type, secrets=values, configs=names.configs)


def inputs_message(template: tasks_pb2.TaskTemplate, literals: literals_pb2.LiteralMap | None) -> common_pb2.Inputs:
    """In the order of the interface."""
    inputs = common_pb2.Inputs()
    if literals is not None:
        given = literals.literals
        declared = [variable.key for variable in template.interface.inputs.variables if variable.key in given]
        for name in (*declared, *(name for name in given if name not in declared)):
            inputs.literals.add(name=name, value=given[name])
    return inputs


def metadata_message(ctx: TaskContext, idempotency_key: str) -> connector_pb2.TaskExecutionMetadata:
    task = ctx.metadata
    message = connector_pb2.TaskExecutionMetadata(
        task_execution_id=_identifier(task),
        namespace=task.namespace,
        labels=task.labels,
        annotations={**task.annotations, IDEMPOTENCY_ANNOTATION: idempotency_key},
        k8s_service_account=task.k8s_service_account,
        environment_variables=task.environment_variables,
        max_attempts=task.max_attempts,
        interruptible=task.interruptible,
        interruptible_failure_threshold=task.interruptible_failure_threshold,
    )
    if task.security_context:
        run_as = security_pb2.SecurityContext.FromString(task.security_context).run_as
        if run_as.ByteSize():
            message.identity.CopyFrom(run_as)
    return message


def _identifier(task: TaskExecutionMetadata) -> identifier_pb2.TaskExecutionIdentifier:
    identity = task.task_execution_id.id
    message = identifier_pb2.TaskExecutionIdentifier(retry_attempt=identity.retry_attempt)
    if identity.task_id is not None:
        it = identity.task_id
        message.task_id.CopyFrom(
            identifier_pb2.Identifier(
                resource_type=it.resource_type,
                project=it.project,
                domain=it.domain,
                name=it.name,
                version=it.version,
                org=it.org,
            )
        )
    if identity.node_execution_id is not None:
        node = identity.node_execution_id
        message.node_execution_id.node_id = node.node_id
        if node.execution_id is not None:
            run = node.execution_id
            message.node_execution_id.execution_id.CopyFrom(
                identifier_pb2.WorkflowExecutionIdentifier(
                    project=run.project, domain=run.domain, name=run.name, org=run.org
                )
            )
    return message


def categories(answer: bytes) -> Iterator[Category]:
    """What ``ListConnectors`` or ``ListAgents`` answered.

    Raises:
        DecodeError: it is no such answer.
    """
    try:
        listed = connector_pb2.ListConnectorsResponse.FromString(answer)
    except ProtobufDecodeError as error:
        raise DecodeError("answer of ListConnectors", str(error)) from error
    for connector in listed.connectors:
        unknown = unknown_fields.UnknownFieldSet(connector)
        fields = [unknown[index] for index in range(len(unknown))]
        is_sync = any(field.field_number == _IS_SYNC_FIELD and field.data == 1 for field in fields)
        for category in connector.supported_task_categories:
            yield Category(category.name, category.version, is_sync)


def created_meta(answer: bytes) -> bytes:
    """Raises ``DecodeError`` when it is no ``CreateTaskResponse``."""
    try:
        return connector_pb2.CreateTaskResponse.FromString(answer).resource_meta
    except ProtobufDecodeError as error:
        raise DecodeError("answer of CreateTask", str(error)) from error


def resource(answer: bytes) -> connector_pb2.Resource:
    """Raises ``DecodeError`` when it is no ``GetTaskResponse``."""
    try:
        return connector_pb2.GetTaskResponse.FromString(answer).resource
    except ProtobufDecodeError as error:
        raise DecodeError("answer of GetTask", str(error)) from error


# -- The two messages of the synchronous stream, which flyteidl2 lacks: oneof {1 header, 2 inputs or outputs} --------


def sync_header(header: connector_pb2.CreateRequestHeader) -> bytes:
    """An ``ExecuteTaskSyncRequest`` with a header."""
    return _member(1, header.SerializeToString())


def sync_inputs(inputs: common_pb2.Inputs) -> bytes:
    """An ``ExecuteTaskSyncRequest`` with inputs."""
    return _member(2, inputs.SerializeToString())


def sync_resource(answer: bytes) -> bytes:
    """The header of an ``ExecuteTaskSyncResponse``; it has the form of a ``GetTaskResponse``.

    Raises:
        DecodeError: the answer is none, or has outputs in place of a header.
    """
    tag, at = _varint(answer, 0)
    size, at = _varint(answer, at)
    if tag != 1 << 3 | _LENGTH_DELIMITED or at + size != len(answer):
        raise DecodeError("answer of ExecuteTaskSync", "its first message must be a header with a resource")
    return answer[at:]


def _member(number: int, content: bytes) -> bytes:
    size, rest = b"", len(content)
    while rest > 0x7F:
        size += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([number << 3 | _LENGTH_DELIMITED]) + size + bytes([rest]) + content


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 64:
        byte = content[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte <= 0x7F:
            return value, at
    raise DecodeError("answer of ExecuteTaskSync", "it ends within a number")
