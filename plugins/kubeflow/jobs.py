"""A Kubeflow job as its operator keeps it: how many pods each role has, and what has become of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan._speedups.links import rfc3339
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObservedObject
from propfan.pluginmachinery.operators.conditions import Condition, Time, first_true, newest_first
from propfan.pluginmachinery.operators.job_objects import StatusDecoder

PYTORCH_JOB: Final = Kind("kubeflow.org", "v1", "PyTorchJob", "pytorchjobs")
TF_JOB: Final = Kind("kubeflow.org", "v1", "TFJob", "tfjobs")
MPI_JOB: Final = Kind("kubeflow.org", "v1", "MPIJob", "mpijobs")

SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"

ENDS: Final = (SUCCEEDED, FAILED)
"""Types of the conditions that a job ends with."""

SUSPENDED: Final = "Suspended"
"""Type of the condition of a job that waits for somebody, e.g. Kueue, to let it run."""


class JobCondition(Condition, frozen=True, gc=False, rename="camel"):
    """``kubeflow.org/v1 JobCondition``."""

    last_update_time: Time = None

    def __str__(self) -> str:
        """As Go prints one."""
        return (
            f"{{Type:{self.type} Status:{self.status} Reason:{self.reason} Message:{self.message} "
            f"LastUpdateTime:{go_time(self.last_update_time)} LastTransitionTime:{go_time(self.last_transition_time)}}}"
        )


class ReplicaStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """``kubeflow.org/v1 ReplicaStatus``: the pods of one role, counted."""

    active: int = 0
    succeeded: int = 0
    failed: int = 0
    label_selector: Mapping[str, Any] | None = None
    selector: str = ""


class JobStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """``kubeflow.org/v1 JobStatus``. Conditions of ``None`` are not there; that is not the same as empty ones."""

    conditions: tuple[JobCondition, ...] | None = None
    replica_statuses: Mapping[str, ReplicaStatus | None] | None = None
    start_time: Time = None
    completion_time: Time = None
    last_reconcile_time: Time = None

    def as_json(self) -> dict[str, Any]:
        """The status as its operator would write it."""
        members: dict[str, Any] = msgspec.to_builtins(self)
        conditions = members.get("conditions")
        for condition in conditions or ():
            for text in ("reason", "message"):
                if not condition[text]:
                    del condition[text]
        if not conditions:
            members.pop("conditions", None)
        if not self.replica_statuses:
            members.pop("replicaStatuses", None)
        return members


_NO_STATUS: Final = JobStatus()


class _Replicas(msgspec.Struct, frozen=True, gc=False):
    replicas: int | None = None


_Roles = Mapping[str, _Replicas | None] | None


class _Spec(msgspec.Struct, frozen=True, gc=False):
    """The roles are under the name that belongs to the job's kind."""

    pytorch: _Roles = msgspec.field(default=None, name="pytorchReplicaSpecs")
    tensorflow: _Roles = msgspec.field(default=None, name="tfReplicaSpecs")
    mpi: _Roles = msgspec.field(default=None, name="mpiReplicaSpecs")


class Job(msgspec.Struct, frozen=True, gc=False):
    """What its links depend on, beside the status."""

    spec: _Spec = _Spec()

    def has(self, role: str) -> bool:
        return role in self._roles

    def replicas(self, role: str) -> int:
        """How many pods the role shall have; 0 where the job does not say."""
        found = self._roles.get(role)
        return (found.replicas or 0) if found is not None else 0

    @property
    def _roles(self) -> Mapping[str, _Replicas | None]:
        return self.spec.pytorch or self.spec.tensorflow or self.spec.mpi or {}


_STATUS: Final = StatusDecoder(JobStatus)


def status_of(resource: ObservedObject) -> JobStatus:
    """With the newest condition first; an empty one for a job that has none.

    Raises:
        DecodeError: it is not what the operator writes.
    """
    status = _STATUS.decode(resource) or _NO_STATUS
    if not status.conditions:
        return status
    return msgspec.structs.replace(status, conditions=newest_first(status.conditions))


def current(status: JobStatus) -> Condition | None:
    """The condition that holds: the newest true one; ``None`` while the operator has written none at all.

    Args:
        status: With the newest condition first.

    Raises:
        PermanentError: it has written some, and none of them is true; without a code.
    """
    if status.conditions is None:
        return None
    for condition in status.conditions:
        if condition.is_true:
            return condition
    told = " ".join(map(str, status.conditions))
    raise PermanentError("", f"found no current condition. Conditions: [{told}]")


def is_over(status: JobStatus) -> bool:
    return any(condition.type in ENDS for condition in status.conditions or ())


def is_suspended(status: JobStatus) -> bool:
    return first_true(status.conditions, SUSPENDED) is not None


def ended_at(status: JobStatus) -> datetime | None:
    """When the job ended, as far as it is known; else when it began.

    Args:
        status: With the newest condition first.
    """
    ends = (c.last_transition_time for c in status.conditions or () if c.type in ENDS and c.last_transition_time)
    return status.completion_time or next(ends, None) or status.start_time


def go_time(when: datetime | None) -> str:
    """As Go prints a time of UTC: ``2026-03-12 15:09:26 +0000 UTC``."""
    return rfc3339(when).replace("T", " ").replace("Z", " +0000 UTC")
