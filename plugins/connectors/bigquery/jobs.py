"""A job of BigQuery as its API tells of it, and what that means for a task.

After https://cloud.google.com/bigquery/docs/reference/rest/v2/Job; reasons of errors after
https://cloud.google.com/bigquery/docs/error-messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from propfan.pluginmachinery.connector import Dataset, HttpResponse, RemotePhase, Resource
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.phases import TaskLog

PASSING_REASONS: Final = frozenset(
    {
        *("backendError", "internalError", "jobBackendError", "jobInternalError", "badGateway"),
        *("rateLimitExceeded", "jobRateLimitExceeded", "quotaExceeded", "resourceInUse", "tableUnavailable"),
    }
)
"""Of errors after which the same request, or the same query as another job, may succeed."""

_STOPPED: Final = "stopped"
"""Reason of a job that was cancelled."""

_PHASES: Final[Mapping[str, RemotePhase]] = {"PENDING": RemotePhase.QUEUED, "RUNNING": RemotePhase.RUNNING}


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """Of a resource; fields that are not named here are passed over."""


class ErrorProto(_Part, frozen=True):
    reason: str = ""
    location: str = ""
    message: str = ""

    def __str__(self) -> str:
        place = f" at {self.location}" if self.location else ""
        return f"{self.message} ({self.reason}{place})" if self.reason else self.message


class JobReference(_Part, frozen=True):
    project_id: str
    job_id: str
    location: str = ""


class JobStatus(_Part, frozen=True):
    state: str
    error_result: ErrorProto | None = None


class TableReference(_Part, frozen=True):
    project_id: str
    dataset_id: str
    table_id: str

    @property
    def uri(self) -> str:
        return f"bq://{self.project_id}:{self.dataset_id}.{self.table_id}"


class QueryConfiguration(_Part, frozen=True):
    destination_table: TableReference | None = None


class JobConfiguration(_Part, frozen=True):
    query: QueryConfiguration = QueryConfiguration()


class QueryStatistics(_Part, frozen=True):
    """64-bit integers are texts in Google's JSON."""

    total_bytes_processed: str | int | None = None
    total_bytes_billed: str | int | None = None
    total_slot_ms: str | int | None = None
    cache_hit: bool | None = None
    statement_type: str | None = None
    num_dml_affected_rows: str | int | None = None


class JobStatistics(_Part, frozen=True):
    query: QueryStatistics = QueryStatistics()


class Job(_Part, frozen=True):
    job_reference: JobReference
    status: JobStatus
    configuration: JobConfiguration = JobConfiguration()
    statistics: JobStatistics = JobStatistics()


class _ErrorBody(_Part, frozen=True):
    message: str = ""
    errors: Sequence[ErrorProto] = ()


class _ErrorAnswer(_Part, frozen=True):
    error: _ErrorBody


def error_of(response: HttpResponse) -> ErrorProto:
    """What an answer that is no success says is wrong; its text where it is not of BigQuery's form."""
    try:
        told = response.json(_ErrorAnswer).error
    except DecodeError:  # of a proxy
        return ErrorProto(message=response.text())
    first = told.errors[0] if told.errors else ErrorProto()
    return ErrorProto(first.reason, first.location, told.message or first.message)


def location_in(message: str, job: JobReference) -> str:
    """Where a job is that there is already: ``Already Exists: Job project:location.id``; empty if it does not say."""
    found = re.search(rf"{re.escape(job.project_id)}:([A-Za-z0-9-]+)\.{re.escape(job.job_id)}", message)
    return found[1] if found is not None else ""


def console_link(console: str, job: JobReference) -> TaskLog:
    """The job's page in Google's console."""
    name = f"bq:{job.location}:{job.job_id}"
    return TaskLog(
        f"{console}/bigquery?project={quote(job.project_id, safe='')}&j={quote(name, safe=':')}&page=queryresults",
        "BigQuery Console",
        show_while_pending=True,
    )


def resource_of(job: Job, output: str, console: str) -> Resource:
    """How a task stands whose job is this one.

    Args:
        output: Name of the task's output; empty when it has none.

    Raises:
        DecodeError: the job is in a state that BigQuery's documentation does not know.
    """
    name = f"job '{job.job_reference.project_id}:{job.job_reference.job_id}'"
    links = [console_link(console, job.job_reference)]
    told = _statistics(job.statistics.query)
    state = job.status.state
    if state != "DONE":
        phase = _PHASES.get(state)
        if phase is None:
            raise DecodeError(
                f"BigQuery's {name}", f"unknown state {state[:200]}; known are {', '.join(_PHASES)}, DONE"
            )
        return Resource(phase, state, links, custom_info=told)
    if error := job.status.error_result:
        return Resource(_phase_of(error), f"{name} failed: {error}", links, custom_info=told)
    if not output:
        return Resource(RemotePhase.SUCCEEDED, state, links, custom_info=told)
    table = job.configuration.query.destination_table
    if table is None:
        kind = job.statistics.query.statement_type or "of no known kind"
        way_out = f"take the output '{output}' away, or end with a SELECT in a task of its own"
        problem = f"{name} succeeded, but its statement ({kind}) has no table of results"
        return Resource(RemotePhase.FAILED, f"{problem}: {way_out}", links, custom_info=told)
    return Resource(RemotePhase.SUCCEEDED, state, links, {output: Dataset(table.uri)}, told)


def _phase_of(error: ErrorProto) -> RemotePhase:
    if error.reason == _STOPPED:
        return RemotePhase.ABORTED
    return RemotePhase.RETRYABLE_FAILED if error.reason in PASSING_REASONS else RemotePhase.FAILED


def _statistics(query: QueryStatistics) -> Mapping[str, Any]:
    told = {
        "bytes_processed": query.total_bytes_processed,
        "bytes_billed": query.total_bytes_billed,
        "slot_ms": query.total_slot_ms,
        "cache_hit": query.cache_hit,
        "statement_type": query.statement_type,
        "affected_rows": query.num_dml_affected_rows,
    }
    return {name: _number(value) for name, value in told.items() if value is not None}


def _number(value: str | int) -> str | int:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
