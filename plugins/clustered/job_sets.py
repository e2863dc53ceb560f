"""A JobSet as its controller keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.operators.conditions import Condition
from propfan.pluginmachinery.operators.job_objects import StatusDecoder
from propfan.plugins.clustered.build import WORKERS

COMPLETED: Final = "Completed"
FAILED: Final = "Failed"
SUSPENDED: Final = "Suspended"
RESTARTING: Final = "RestartingJobSet"

ENDS: Final = (COMPLETED, FAILED)


class ReplicatedJobStatus(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    active: int = 0
    suspended: int = 0

    @property
    def has_begun(self) -> bool:
        return max(self.ready, self.active, self.succeeded, self.failed) > 0


class JobSetStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    conditions: tuple[Condition, ...] | None = None
    restarts: int = 0
    restarts_count_towards_max: int = 0
    terminal_state: str = ""
    replicated_jobs_status: tuple[ReplicatedJobStatus, ...] | None = None

    @property
    def workers(self) -> ReplicatedJobStatus | None:
        for jobs in self.replicated_jobs_status or ():
            if jobs.name == WORKERS:
                return jobs
        return None

    @property
    def ends(self) -> Iterator[Condition]:
        """The true conditions of a JobSet that is over."""
        return (c for c in self.conditions or () if c.type in ENDS and c.is_true)

    def as_json(self) -> Mapping[str, Any]:
        """The status as its controller would write it."""
        members: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in members.items() if value or name == "restarts"}


class _JobSpec(msgspec.Struct, frozen=True, gc=False):
    parallelism: int | None = None


class _JobTemplate(msgspec.Struct, frozen=True, gc=False):
    spec: _JobSpec = _JobSpec()


class _ReplicatedJob(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    template: _JobTemplate = _JobTemplate()


class _FailurePolicy(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    max_restarts: int = 0


class _Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    replicated_jobs: tuple[_ReplicatedJob, ...] = ()
    failure_policy: _FailurePolicy | None = None


class JobSet(msgspec.Struct, frozen=True, gc=False):
    """What its phase and its links depend on, beside the status."""

    spec: _Spec = _Spec()

    @property
    def ranks(self) -> int:
        """How many pods work at once; 0 where the JobSet does not say."""
        found = (jobs.template.spec.parallelism for jobs in self.spec.replicated_jobs if jobs.name == WORKERS)
        return next(found, 0) or 0


_STATUS: Final = StatusDecoder(JobSetStatus)
_NO_STATUS: Final = JobSetStatus()


def status_of(resource: ObservedObject) -> JobSetStatus:
    """An empty one for a JobSet that has none.

    Raises:
        DecodeError: it is not what the controller writes.
    """
    return _STATUS.decode(resource) or _NO_STATUS
