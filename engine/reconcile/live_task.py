"""What the engine keeps in memory for one live task."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from propfan.engine import machine, status
from propfan.engine.cluster import POD, ObservedObject
from propfan.engine.task_events import Identity, TaskEvent
from propfan.engine.task_state import Stage, TaskState
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.phases import ReasonInfo
from propfan.pluginmachinery.taskaction import FINALIZER, TERMINATION_STATUS_LABEL, TaskAction

if TYPE_CHECKING:
    from propfan.engine.web.jobs import Job


class TaskKey(NamedTuple):
    """Namespace and name of a TaskAction."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class LiveTask:
    """One task between its first sight and its end.

    Attributes:
        action: The TaskAction as last seen.
        object: The present attempt's object as last seen, ``None`` when none is known.
        object_was_deleted: ``object`` is its last state before it went away.
        pods: Those that an operator runs for it, as JSON by name; ``None`` where no watch tells of them.
        job: The present attempt's job, where that runs on an external service; ``None`` when none is known.
        must_look: Something changed since the goal was last pursued.
        revision, persisted: Grow with each change worth writing, and with each write that succeeded.
        unsent: Events that the control plane has not acknowledged, oldest first.
        write_at, written_at: When the status is to be written next, and was written last by this engine.
        failed_writes: Of the status, in a row.
        is_confirmed: The TaskAction was read itself, or admitted just as it was seen: lists and watches may show a
            state that is long past, also one of a task that is over.
        loaded_version: resourceVersion that ``state`` was first read from.
        shard: The one it belongs to; 0 where tasks are not spread over replicas.
        writer: Signs every status that is written for it from here. A number of its own, and not the engine's:
            an engine that lets a task go and takes it up again is another one to it.
        is_leaving: Another replica is to drive it: no round begins any more.
        news: What Events told of its object and was not told on yet.
        must_hold: It may have reserved its cache key before this engine began to drive it.
        is_unheard: The sink took events of others but not those of this task; they are sent again later.
        is_missing: A list did not show the TaskAction; only a live read can tell whether it is gone.
        is_dropped: The engine does not drive it any more.
    """

    __slots__ = (
        "_first_mark", "action", "failed_writes", "identity", "is_busy", "is_confirmed", "is_dropped", "is_leaving", "is_missing",
        "is_publishing", "is_queued", "is_unheard", "is_writing", "job", "key", "loaded_version", "must_hold", "must_look", "news", "object",
        "object_was_deleted", "persisted", "pods", "revision", "shard", "state", "unsent", "wake_at", "write_at", "writer",
        "written_at",
    )  # fmt: skip

    def __init__(
        self, key: TaskKey, action: ObservedObject, state: TaskState, identity: Identity, shard: int = 0
    ) -> None:
        self.key: Final = key
        self.shard: Final = shard
        self.identity: Final = identity
        self.action = action
        self.state = state
        self.object: ObservedObject | None = None
        self.object_was_deleted = False
        self.pods: dict[str, bytes] | None = None
        self.job: Job | None = None
        self.must_look = True
        self.revision = 0
        self.persisted = 0
        self.unsent: Sequence[TaskEvent] = ()
        self.wake_at: datetime | None = None
        self.write_at: datetime | None = None
        self.written_at: datetime | None = None
        self.failed_writes = 0
        self.is_confirmed = False
        self.loaded_version: Final = version_of(action)
        self.writer: Final = secrets.randbits(63)
        self._first_mark: Final = _private_status(action).mark
        self.is_leaving = False
        self.is_unheard = False
        self.must_hold = False
        self.news: tuple[ReasonInfo, ...] = ()
        self.is_missing = False
        self.is_dropped = False
        self.is_queued = False
        self.is_busy = False
        self.is_writing = False
        self.is_publishing = False

    @property
    def is_durable(self) -> bool:
        """Everything that was decided has been written down."""
        return self.persisted == self.revision

    @property
    def may_pursue(self) -> bool:
        """Whether the stage's goal may run now, as far as durability is concerned."""
        return self.is_durable or not machine.must_be_durable(self.state)

    @property
    def is_in_doubt(self) -> bool:
        """Whether the TaskAction must be read before anything else is done."""
        return self.is_missing or not self.is_confirmed

    @property
    def is_untouched(self) -> bool:
        """Whether no engine has admitted it, as far as is known. Admission finds out: its write is refused otherwise."""
        is_new = self.state.stage is Stage.RECEIVED and FINALIZER not in self.action.metadata.finalizers
        return is_new and not self.is_missing

    @property
    def is_ended(self) -> bool:
        return self.state.stage is Stage.ENDED

    def has_seen(self, newer: ObservedObject) -> bool:
        """Whether ``newer`` is no newer than what is known of the object by that name, or of one made in its place."""
        known = self.object
        if known is None or known.metadata.name != newer.metadata.name:
            return False
        age = version_of(newer) - version_of(known)
        return age < 0 or (age == 0 and not self.object_was_deleted)

    def learn_action(self, answer: ObservedObject) -> None:
        """Keeps the TaskAction as a write left it, unless the watch told of a later state meanwhile."""
        if version_of(answer) >= version_of(self.action):
            self.action = answer

    def is_own_status(self, seen: ObservedObject) -> bool:
        """Whether nobody else has written the status since this engine took the task up.

        Told by the signature: of several writes that were not answered, any may have been applied.
        """
        found = _private_status(seen)
        return found.writer == self.writer or found.mark == self._first_mark

    def seen_pods(self) -> Mapping[str, bytes] | None:
        """The task's pods by name, as watches showed them; ``None`` where none does."""
        own = self.object
        if self.pods is None or own is None or own.kind != POD or self.object_was_deleted:
            return self.pods
        return {**self.pods, own.metadata.name: own.raw}

    def learn(self, read: ObservedObject) -> ObservedObject:
        """Keeps an object as it was read or made, unless the watch told of a later state meanwhile; the latest of both."""
        known = self.object
        if known is not None and known.metadata.uid == read.metadata.uid and version_of(known) > version_of(read):
            return known
        self.object, self.object_was_deleted = read, False
        return read


def version_of(seen: ObservedObject) -> int:
    """The resourceVersion as a number; versions of one kind are comparable (Kubernetes 1.35 promises it)."""
    try:
        return int(seen.metadata.resource_version)
    except ValueError:
        return 0


class _PrivateStatus(msgspec.Struct, frozen=True, rename="camel"):
    plugin_state: bytes | None = None
    plugin_state_version: int = 0

    @property
    def mark(self) -> int:
        """Tells it from any other."""
        return hash((self.plugin_state, self.plugin_state_version))

    @property
    def writer(self) -> int:
        return status.writer_of(self.plugin_state, self.plugin_state_version)


class _PrivatePart(msgspec.Struct, frozen=True):
    status: _PrivateStatus = _PrivateStatus()


_private_decoder: Final = msgspec.json.Decoder(_PrivatePart)


def _private_status(action: ObservedObject) -> _PrivateStatus:
    try:
        return _private_decoder.decode(action.raw).status
    except (msgspec.DecodeError, RecursionError):
        return _PrivateStatus()


_decoder: Final = msgspec.json.Decoder(TaskAction)


def decode(action: ObservedObject) -> TaskAction:
    """The TaskAction behind an object.

    Raises:
        DecodeError: a field has the wrong type; the message says which.
    """
    try:
        return _decoder.decode(action.raw)
    except msgspec.DecodeError as error:
        raise DecodeError(str(action), str(error)) from error


def identity_of(action: ObservedObject, decoded: TaskAction | None) -> Identity:
    meta = action.metadata
    spec = decoded.spec if decoded is not None else None
    return Identity(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        run=spec.run_name if spec else "",
        action=spec.action_name if spec else "",
        project=spec.project if spec else "",
        domain=spec.domain if spec else "",
    )


def is_tidy(action: ObservedObject) -> bool:
    """Whether the engine has nothing left to do for it, told from its metadata alone."""
    labels, finalizers = action.metadata.labels, action.metadata.finalizers
    return TERMINATION_STATUS_LABEL in labels and FINALIZER not in finalizers
