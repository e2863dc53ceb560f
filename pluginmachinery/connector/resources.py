"""What a connector says of a job: how to find it again, and how it stands."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec

from propfan.pluginmachinery.errors import DecodeError, PermanentError
from propfan.pluginmachinery.phases import TaskLog

MAX_META_BYTES: Final = 256 * 1024
"""Of one encoded meta. It is kept in the task's object, of which etcd takes 1.5 MiB with all that is in it."""


class RemotePhase(enum.IntEnum):
    """Where a job stands (``core.TaskExecution.Phase``)."""

    UNDEFINED = 0
    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    ABORTED = 4
    FAILED = 5
    INITIALIZING = 6
    WAITING_FOR_RESOURCES = 7
    RETRYABLE_FAILED = 8

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL: Final = frozenset(
    {RemotePhase.SUCCEEDED, RemotePhase.ABORTED, RemotePhase.FAILED, RemotePhase.RETRYABLE_FAILED}
)

_STATES: Final[Mapping[str, RemotePhase]] = {
    **dict.fromkeys(("failed", "timeout", "timedout", "canceled", "cancelled", "skipped"), RemotePhase.FAILED),
    "internal_error": RemotePhase.RETRYABLE_FAILED,
    **dict.fromkeys(("done", "succeeded", "success", "completed"), RemotePhase.SUCCEEDED),
    **dict.fromkeys(("running", "terminating"), RemotePhase.RUNNING),
    "pending": RemotePhase.INITIALIZING,
}


def convert_to_flyte_phase(state: str) -> RemotePhase:
    """The phase behind what many services call a job's state, in any case: ``"DONE"``, ``"canceled"`` and the like.

    Raises:
        DecodeError: the word is none of those; map the service's own states in the connector.
    """
    phase = _STATES.get(state.lower())
    if phase is None:
        known = ", ".join(_STATES)
        raise DecodeError("state of the job", f"Unrecognized state: {state.lower()[:200]}; known are {known}")
    return phase


class Resource(msgspec.Struct, frozen=True):
    """How a job stands.

    Attributes:
        phase: The enum, or its number.
        message: For people; of a failed job the error that its user sees.
        log_links: Shown beside the task.
        outputs: Name to value, of a job that succeeded; what values may be is said in ``values``. ``None`` when
            there are none or when the job itself writes ``outputs.pb`` below the output prefix.
        custom_info: Anything more that JSON can say.
    """

    phase: RemotePhase
    message: str = ""
    log_links: Sequence[TaskLog] = ()
    outputs: Mapping[str, Any] | None = None
    custom_info: Mapping[str, Any] | None = None


class ResourceMeta(msgspec.Struct, frozen=True):
    """Base of what a connector needs to find a job again, from any process: ids and addresses, never secrets.

    It is kept by the engine and read by later versions of the connector: give new fields defaults; keys that
    are no fields any more are passed over. A dataclass without this base serves as well.

    ::

        class QueryMeta(ResourceMeta, frozen=True):
            query_id: str
            region: str = "eu"
    """

    def encode(self) -> bytes:
        """JSON. Another encoding must be as safe to decode: its bytes come back from outside."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Raises ``msgspec.DecodeError`` or ``ValueError`` when the bytes are no such meta."""
        return msgspec.json.decode(content, type=cls)


M = TypeVar("M")


def encode_meta(connector: str, meta: object) -> bytes:
    """What is kept of a job.

    Args:
        connector: Its name, for messages.
        meta: A ``ResourceMeta`` or a dataclass.

    Raises:
        PermanentError: it can not be written, or is larger than ``MAX_META_BYTES``.
    """
    try:
        content: object = meta.encode() if isinstance(meta, ResourceMeta) else msgspec.json.encode(meta)
    except Exception as error:
        problem = f"{type(meta).__name__} can not be encoded: {error}; give it fields that JSON can say"
        raise PermanentError("", f"connector '{connector}': {problem}") from error
    if not isinstance(content, bytes):
        problem = f"{type(meta).__name__}.encode must return bytes, is {type(content).__name__}"
        raise PermanentError("", f"connector '{connector}': {problem}")
    if len(content) > MAX_META_BYTES:
        problem = f"{type(meta).__name__} has {len(content)} bytes encoded, the limit is {MAX_META_BYTES}"
        raise PermanentError("", f"connector '{connector}': {problem}: keep in it only what finds the job again")
    return content


def decode_meta(connector: str, kind: type[M], content: bytes) -> M:
    """The reverse of ``encode_meta``.

    Raises:
        DecodeError: the bytes are no meta of this connector, or too many.
    """
    what = f"resource meta for connector '{connector}'"
    if len(content) > MAX_META_BYTES:
        raise DecodeError(what, f"has {len(content)} bytes, the limit is {MAX_META_BYTES}")
    try:
        meta: object = (
            kind.decode(content) if issubclass(kind, ResourceMeta) else msgspec.json.decode(content, type=kind)
        )
    except Exception as error:  # an author's own `decode` may raise anything
        problem = f"is no {kind.__name__}: {str(error) or type(error).__name__}; send what CreateTask of this connector answered"
        raise DecodeError(what, problem) from error
    if not isinstance(meta, kind):
        raise DecodeError(what, f"{kind.__name__}.decode must return {kind.__name__}, is {type(meta).__name__}")
    return meta


def is_meta_type(kind: object) -> bool:
    """Whether jobs can be described by it: a Struct or a dataclass."""
    return isinstance(kind, type) and (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind))
