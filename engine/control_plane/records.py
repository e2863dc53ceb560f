"""What a control plane remembers of runs and actions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec
from flyteidl2.common import identifier_pb2
from flyteidl2.task import run_pb2
from flyteidl2.workflow import run_definition_pb2, state_service_pb2

from propfan.engine.control_plane.progress import TERMINAL

ROOT: Final = "a0"
"""Name of a run's first action, as Flyte's."""


class ActionKey(msgspec.Struct, frozen=True):
    """Runs are unique by name in all projects, since their TaskActions share a namespace."""

    run: str
    name: str

    def __str__(self) -> str:
        return f"{self.run}/{self.name}"


class ActionRecord(msgspec.Struct):
    """One action. The messages belong to the record: nobody else changes them.

    Attributes:
        parent: Name of the action that enqueued it; empty for the root.
        position: Order of creation within the database.
        task_spec: Digest of its ``TaskSpec``; empty for what is no task.
        spec: As it was enqueued, without run spec and task spec.
        details: What clients are told, without the task spec.
        update: What the parent is told.
        revision: Grows with each change.
        is_submitted: Whether the engine has told of it, or need not have it: a restart does not hand it over again.
        shown: ``details`` with the task spec, made when first asked for.
    """

    key: ActionKey
    parent: str
    position: int
    task_spec: str
    spec: run_definition_pb2.ActionSpec
    details: run_definition_pb2.ActionDetails
    update: state_service_pb2.ActionUpdate
    revision: int = 0
    is_submitted: bool = False
    shown: run_definition_pb2.ActionDetails | None = None

    @property
    def phase(self) -> int:
        return int(self.details.status.phase)

    @property
    def is_over(self) -> bool:
        return self.phase in TERMINAL

    @property
    def kind(self) -> str:
        """``task``, ``condition`` or ``trace``."""
        return self.spec.WhichOneof("spec") or "task"

    def copy(self) -> ActionRecord:
        """A record to change, while others read this one."""
        details, update = run_definition_pb2.ActionDetails(), state_service_pb2.ActionUpdate()
        details.CopyFrom(self.details)
        update.CopyFrom(self.update)
        return msgspec.structs.replace(self, details=details, update=update, revision=self.revision + 1, shown=None)

    def as_action(self) -> run_definition_pb2.Action:
        """The short form, for lists."""
        return run_definition_pb2.Action(id=self.details.id, metadata=self.details.metadata, status=self.details.status)


class RunRecord(msgspec.Struct, frozen=True):
    """A run; how it stands is told by its root action. ``driver`` is the process whose engine has its tasks."""

    id: identifier_pb2.RunIdentifier
    task_name: str
    task_version: str
    spec: run_pb2.RunSpec
    source: int
    created_by: str
    driver: str
    created_at: datetime


def micros(when: datetime) -> int:
    """Since 1970."""
    return int(when.timestamp() * 1_000_000)


def of_micros(value: int) -> datetime:
    return datetime.fromtimestamp(value / 1_000_000, UTC)
