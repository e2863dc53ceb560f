"""Phases of a task, and the verdict that a plugin returns each time it is asked."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

ZERO_TIME: Final = datetime(1, 1, 1, tzinfo=UTC)
"""What an unset Kubernetes timestamp reads as (``metav1.Time`` zero value)."""

DEFAULT_PHASE_VERSION: Final = 0


class Phase(enum.IntEnum):
    """Where one attempt stands. The order is meaningful: ``RUNNING <= phase`` means it has begun."""

    UNDEFINED = 0
    NOT_READY = 1
    WAITING_FOR_RESOURCES = 2
    QUEUED = 3
    INITIALIZING = 4
    RUNNING = 5
    SUCCESS = 6
    RETRYABLE_FAILURE = 7
    PERMANENT_FAILURE = 8
    WAITING_FOR_CACHE = 9
    ABORTED = 10

    @property
    def wire_name(self) -> str:
        """The string that is persisted, e.g. ``PhaseWaitingForResources``."""
        return _WIRE_NAMES[self]

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL

    @property
    def is_success(self) -> bool:
        return self is Phase.SUCCESS

    @property
    def is_failure(self) -> bool:
        return self is Phase.RETRYABLE_FAILURE or self is Phase.PERMANENT_FAILURE

    @property
    def is_aborted(self) -> bool:
        return self is Phase.ABORTED

    @property
    def is_waiting_for_resources(self) -> bool:
        return self is Phase.WAITING_FOR_RESOURCES

    @classmethod
    def from_wire_name(cls, name: str) -> Phase:
        """Raises ``KeyError`` for a name that is none of the eleven."""
        return _BY_WIRE_NAME[name]


_WIRE_NAMES: Final = {p: "Phase" + "".join(part.capitalize() for part in p.name.split("_")) for p in Phase}
_WIRE_NAMES[Phase.WAITING_FOR_RESOURCES] = "PhaseWaitingForResources"
_WIRE_NAMES[Phase.WAITING_FOR_CACHE] = "PhaseWaitingForCache"
_BY_WIRE_NAME: Final = {name: phase for phase, name in _WIRE_NAMES.items()}
_TERMINAL: Final = frozenset({Phase.SUCCESS, Phase.RETRYABLE_FAILURE, Phase.PERMANENT_FAILURE, Phase.ABORTED})


class ErrorKind(enum.Enum):
    """Who is to blame (``core.ExecutionError.ErrorKind``)."""

    UNKNOWN = "UNKNOWN"
    USER = "USER"
    SYSTEM = "SYSTEM"


class ExecutionError(msgspec.Struct, frozen=True):
    """Why an attempt failed (``core.ExecutionError``)."""

    code: str
    message: str
    kind: ErrorKind = ErrorKind.USER
    error_uri: str = ""


class MessageFormat(enum.IntEnum):
    UNKNOWN = 0
    CSV = 1
    JSON = 2


class LinkType(enum.IntEnum):
    EXTERNAL = 0
    DASHBOARD = 1
    IDE = 2


class TaskLog(msgspec.Struct, frozen=True):
    """A link that is shown beside the task (``core.TaskLog``)."""

    uri: str
    name: str = ""
    message_format: MessageFormat = MessageFormat.UNKNOWN
    show_while_pending: bool = False
    hide_once_finished: bool = False
    link_type: LinkType = LinkType.EXTERNAL
    ready: bool = False
    icon_uri: str = ""
    ttl_s: float | None = None


class ContainerContext(msgspec.Struct, frozen=True):
    """One container's life; a time is ``None`` when it has not happened."""

    container_name: str
    container_start_time: datetime | None = None
    container_end_time: datetime | None = None


class PodLogContext(msgspec.Struct, frozen=True):
    namespace: str
    pod_name: str
    primary_container_name: str = ""
    containers: tuple[ContainerContext, ...] = ()
    init_containers: tuple[ContainerContext, ...] = ()


class LogContext(msgspec.Struct, frozen=True):
    """Which pods and containers wrote the logs (``core.LogContext``)."""

    pods: tuple[PodLogContext, ...] = ()
    primary_pod_name: str = ""
    connector_endpoint: str = ""


class KubernetesEvent(msgspec.Struct, frozen=True):
    """The object event behind a reason. ``type`` is ``Normal`` or ``Warning``."""

    type: str
    reason: str
    source_component: str = ""
    count: int = 1


class ReasonInfo(msgspec.Struct, frozen=True):
    """Something that happened to the task's object, for people."""

    reason: str
    occurred_at: datetime | None = None
    kubernetes_event: KubernetesEvent | None = None


class ExternalResource(msgspec.Struct, frozen=True):
    """Something outside that works for the task. ``index`` is stable across retries."""

    external_id: str
    index: int = 0
    cache_status: str = "CACHE_DISABLED"
    retry_attempt: int = 0
    phase: Phase = Phase.UNDEFINED
    logs: tuple[TaskLog, ...] = ()
    log_context: LogContext | None = None
    custom_info: Mapping[str, Any] | None = None


class TaskInfo(msgspec.Struct, frozen=True):
    """What a plugin knows beside the phase. ``additional_reasons`` are reported once and not persisted."""

    occurred_at: datetime | None = None
    reported_at: datetime | None = None
    logs: tuple[TaskLog, ...] = ()
    log_context: LogContext | None = None
    custom_info: Mapping[str, Any] | None = None
    external_resources: tuple[ExternalResource, ...] = ()
    additional_reasons: tuple[ReasonInfo, ...] = ()


class PhaseInfo(msgspec.Struct, frozen=True):
    """A plugin's verdict.

    Build one with the functions below, which know which fields go together.

    Attributes:
        version: Grows within a phase when something new is worth an event; 0 to 2**32 - 1.
        reason: Why a task waits. Empty for failures, which explain themselves in ``error``.
        cleanup_on_failure: The verdict is a failure while the remote object still lives: delete it.
        recheck_at: When the verdict can change without any change of the object (a grace period
            or a timeout ends); ``None`` when only a change of the object can change it.
    """

    phase: Phase
    version: int = DEFAULT_PHASE_VERSION
    reason: str = ""
    error: ExecutionError | None = None
    info: TaskInfo | None = None
    cleanup_on_failure: bool = False
    recheck_at: datetime | None = None

    def with_version(self, version: int) -> PhaseInfo:
        return msgspec.structs.replace(self, version=version)

    def with_reason(self, reason: str) -> PhaseInfo:
        """Appended with a comma to the reason there is."""
        return msgspec.structs.replace(self, reason=f"{self.reason}, {reason}" if self.reason else reason)

    def rechecked_at(self, when: datetime | None) -> PhaseInfo:
        return msgspec.structs.replace(self, recheck_at=when)


UNDEFINED: Final = PhaseInfo(Phase.UNDEFINED)


def _info(now: datetime, info: TaskInfo | None) -> TaskInfo:
    if info is None:
        return TaskInfo(occurred_at=now)
    if info.occurred_at is None:
        return msgspec.structs.replace(info, occurred_at=now)
    return info


def not_ready(now: datetime, version: int, reason: str) -> PhaseInfo:
    return PhaseInfo(Phase.NOT_READY, version, reason, info=TaskInfo(occurred_at=now))


def waiting_for_resources(now: datetime, version: int, reason: str, info: TaskInfo | None = None) -> PhaseInfo:
    return PhaseInfo(Phase.WAITING_FOR_RESOURCES, version, reason, info=_info(now, info))


def queued(now: datetime, version: int, reason: str, info: TaskInfo | None = None) -> PhaseInfo:
    return PhaseInfo(Phase.QUEUED, version, reason, info=_info(now, info))


def initializing(now: datetime, version: int, reason: str, info: TaskInfo | None = None) -> PhaseInfo:
    return PhaseInfo(Phase.INITIALIZING, version, reason, info=_info(now, info))


def running(now: datetime, version: int, info: TaskInfo | None = None) -> PhaseInfo:
    return PhaseInfo(Phase.RUNNING, version, info=_info(now, info))


def success(now: datetime, info: TaskInfo | None = None) -> PhaseInfo:
    return PhaseInfo(Phase.SUCCESS, info=_info(now, info))


def aborted(now: datetime, version: int, reason: str) -> PhaseInfo:
    return PhaseInfo(Phase.ABORTED, version, reason, info=TaskInfo(occurred_at=now))


def waiting_for_cache(now: datetime, version: int, info: TaskInfo | None = None, reason: str = "") -> PhaseInfo:
    return PhaseInfo(Phase.WAITING_FOR_CACHE, version, reason, info=_info(now, info))


def failed(phase: Phase, error: ExecutionError | None, now: datetime, info: TaskInfo | None = None) -> PhaseInfo:
    """A failure with an error that already exists, e.g. one read from ``error.pb``."""
    if not phase.is_failure:
        raise ValueError(f"{phase.name} is not a failure")
    return PhaseInfo(phase, error=error, info=_info(now, info))


def failure(
    code: str, message: str, now: datetime, info: TaskInfo | None = None, *, cleanup: bool = False
) -> PhaseInfo:
    """Permanent, the user's."""
    return _failed(Phase.PERMANENT_FAILURE, ErrorKind.USER, code, message, now, info, cleanup=cleanup)


def system_failure(
    code: str, message: str, now: datetime, info: TaskInfo | None = None, *, cleanup: bool = False
) -> PhaseInfo:
    """Permanent, the system's."""
    return _failed(Phase.PERMANENT_FAILURE, ErrorKind.SYSTEM, code, message, now, info, cleanup=cleanup)


def retryable_failure(
    code: str, message: str, now: datetime, info: TaskInfo | None = None, *, cleanup: bool = False
) -> PhaseInfo:
    """Retryable, the user's: costs one of the task's attempts."""
    return _failed(Phase.RETRYABLE_FAILURE, ErrorKind.USER, code, message, now, info, cleanup=cleanup)


def system_retryable_failure(
    code: str, message: str, now: datetime, info: TaskInfo | None = None, *, cleanup: bool = False
) -> PhaseInfo:
    """Retryable, the system's: costs one of the engine's own retries."""
    return _failed(Phase.RETRYABLE_FAILURE, ErrorKind.SYSTEM, code, message, now, info, cleanup=cleanup)


def _failed(
    phase: Phase, kind: ErrorKind, code: str, message: str, now: datetime, info: TaskInfo | None, *, cleanup: bool
) -> PhaseInfo:
    error = ExecutionError(code or "Unknown", message or "Unknown error message", kind)
    return PhaseInfo(phase, error=error, info=_info(now, info), cleanup_on_failure=cleanup)


class PluginState(msgspec.Struct, frozen=True):
    """What the previous look at a Kubernetes object concluded."""

    phase: Phase = Phase.UNDEFINED
    phase_version: int = 0
    reason: str = ""


def bump_version_on_new_reason(info: PhaseInfo, last: PluginState) -> PhaseInfo:
    """A new reason within the same phase gets a new version, so that it is reported."""
    if info.phase is last.phase and info.version <= last.phase_version and info.reason != last.reason:
        return info.with_version(last.phase_version + 1)
    return info


class TransitionType(enum.IntEnum):
    EPHEMERAL = 0
    BARRIER = 1


class Transition(msgspec.Struct, frozen=True):
    """What a core plugin's ``handle`` returns."""

    info: PhaseInfo
    type: TransitionType = TransitionType.EPHEMERAL
