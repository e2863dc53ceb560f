"""What the engine tells its control plane: one event per (task, attempt, phase, version)."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec

from propfan.engine.task_state import WAITING_FOR_SIGNAL, Outcome, Report
from propfan.pluginmachinery.errors import PropfanError
from propfan.pluginmachinery.phases import ExecutionError, LogContext, Phase, ReasonInfo, TaskLog
from propfan.pluginmachinery.readers import MAX_MESSAGE_CHARS


class ActionPhase(enum.IntEnum):
    """``flyteidl2.common.ActionPhase``."""

    UNSPECIFIED = 0
    QUEUED = 1
    WAITING_FOR_RESOURCES = 2
    INITIALIZING = 3
    RUNNING = 4
    SUCCEEDED = 5
    FAILED = 6
    ABORTED = 7
    TIMED_OUT = 8
    PAUSED = 9
    RECOVERED = 10


_PHASES: Final = {
    Phase.NOT_READY: ActionPhase.QUEUED,
    Phase.QUEUED: ActionPhase.QUEUED,
    Phase.WAITING_FOR_RESOURCES: ActionPhase.WAITING_FOR_RESOURCES,
    Phase.WAITING_FOR_CACHE: ActionPhase.WAITING_FOR_RESOURCES,
    Phase.INITIALIZING: ActionPhase.INITIALIZING,
    Phase.RUNNING: ActionPhase.RUNNING,
    Phase.SUCCESS: ActionPhase.SUCCEEDED,
    Phase.RETRYABLE_FAILURE: ActionPhase.FAILED,
    Phase.PERMANENT_FAILURE: ActionPhase.FAILED,
    Phase.ABORTED: ActionPhase.ABORTED,
}


class TaskEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Delivered at least once; a repeat has the same ``key``.

    Attributes:
        uid: Of the TaskAction, so that a new one under an old name is another task.
        is_final: The task is over. A failed attempt that is followed by another is FAILED and not final.
        output_uri: Where the outputs are once the task has succeeded; empty when it has no place for them.
    """

    namespace: str
    name: str
    uid: str
    run: str
    action: str
    project: str
    domain: str
    attempt: int
    phase: ActionPhase
    plugin_phase: Phase
    version: int
    occurred_at: datetime
    is_final: bool = False
    reason: str = ""
    error: ExecutionError | None = None
    cache_status: str = ""
    output_uri: str = ""
    logs: tuple[TaskLog, ...] = ()
    log_context: LogContext | None = None
    reasons: tuple[ReasonInfo, ...] = ()

    @property
    def key(self) -> str:
        """What makes it a repeat: task, attempt, phase, version."""
        return f"{self.namespace}/{self.name}/{self.uid}/{self.attempt}/{self.plugin_phase.name}/{self.version}"


class Identity(msgspec.Struct, frozen=True):
    """The part of every event that is the task's own."""

    namespace: str
    name: str
    uid: str
    run: str
    action: str
    project: str
    domain: str


class EventSink(Protocol):
    """Where events go."""

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """Stores a batch durably, or raises and is called again with the same events.

        A sink must take repeats (equal ``key``) as done.

        Raises:
            NotAllRecordedError: only the events in it are to be sent again.
        """
        ...


class NotAllRecordedError(PropfanError):
    """A sink took a part of a batch.

    Attributes:
        left: The events that it did not take, in their order.
    """

    def __init__(self, problem: str, left: Sequence[TaskEvent]) -> None:
        super().__init__(problem)
        self.problem = problem
        self.left = left


def action_phase(report: Report) -> ActionPhase:
    if report.outcome is Outcome.TIMED_OUT:
        return ActionPhase.TIMED_OUT
    if report.phase is Phase.NOT_READY and report.reason == WAITING_FOR_SIGNAL:
        return ActionPhase.PAUSED
    return _PHASES.get(report.phase, ActionPhase.UNSPECIFIED)


def to_event(identity: Identity, report: Report, output_uri: str = "") -> TaskEvent:
    """The event that a report of the state machine stands for."""
    info = report.info
    return TaskEvent(
        namespace=identity.namespace,
        name=identity.name,
        uid=identity.uid,
        run=identity.run,
        action=identity.action,
        project=identity.project,
        domain=identity.domain,
        attempt=report.attempt,
        phase=action_phase(report),
        plugin_phase=report.phase,
        version=report.version,
        occurred_at=report.occurred_at,
        is_final=report.outcome is not None,
        reason=readable(report.reason),
        error=readable_error(report.error),
        cache_status=report.cache_status,
        output_uri=output_uri,
        logs=info.logs if info is not None else (),
        log_context=info.log_context if info is not None else None,
        reasons=report.reasons,
    )


MAX_CHARS: Final = MAX_MESSAGE_CHARS + 256
"""Of a text in an event: the longest message of an error document, with the note on what was left out of it."""


def readable(text: str, max_chars: int = MAX_CHARS) -> str:
    """A text that JSON, protobuf and an API server take: Unicode, and without its middle when it is too long.

    A plugin's message can hold the undecodable bytes of a file's name, or a whole log.
    """
    if len(text) > max_chars:
        half = (max_chars - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text if text.isascii() else text.encode(errors="replace").decode()


def readable_error(error: ExecutionError | None, max_chars: int = MAX_CHARS) -> ExecutionError | None:
    if error is None:
        return None
    return ExecutionError(
        readable(error.code, max_chars), readable(error.message, max_chars), error.kind, error.error_uri
    )
