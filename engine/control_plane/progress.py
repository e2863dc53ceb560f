"""What an event changes of an action: pure, on the messages that clients are sent."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from flyteidl2.common import phase_pb2
from flyteidl2.core import execution_pb2, literals_pb2
from flyteidl2.workflow import run_definition_pb2, state_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from propfan.engine.machine import ABORTED

TERMINAL: Final = frozenset(
    {
        phase_pb2.ACTION_PHASE_SUCCEEDED,
        phase_pb2.ACTION_PHASE_FAILED,
        phase_pb2.ACTION_PHASE_ABORTED,
        phase_pb2.ACTION_PHASE_TIMED_OUT,
        phase_pb2.ACTION_PHASE_RECOVERED,
    }
)

_CANCELLED: Final = "Aborted"

_ERROR_KINDS: Final = {
    run_definition_pb2.ErrorInfo.KIND_USER: execution_pb2.ExecutionError.USER,
    run_definition_pb2.ErrorInfo.KIND_SYSTEM: execution_pb2.ExecutionError.SYSTEM,
}


def begin(details: run_definition_pb2.ActionDetails, now: datetime) -> state_service_pb2.ActionUpdate:
    """A new action waits in the queue; what its parent is told of it."""
    details.status.phase = phase_pb2.ACTION_PHASE_QUEUED
    details.status.start_time.FromDatetime(now)
    details.status.attempts = 1
    return state_service_pb2.ActionUpdate(action_id=details.id, phase=phase_pb2.ACTION_PHASE_QUEUED)


def advance(
    details: run_definition_pb2.ActionDetails,
    update: state_service_pb2.ActionUpdate,
    event: run_definition_pb2.ActionEvent,
    *,
    is_final: bool,
) -> bool:
    """Whether the event was news; both messages then tell it. Repeats and old news change nothing.

    Args:
        is_final: A failure that is not ends an attempt only: the action waits for its next one.
    """
    status = details.status
    if status.phase in TERMINAL:
        return False
    attempt = _attempt(details, event.attempt)
    if attempt is None or not _learn(attempt, event):
        return False
    status.attempts = max(status.attempts, event.attempt)
    if event.cache_status:
        status.cache_status = event.cache_status
    is_over = event.phase in TERMINAL
    if is_over and not is_final:
        status.phase = update.phase = phase_pb2.ACTION_PHASE_QUEUED
        return True
    status.phase = update.phase = event.phase
    if is_over:
        end(details, attempt.end_time)
        _conclude(details, update, attempt)
    return True


def end(details: run_definition_pb2.ActionDetails, when: Timestamp) -> None:
    status = details.status
    status.end_time.CopyFrom(when)
    elapsed = when.ToMilliseconds() - status.start_time.ToMilliseconds()
    status.duration_ms = max(elapsed, 0)


def cancel(
    details: run_definition_pb2.ActionDetails, update: state_service_pb2.ActionUpdate, reason: str, now: datetime
) -> None:
    """Ends an action that the engine has never seen."""
    details.status.phase = update.phase = phase_pb2.ACTION_PHASE_ABORTED
    when = Timestamp()
    when.FromDatetime(now)
    end(details, when)
    details.abort_info.reason = reason
    update.error.CopyFrom(execution_pb2.ExecutionError(code=_CANCELLED, message=reason))


def recall(
    details: run_definition_pb2.ActionDetails,
    update: state_service_pb2.ActionUpdate,
    trace: run_definition_pb2.TraceAction,
) -> None:
    """A trace is told of when it is over: its function ran within the parent."""
    status = details.status
    status.phase = update.phase = trace.phase or phase_pb2.ACTION_PHASE_SUCCEEDED
    if trace.HasField("start_time"):
        status.start_time.CopyFrom(trace.start_time)
    if status.phase in TERMINAL:
        end(details, trace.end_time)
    update.output_uri = trace.outputs.output_uri
    attempt = details.attempts.add(attempt=1, phase=status.phase, start_time=status.start_time, end_time=trace.end_time)
    attempt.outputs.CopyFrom(trace.outputs)


def signalled(
    details: run_definition_pb2.ActionDetails,
    update: state_service_pb2.ActionUpdate,
    value: literals_pb2.Literal,
    by: str,
) -> None:
    """A condition's value goes to its parent in the update itself."""
    update.value.CopyFrom(value)
    details.signal_info.output.CopyFrom(value)
    details.signal_info.signalled_by.user.id.subject = by


def _attempt(details: run_definition_pb2.ActionDetails, number: int) -> run_definition_pb2.ActionAttempt | None:
    """The attempt by that number, made if it is a new one; ``None`` when a later one is there."""
    attempts = details.attempts
    if attempts and attempts[-1].attempt > number:
        return None
    if not attempts or attempts[-1].attempt < number:
        return attempts.add(attempt=number, logs_available=True)
    return attempts[-1]


def _learn(attempt: run_definition_pb2.ActionAttempt, event: run_definition_pb2.ActionEvent) -> bool:
    transitions = attempt.phase_transitions
    last = transitions[-1] if transitions else None
    when = event.updated_time
    if last is not None and when.ToNanoseconds() < last.start_time.ToNanoseconds():
        if when.seconds < last.start_time.seconds:  # the kubelet's times have no fractions
            return False
        when = last.start_time
    if attempt.phase in TERMINAL:
        return False
    attempt.phase = event.phase
    if last is None:
        attempt.start_time.CopyFrom(when)
    if last is None or last.phase != event.phase:
        if last is not None:
            last.end_time.CopyFrom(when)
        transitions.add(phase=event.phase, start_time=when)
    attempt.cluster = event.cluster
    if event.cache_status:
        attempt.cache_status = event.cache_status
    if event.log_info:
        del attempt.log_info[:]
        attempt.log_info.extend(event.log_info)
    if event.HasField("log_context"):
        attempt.log_context.CopyFrom(event.log_context)
    known = {(seen.occurred_at.ToNanoseconds(), seen.message) for seen in attempt.cluster_events}
    for told in event.cluster_events:
        if (told.occurred_at.ToNanoseconds(), told.message) not in known:
            attempt.cluster_events.append(told)
    if event.phase in TERMINAL:
        attempt.end_time.CopyFrom(when)
        transitions[-1].end_time.CopyFrom(when)
        if event.HasField("error_info"):
            attempt.error_info.CopyFrom(event.error_info)
        if event.phase == phase_pb2.ACTION_PHASE_SUCCEEDED:
            attempt.outputs.CopyFrom(event.outputs)
    return True


def _conclude(
    details: run_definition_pb2.ActionDetails,
    update: state_service_pb2.ActionUpdate,
    attempt: run_definition_pb2.ActionAttempt,
) -> None:
    """What the end of its last attempt means for the action and for its parent."""
    phase = details.status.phase
    error = attempt.error_info
    if phase == phase_pb2.ACTION_PHASE_SUCCEEDED:
        update.output_uri = attempt.outputs.output_uri.rpartition("/")[0]
        return
    if phase == phase_pb2.ACTION_PHASE_ABORTED:
        details.abort_info.reason = _why_aborted(attempt)
    else:
        details.error_info.CopyFrom(error)
    update.error.CopyFrom(
        execution_pb2.ExecutionError(
            code=error.code or (_CANCELLED if phase == phase_pb2.ACTION_PHASE_ABORTED else "Unknown"),
            message=error.message or details.abort_info.reason,
            kind=_ERROR_KINDS.get(error.kind, execution_pb2.ExecutionError.UNKNOWN),
        )
    )


def _why_aborted(attempt: run_definition_pb2.ActionAttempt) -> str:
    said = attempt.error_info.message or (attempt.cluster_events[-1].message if attempt.cluster_events else "")
    return said.removeprefix(ABORTED).removeprefix(": ")
