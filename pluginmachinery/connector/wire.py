"""Between what connectors see and Flyte 2's messages (``flyteidl2.connector``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, interface_pb2, metrics_pb2, security_pb2
from flyteidl2.logs.dataplane import payload_pb2
from google.protobuf import struct_pb2

from propfan.pluginmachinery.connector import values
from propfan.pluginmachinery.connector.contract import LogLine, LogOriginator, LogPage, Metric
from propfan.pluginmachinery.connector.registry import ConnectorMetadata
from propfan.pluginmachinery.connector.requests import Connection, JobContext, LogsQuery, MetricsQuery, TaskRequest
from propfan.pluginmachinery.connector.resources import RemotePhase, Resource
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

MAX_MESSAGE_CHARS: Final = 64 * 1024
"""Of ``Resource.message``, as of an error's message; a longer one loses its middle."""

_PHASES: Final = {phase.value for phase in RemotePhase}


def connection(message: security_pb2.Connection) -> Connection:
    return Connection(dict(message.secrets), dict(message.configs))


def task_request(message: connector_pb2.CreateTaskRequest) -> TaskRequest:
    return TaskRequest(
        template=message.template,
        literals=message.inputs,
        output_prefix=message.output_prefix,
        metadata=message.task_execution_metadata if message.HasField("task_execution_metadata") else None,
        connection=connection(message.connection),
    )


def job_context(message: connector_pb2.GetTaskRequest | connector_pb2.DeleteTaskRequest) -> JobContext:
    prefix = message.output_prefix if isinstance(message, connector_pb2.GetTaskRequest) else ""
    return JobContext(prefix, connection(message.connection))


def metrics_query(message: connector_pb2.GetTaskMetricsRequest) -> MetricsQuery:
    """Raises ``BadTaskSpecificationError`` for a time outside the years 1 to 9999."""
    return MetricsQuery(
        queries=tuple(message.queries),
        start_time=_moment(message.start_time, "start_time") if message.HasField("start_time") else None,
        end_time=_moment(message.end_time, "end_time") if message.HasField("end_time") else None,
        step_s=message.step.seconds + message.step.nanos / 1e9,
    )


def _moment(timestamp: Timestamp, field: str) -> datetime:
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise BadTaskSpecificationError(f"{field}: {error}") from None


def logs_query(message: connector_pb2.GetTaskLogsRequest) -> LogsQuery:
    return LogsQuery(message.lines, message.token)


def connector_message(metadata: ConnectorMetadata) -> connector_pb2.Connector:
    categories = [connector_pb2.TaskCategory(name=each.name, version=each.version) for each in metadata.categories]
    return connector_pb2.Connector(name=metadata.name, supported_task_categories=categories)


def resource_message(
    connector: str, resource: Resource, interface: interface_pb2.TypedInterface | None = None
) -> connector_pb2.Resource:
    """What a connector answered.

    Args:
        connector: Its name, for messages.
        interface: Of the task, where it is known: outputs of a success must fit it.

    Raises:
        PermanentError: the answer is no ``Resource``, or one of its fields can not be written; named.
    """
    check_resource(connector, resource)
    message = connector_pb2.Resource(
        phase=RemotePhase(resource.phase).name,
        message=_shortened(resource.message),
        log_links=[_log_link(connector, link) for link in resource.log_links],
    )
    if resource.custom_info:
        message.custom_info.CopyFrom(_struct(connector, "custom_info", resource.custom_info))
    if resource.outputs is not None:
        is_success = resource.phase == RemotePhase.SUCCEEDED
        message.outputs.CopyFrom(values.to_outputs(connector, resource.outputs, interface if is_success else None))
    return message


def check_resource(connector: str, resource: object) -> None:
    """Raises ``PermanentError`` when it is no ``Resource`` or a field of it has another type than declared."""
    if not isinstance(resource, Resource):
        raise _nonsense(connector, f"must answer with a Resource, is {type(resource).__name__}")
    phase: object = resource.phase
    if not isinstance(phase, int) or isinstance(phase, bool) or phase not in _PHASES:
        raise _nonsense(connector, f"Resource.phase must be a RemotePhase, is {phase!r}")
    message: object = resource.message
    if not isinstance(message, str):
        raise _nonsense(connector, f"Resource.message must be a text, is {type(message).__name__}")
    links: object = resource.log_links
    if not isinstance(links, Sequence) or not all(isinstance(link, TaskLog) for link in links):
        raise _nonsense(connector, "Resource.log_links must be a list of TaskLog")
    for field, value in (("outputs", resource.outputs), ("custom_info", resource.custom_info)):
        if value is not None and not isinstance(value, Mapping):
            raise _nonsense(connector, f"Resource.{field} must be a mapping or None, is {type(value).__name__}")


def log_messages(connector: str, page: object) -> list[connector_pb2.GetTaskLogsResponse]:
    """A page as the stream has it: its lines, then the token of the next one.

    Raises:
        PermanentError: it is no ``LogPage``, or a line can not be written.
    """
    if not isinstance(page, LogPage):
        raise _nonsense(connector, f"get_logs must yield LogPage, is {type(page).__name__}")
    try:
        lines = [_line(line) for line in page.lines]
        body = connector_pb2.GetTaskLogsResponseBody(results=[line.message for line in lines], lines=lines)
        messages = [connector_pb2.GetTaskLogsResponse(body=body)]
        if page.next_token:
            header = connector_pb2.GetTaskLogsResponseHeader(token=page.next_token)
            messages.append(connector_pb2.GetTaskLogsResponse(header=header))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _nonsense(connector, f"a LogPage can not be written: {error}") from error
    return messages


def _line(line: LogLine) -> payload_pb2.LogLine:
    message = payload_pb2.LogLine(message=line.message, originator=LogOriginator(line.originator).name)
    if line.timestamp is not None:
        message.timestamp.FromDatetime(line.timestamp)
    return message


def metrics_message(connector: str, metrics: object) -> connector_pb2.GetTaskMetricsResponse:
    """Raises ``PermanentError`` when it is no sequence of ``Metric``, or one can not be written."""
    if not isinstance(metrics, Sequence) or not all(isinstance(metric, Metric) for metric in metrics):
        raise _nonsense(connector, "get_metrics must answer with a list of Metric")
    results = [
        metrics_pb2.ExecutionMetricResult(metric=metric.name, data=_struct(connector, metric.name, metric.data))
        for metric in metrics
    ]
    return connector_pb2.GetTaskMetricsResponse(results=results)


def _log_link(connector: str, link: TaskLog) -> execution_pb2.TaskLog:
    try:
        message = execution_pb2.TaskLog(
            uri=link.uri,
            name=link.name,
            message_format=MessageFormat(link.message_format).name,
            ShowWhilePending=link.show_while_pending,
            HideOnceFinished=link.hide_once_finished,
            link_type=LinkType(link.link_type).name,
            ready=link.ready,
            icon_uri=link.icon_uri,
        )
        if link.ttl_s is not None:
            message.ttl.FromNanoseconds(round(link.ttl_s * 1e9))
    except (TypeError, ValueError, OverflowError) as error:
        raise _nonsense(connector, f"a log link can not be written: {error}") from error
    return message


def _struct(connector: str, field: str, value: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    try:
        struct.update(dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise _nonsense(connector, f"{field} must be what JSON can say: {error}") from error
    return struct


def _shortened(text: str) -> str:
    """Of Unicode that can be written, and of bounded length: begin and end are what matters of an error."""
    clean = text.encode("utf-8", "replace").decode()
    if len(clean) <= MAX_MESSAGE_CHARS:
        return clean
    half = MAX_MESSAGE_CHARS // 2 - 8
    return f"{clean[:half]}\n...\n{clean[-half:]}"


def _nonsense(connector: str, problem: str) -> PermanentError:
    return PermanentError("", f"connector '{connector}': {problem}")
