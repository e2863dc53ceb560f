"""The part of a Pod that its phase and its log links depend on, decoded straight from JSON bytes.

Everything else is skipped without being built, so that a watched pod costs microseconds and a cached
one less than its JSON. Field names and shapes are those of ``core/v1 Pod``; an unset field is what Go's
API types have there, and ``null`` is unset. msgspec does the work; there is nothing to compile.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final, Generic, TypeVar

import msgspec

DEBUGGER_VARIABLE: Final = "_F_E_VS"
"""Environment variable that asks for an editor beside the task."""

Time = Annotated[datetime, msgspec.Meta(tz=True)] | None


class _Part(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """A piece of a pod. Pods hold no cycles, so the garbage collector need not look at them."""


class EnvVar(_Part, frozen=True):
    name: str = ""
    value: str = ""


class Container(_Part, frozen=True):
    """A container of the spec. Of its environment only what ``DEBUGGER_VARIABLE`` is first set to is kept."""

    name: str = ""
    env: tuple[EnvVar, ...] | None = None


class _NamedContainer(_Part, frozen=True):
    """A container whose environment is known to be of no interest, and is skipped."""

    env: ClassVar[None] = None
    name: str = ""


class Annotations(_Part, frozen=True):
    """Those that name the primary container; ``None`` is an absent one."""

    default_container: str | None = msgspec.field(default=None, name="kubectl.kubernetes.io/default-container")
    primary_container_name: str | None = msgspec.field(default=None, name="primary_container_name")


class Metadata(_Part, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    creation_timestamp: Time = None
    deletion_timestamp: Time = None
    annotations: Annotations | None = None


class Waiting(_Part, frozen=True):
    reason: str = ""
    message: str = ""


class Running(_Part, frozen=True):
    started_at: Time = None


class Terminated(_Part, frozen=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: Time = None
    finished_at: Time = None


class State(_Part, frozen=True):
    """What a container does; all ``None`` when nothing is known."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Part, frozen=True):
    name: str = ""
    ready: bool = False
    state: State | None = None
    last_state: State | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class Condition(_Part, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: Time = None


class Status(_Part, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    start_time: Time = None
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | None = None


C = TypeVar("C")


class Spec(_Part, Generic[C], frozen=True):
    hostname: str = ""
    containers: tuple[C, ...] | None = None


class Pod(_Part, Generic[C], frozen=True):
    metadata: Metadata = Metadata()
    spec: Spec[C] | None = None
    status: Status | None = None


class _Event(_Part, Generic[C], frozen=True):
    """One line of a watch."""

    type: str = ""
    object: Pod[C] = Pod()


ObservedPod = Pod[Container] | Pod[_NamedContainer]

_BRIEF: Final = msgspec.json.Decoder(Pod[_NamedContainer])
_FULL: Final = msgspec.json.Decoder(Pod[Container])
_BRIEF_EVENT: Final = msgspec.json.Decoder(_Event[_NamedContainer])
_FULL_EVENT: Final = msgspec.json.Decoder(_Event[Container])
_ENCODER: Final = msgspec.json.Encoder()


def decode(content: bytes, *, environment: bool = False) -> ObservedPod:
    """A pod from its JSON, without any environment unless it is asked for, which costs a third more.

    Raises:
        msgspec.DecodeError: not JSON, or a field that is not what a Pod has there; says where.
    """
    try:
        return _without_other_variables(_FULL.decode(content)) if environment else _BRIEF.decode(content)
    except (RecursionError, UnicodeDecodeError) as problem:
        raise msgspec.DecodeError(f"JSON is malformed: {problem}") from problem


def decode_event(line: bytes, *, environment: bool = False) -> tuple[str, ObservedPod]:
    """Type and pod of one watch event.

    Raises:
        msgspec.DecodeError: as ``decode``.
    """
    try:
        if environment:
            full = _FULL_EVENT.decode(line)
            return full.type, _without_other_variables(full.object)
        brief = _BRIEF_EVENT.decode(line)
    except (RecursionError, UnicodeDecodeError) as problem:
        raise msgspec.DecodeError(f"JSON is malformed: {problem}") from problem
    return brief.type, brief.object


def encode(pod: ObservedPod) -> bytes:
    """JSON that decodes to an equal pod: a cache may keep this in place of what the API server sent."""
    return _ENCODER.encode(pod)


def _without_other_variables(pod: Pod[Container]) -> Pod[Container]:
    if pod.spec is None or not pod.spec.containers:
        return pod
    containers = tuple(Container(c.name, _debugger_setting(c.env)) for c in pod.spec.containers)
    return Pod(pod.metadata, Spec(pod.spec.hostname, containers), pod.status)


def _debugger_setting(env: tuple[EnvVar, ...] | None) -> tuple[EnvVar, ...] | None:
    for variable in env or ():
        if variable.name == DEBUGGER_VARIABLE:
            return (variable,)
    return None
