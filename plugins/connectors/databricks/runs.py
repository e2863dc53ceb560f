"""A run as the Jobs API tells of it, and what that means for a task.

After https://docs.databricks.com/api/workspace/jobs/getrun, version 2.1. ``status`` is the newer account of what
``state`` tells; workspaces give both, or the older one alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import HttpResponse, RemotePhase, Resource
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.phases import TaskLog

_LIVE: Final[Mapping[str, RemotePhase]] = {
    "QUEUED": RemotePhase.QUEUED,
    "BLOCKED": RemotePhase.QUEUED,
    "WAITING": RemotePhase.QUEUED,
    "WAITING_FOR_RETRY": RemotePhase.QUEUED,
    "PENDING": RemotePhase.INITIALIZING,  # its cluster is being prepared
    "RUNNING": RemotePhase.RUNNING,
    "TERMINATING": RemotePhase.RUNNING,  # its cluster is being cleaned up
}
"""By ``life_cycle_state`` and by ``status.state``, whose words agree."""

_ENDED: Final[Mapping[str, RemotePhase | None]] = {
    "TERMINATED": None,  # the result says more
    "SKIPPED": RemotePhase.FAILED,
    "INTERNAL_ERROR": RemotePhase.RETRYABLE_FAILED,
}

_RESULTS: Final[Mapping[str, RemotePhase]] = {
    "SUCCESS": RemotePhase.SUCCEEDED,
    "SUCCESS_WITH_FAILURES": RemotePhase.SUCCEEDED,
    "CANCELED": RemotePhase.ABORTED,
    "MAXIMUM_CONCURRENT_RUNS_REACHED": RemotePhase.RETRYABLE_FAILED,
    **dict.fromkeys(
        ("FAILED", "TIMEDOUT", "EXCLUDED", "DISABLED", "UPSTREAM_FAILED", "UPSTREAM_CANCELED"), RemotePhase.FAILED
    ),
}
"""By ``result_state``."""

_CODES: Final[Mapping[str, RemotePhase]] = {
    "SUCCESS": RemotePhase.SUCCEEDED,
    "SUCCESS_WITH_FAILURES": RemotePhase.SUCCEEDED,
    "USER_CANCELED": RemotePhase.ABORTED,
    "CANCELED": RemotePhase.ABORTED,
    **dict.fromkeys(
        (
            *("CLOUD_FAILURE", "REPOSITORY_CHECKOUT_FAILED", "BREAKING_CHANGE", "CLUSTER_TERMINATED_BY_USER"),
            *("WORKSPACE_RUN_LIMIT_EXCEEDED", "CLUSTER_REQUEST_LIMIT_EXCEEDED", "MAX_CONCURRENT_RUNS_EXCEEDED"),
            *("MAX_SPARK_CONTEXTS_EXCEEDED", "MAX_JOB_QUEUE_SIZE_EXCEEDED"),
        ),
        RemotePhase.RETRYABLE_FAILED,
    ),
    **dict.fromkeys(
        (
            *("RUN_EXECUTION_ERROR", "UNAUTHORIZED_ERROR", "LIBRARY_INSTALLATION_ERROR", "RESOURCE_NOT_FOUND"),
            *("INVALID_RUN_CONFIGURATION", "INVALID_CLUSTER_REQUEST", "FEATURE_DISABLED", "SKIPPED", "DISABLED"),
            "BUDGET_POLICY_LIMIT_EXCEEDED",
        ),
        RemotePhase.FAILED,
    ),
}
"""By ``termination_details.code``; of the codes that are not here the type decides, also of those to come."""

_TYPES: Final[Mapping[str, RemotePhase]] = {
    "SUCCESS": RemotePhase.SUCCEEDED,
    "CLIENT_ERROR": RemotePhase.FAILED,
    "INTERNAL_ERROR": RemotePhase.RETRYABLE_FAILED,
    "CLOUD_FAILURE": RemotePhase.RETRYABLE_FAILED,  # also the loss of spot instances
}
"""By ``termination_details.type``."""

_PLATFORM_CODES: Final = frozenset({"INTERNAL_ERROR", "DRIVER_ERROR", "CLUSTER_ERROR", "STORAGE_ACCESS_ERROR"})
"""Codes that mean the platform unless the type says that it was the user; such are tried again."""


class RunState(msgspec.Struct, frozen=True):
    life_cycle_state: str = ""
    result_state: str | None = None
    state_message: str | None = None


class TerminationDetails(msgspec.Struct, frozen=True):
    code: str = ""
    type: str = ""
    message: str | None = None


class QueueDetails(msgspec.Struct, frozen=True):
    code: str = ""
    message: str | None = None


class RunStatus(msgspec.Struct, frozen=True):
    state: str = ""
    termination_details: TerminationDetails | None = None
    queue_details: QueueDetails | None = None


class ClusterInstance(msgspec.Struct, frozen=True):
    cluster_id: str | None = None


class RunTask(msgspec.Struct, frozen=True):
    run_id: int
    cluster_instance: ClusterInstance | None = None


class Run(msgspec.Struct, frozen=True):
    """Times in milliseconds; fields that are not named here are passed over."""

    run_id: int
    job_id: int | None = None
    run_page_url: str = ""
    state: RunState | None = None
    status: RunStatus | None = None
    tasks: Sequence[RunTask] = ()
    cluster_instance: ClusterInstance | None = None
    setup_duration: int | None = None
    execution_duration: int | None = None
    queue_duration: int | None = None
    run_duration: int | None = None


class NotebookOutput(msgspec.Struct, frozen=True):
    """What a notebook said with ``dbutils.notebook.exit``."""

    result: str | None = None


class RunOutput(msgspec.Struct, frozen=True):
    """Of ``runs/get-output``."""

    error: str | None = None
    error_trace: str | None = None
    notebook_output: NotebookOutput | None = None


class _Refusal(msgspec.Struct, frozen=True):
    error_code: str | int = ""
    message: str | None = ""


NO_SUCH_RUN: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"})
"""Codes of a call whose only argument is the id of a run. The API answers with the last one, and status 400."""


def refusal_of(response: HttpResponse) -> tuple[str, str]:
    """Code and text of an answer that is no success; no code where it is not of the API's form."""
    try:
        told = response.json(_Refusal)
    except DecodeError:  # of a proxy
        return "", response.text()
    return str(told.error_code), told.message or ""


def resource_of(run: Run) -> Resource:
    """How a task stands whose run is this one; without what the function wrote.

    Raises:
        DecodeError: the run is in a state that is not documented; the message names it.
    """
    phase = _phase_of(run)
    links = [TaskLog(run.run_page_url, "Databricks Console", show_while_pending=True)] if run.run_page_url else []
    return Resource(phase, _message(run, phase), links, custom_info=_told(run))


def _phase_of(run: Run) -> RemotePhase:
    state, status = run.state or RunState(), run.status or RunStatus()
    known = status.state or state.life_cycle_state
    if known in _LIVE:
        return _LIVE[known]
    if known not in _ENDED:
        raise _unknown(run, "state", known)
    details = status.termination_details
    if details is not None and (phase := _phase_of_details(details, state)) is not None:
        return phase
    if (phase := _ENDED.get(state.life_cycle_state)) is not None:
        return phase
    if (phase := _RESULTS.get(state.result_state or "")) is not None:
        return phase
    code = details.code if details is not None else ""
    raise _unknown(run, "result", state.result_state or code or known)


def _phase_of_details(details: TerminationDetails, state: RunState) -> RemotePhase | None:
    if details.code == "CANCELED" and state.result_state == "TIMEDOUT":
        return RemotePhase.FAILED
    if details.code in _CODES:
        return _CODES[details.code]
    if details.code in _PLATFORM_CODES:
        return _TYPES.get(details.type, RemotePhase.RETRYABLE_FAILED)
    return _TYPES.get(details.type)


def _message(run: Run, phase: RemotePhase) -> str:
    state, status = run.state or RunState(), run.status or RunStatus()
    details, queue = status.termination_details, status.queue_details
    if not phase.is_terminal:
        told = (queue.message if queue is not None else None) or state.state_message
        return f"{status.state or state.life_cycle_state}{f': {told}' if told else ''}"
    words = [state.life_cycle_state or status.state, state.result_state or "", details.code if details else ""]
    told = (details.message if details is not None else None) or state.state_message
    return f"run {run.run_id}: {' '.join(dict.fromkeys(filter(None, words)))}{f': {told}' if told else ''}"


def _told(run: Run) -> Mapping[str, Any]:
    details = run.status.termination_details if run.status is not None else None
    cluster = run.cluster_instance or next((task.cluster_instance for task in run.tasks if task.cluster_instance), None)
    told = {
        "run_id": run.run_id,
        "job_id": run.job_id,
        "cluster_id": cluster.cluster_id if cluster is not None else None,
        "termination_code": details.code if details is not None else None,
        "termination_type": details.type if details is not None else None,
        "queue_ms": run.queue_duration,
        "setup_ms": run.setup_duration,
        "execution_ms": run.execution_duration,
        "run_ms": run.run_duration,
    }
    return {name: value for name, value in told.items() if value is not None}


def _unknown(run: Run, what: str, value: str) -> DecodeError:
    return DecodeError(f"Databricks' run {run.run_id}", f"unknown {what} '{value[:200]}'")
