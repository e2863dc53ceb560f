"""Hands events to a Flyte 2 control plane: ``flyteidl2.workflow.EventsProxyService``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from flyteidl2.common import identifier_pb2
from flyteidl2.core import execution_pb2
from flyteidl2.task import common_pb2
from flyteidl2.workflow import events_proxy_service_pb2, run_definition_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from propfan.engine.clock import Clock
from propfan.engine.flyte.connect import CallError, ConnectClient
from propfan.engine.task_events import ActionPhase, NotAllRecordedError, TaskEvent
from propfan.pluginmachinery.phases import ContainerContext, ErrorKind, KubernetesEvent, LogContext, ReasonInfo, TaskLog

logger = structlog.get_logger(__name__)

METHOD: Final = "flyteidl2.workflow.EventsProxyService/Record"

REPORT_FILE: Final = "report.html"

NEVER_AS_IT_IS: Final = frozenset({"invalid_argument", "out_of_range", "failed_precondition"})
"""Codes of a refusal that no repetition changes: something is wrong with an event, or with its time."""

ROW_IS_COMING: Final = timedelta(seconds=60)
"""An event of an action that the service does not know is sent again for so long: the TaskAction may be seen
before the service has stored the action."""

_KINDS: Final = {
    ErrorKind.USER: run_definition_pb2.ErrorInfo.KIND_USER,
    ErrorKind.SYSTEM: run_definition_pb2.ErrorInfo.KIND_SYSTEM,
}
_TYPES: Final = {
    "Normal": run_definition_pb2.ClusterEvent.TYPE_NORMAL,
    "Warning": run_definition_pb2.ClusterEvent.TYPE_WARNING,
}


class FlyteEventSink:
    """An ``EventSink``. What the service refuses for good is logged by name, and holds up no other event.

    A failed attempt that is followed by another is no event there: an action that FAILED is over. Its error
    goes with the event of the next attempt.

    A service that refuses everything from the first event on is taken for the wrong one, or as wrongly
    configured: nothing is given up, and the refusal is shown as the problem that it is.
    """

    def __init__(self, client: ConnectClient, clock: Clock, *, cluster_name: str, organization: str = "") -> None:
        self._client: Final = client
        self._clock: Final = clock
        self._cluster_name: Final = cluster_name
        self._organization: Final = organization
        self._has_taken_any = False
        self.refused = 0
        """Events that were given up."""

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """Returns when the service has them.

        Raises:
            NotAllRecordedError: some are to be sent again; all others are done.
            CallError: none was taken.
        """
        left: list[TaskEvent] = []
        await self._send([_Told(event, wire) for event, wire in self._on_the_wire(events)], left)
        if left:
            raise NotAllRecordedError("the service does not know these actions yet", left)

    async def _send(self, told: Sequence[_Told], left: list[TaskEvent]) -> None:
        """Sends all of them, in halves where the service refuses them for good."""
        if not told:
            return
        request = events_proxy_service_pb2.RecordRequest(events=[one.wire for one in told])
        try:
            await self._client.call(METHOD, request, events_proxy_service_pb2.RecordResponse)
        except CallError as error:
            if error.code not in NEVER_AS_IT_IS and error.code != "not_found":
                raise
            if len(told) > 1:
                half = len(told) // 2
                await self._send(told[:half], left)
                await self._send(told[half:], left)
                return
            self._refuse(told[0], error, left)
            return
        self._has_taken_any = True

    def _refuse(self, told: _Told, error: CallError, left: list[TaskEvent]) -> None:
        event = told.event
        age = self._clock.now() - event.occurred_at
        if error.code == "not_found" and age < ROW_IS_COMING:
            left.append(event)
            return
        if not self._has_taken_any:
            raise error
        self.refused += 1
        logger.error(
            "event was refused and is given up",
            task=f"{event.namespace}/{event.name}",
            run=event.run,
            action=event.action,
            attempt=event.attempt,
            phase=event.phase.name,
            error=error.problem,
        )

    def _on_the_wire(self, events: Sequence[TaskEvent]) -> Sequence[tuple[TaskEvent, run_definition_pb2.ActionEvent]]:
        reported_at = self._clock.now()
        failures: dict[str, TaskEvent] = {}
        found = []
        for event in events:
            if event.phase is ActionPhase.FAILED and not event.is_final:
                failures[event.uid] = event
                continue
            wire = to_action_event(event, self._cluster_name, self._organization, reported_at)
            failed = failures.pop(event.uid, None)
            if failed is not None and failed.error is not None:
                text = f"attempt {failed.attempt} failed: [{failed.error.code}] {failed.error.message}"
                reason = run_definition_pb2.ClusterEvent(occurred_at=_timestamp(failed.occurred_at), message=text)
                wire.cluster_events.insert(0, reason)
            found.append((event, wire))
        return found


class _Told:
    __slots__ = ("event", "wire")

    def __init__(self, event: TaskEvent, wire: run_definition_pb2.ActionEvent) -> None:
        self.event = event
        self.wire = wire


def to_action_event(
    event: TaskEvent, cluster_name: str, organization: str, reported_at: datetime
) -> run_definition_pb2.ActionEvent:
    """The event as Flyte 2's executor would tell it, and with the error's code."""
    wire = run_definition_pb2.ActionEvent(
        id=identifier_pb2.ActionIdentifier(
            run=identifier_pb2.RunIdentifier(
                org=organization, project=event.project, domain=event.domain, name=event.run
            ),
            name=event.action,
        ),
        attempt=max(event.attempt, 1),
        phase=f"ACTION_PHASE_{event.phase.name}",
        version=event.version,
        updated_time=_timestamp(event.occurred_at),
        reported_time=_timestamp(reported_at),
        cluster=cluster_name,
        log_info=[_log(log) for log in event.logs],
        cluster_events=_reasons(event),
        cache_status=event.cache_status or None,
    )
    if event.error is not None:
        wire.error_info.message = event.error.message
        wire.error_info.code = event.error.code
        wire.error_info.kind = _KINDS.get(event.error.kind, run_definition_pb2.ErrorInfo.KIND_UNSPECIFIED)
    if event.log_context is not None:
        wire.log_context.CopyFrom(_log_context(event.log_context))
    if event.output_uri:
        folder = event.output_uri.rpartition("/")[0]
        wire.outputs.CopyFrom(
            common_pb2.OutputReferences(output_uri=event.output_uri, report_uri=f"{folder}/{REPORT_FILE}")
        )
    return wire


def _reasons(event: TaskEvent) -> Sequence[run_definition_pb2.ClusterEvent]:
    found = []
    if event.reason:
        found.append(run_definition_pb2.ClusterEvent(occurred_at=_timestamp(event.occurred_at), message=event.reason))
    return [*found, *(_reason(reason) for reason in event.reasons)]


def _reason(reason: ReasonInfo) -> run_definition_pb2.ClusterEvent:
    made = run_definition_pb2.ClusterEvent(message=reason.reason)
    if reason.occurred_at is not None:
        made.occurred_at.CopyFrom(_timestamp(reason.occurred_at))
    source: KubernetesEvent | None = reason.kubernetes_event
    if source is not None:
        made.type = _TYPES.get(source.type, run_definition_pb2.ClusterEvent.TYPE_UNSPECIFIED)
        made.reason, made.source_component, made.count = source.reason, source.source_component, source.count
    return made


def _log(log: TaskLog) -> execution_pb2.TaskLog:
    made = execution_pb2.TaskLog(
        uri=log.uri,
        name=log.name,
        message_format=log.message_format.name,
        ShowWhilePending=log.show_while_pending,
        HideOnceFinished=log.hide_once_finished,
        link_type=log.link_type.name,
        ready=log.ready,
        icon_uri=log.icon_uri,
    )
    if log.ttl_s is not None:
        made.ttl.FromTimedelta(timedelta(seconds=log.ttl_s))
    return made


def _log_context(context: LogContext) -> execution_pb2.LogContext:
    made = execution_pb2.LogContext(
        primary_pod_name=context.primary_pod_name,
        pods=[
            execution_pb2.PodLogContext(
                namespace=pod.namespace,
                pod_name=pod.pod_name,
                primary_container_name=pod.primary_container_name,
                containers=[_container(container) for container in pod.containers],
                init_containers=[_container(container) for container in pod.init_containers],
            )
            for pod in context.pods
        ],
    )
    if context.connector_endpoint:
        made.connector.endpoint = context.connector_endpoint
    return made


def _container(container: ContainerContext) -> execution_pb2.ContainerContext:
    made = execution_pb2.ContainerContext(container_name=container.container_name)
    if container.container_start_time is not None:
        made.process.container_start_time.CopyFrom(_timestamp(container.container_start_time))
    if container.container_end_time is not None:
        made.process.container_end_time.CopyFrom(_timestamp(container.container_end_time))
    return made


def _timestamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made
