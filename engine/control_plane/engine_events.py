"""The engine's events as the messages of Flyte 2."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from flyteidl2.common import phase_pb2
from flyteidl2.core import catalog_pb2, execution_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.control_plane.ledger import ToldEvent
from propfan.engine.control_plane.records import ActionKey
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.pluginmachinery.phases import ErrorKind, LogContext, TaskLog

_KINDS: Final = {
    ErrorKind.USER: run_definition_pb2.ErrorInfo.KIND_USER,
    ErrorKind.SYSTEM: run_definition_pb2.ErrorInfo.KIND_SYSTEM,
}


def told(event: TaskEvent, cluster: str) -> ToldEvent:
    """The event for a ledger."""
    made = run_definition_pb2.ActionEvent(
        attempt=event.attempt, phase=phase_pb2.ActionPhase.Name(event.phase), version=event.version, cluster=cluster
    )
    made.id.name, made.id.run.name = event.action, event.run
    made.id.run.project, made.id.run.domain = event.project, event.domain
    made.updated_time.FromDatetime(event.occurred_at)
    made.cache_status = getattr(catalog_pb2, event.cache_status, catalog_pb2.CACHE_DISABLED)
    if event.error is not None:
        error = event.error
        made.error_info.code, made.error_info.message = error.code, error.message
        made.error_info.kind = _KINDS.get(error.kind, run_definition_pb2.ErrorInfo.KIND_UNSPECIFIED)
    if event.phase is ActionPhase.SUCCEEDED and event.output_uri:
        made.outputs.output_uri = event.output_uri
        made.outputs.report_uri = event.output_uri.rpartition("/")[0] + "/report.html"
    made.log_info.extend(map(task_log, event.logs))
    if event.log_context is not None:
        made.log_context.CopyFrom(log_context(event.log_context))
    for told_reason in event.reasons:
        cluster_event = made.cluster_events.add(message=told_reason.reason)
        if told_reason.occurred_at is not None:
            cluster_event.occurred_at.FromDatetime(told_reason.occurred_at)
    if event.reason:
        made.cluster_events.add(message=event.reason).occurred_at.FromDatetime(event.occurred_at)
    return ToldEvent(ActionKey(event.run, event.action), made, event.is_final)


def task_log(log: TaskLog) -> execution_pb2.TaskLog:
    return execution_pb2.TaskLog(
        uri=log.uri,
        name=log.name,
        message_format=execution_pb2.TaskLog.MessageFormat.Name(log.message_format),
        ShowWhilePending=log.show_while_pending,
        HideOnceFinished=log.hide_once_finished,
        link_type=execution_pb2.TaskLog.LinkType.Name(log.link_type),
        ready=log.ready,
        icon_uri=log.icon_uri,
    )


def log_context(context: LogContext) -> execution_pb2.LogContext:
    made = execution_pb2.LogContext(primary_pod_name=context.primary_pod_name)
    if context.connector_endpoint:
        made.connector.endpoint = context.connector_endpoint
    for pod in context.pods:
        of_pod = made.pods.add(
            namespace=pod.namespace, pod_name=pod.pod_name, primary_container_name=pod.primary_container_name
        )
        for target, containers in ((of_pod.containers, pod.containers), (of_pod.init_containers, pod.init_containers)):
            for container in containers:
                of_container = target.add(container_name=container.container_name)
                _put(of_container.process.container_start_time, container.container_start_time)
                _put(of_container.process.container_end_time, container.container_end_time)
    return made


def _put(target: object, when: datetime | None) -> None:
    if when is not None:
        target.FromDatetime(when)  # type: ignore[attr-defined]  # a protobuf Timestamp
