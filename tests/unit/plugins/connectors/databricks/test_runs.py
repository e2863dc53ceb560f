"""What each documented state and code of a run means for a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.errors import DecodeError
from propfan.plugins.connectors.databricks.runs import Run, resource_of
from tests.unit.plugins.connectors.databricks.fake_databricks import ended

ABORTED, FAILED, RETRYABLE = RemotePhase.ABORTED, RemotePhase.FAILED, RemotePhase.RETRYABLE_FAILED
SUCCEEDED, QUEUED, RUNNING = RemotePhase.SUCCEEDED, RemotePhase.QUEUED, RemotePhase.RUNNING

CODES: Mapping[str, RemotePhase] = {
    "SUCCESS": SUCCEEDED,
    "SUCCESS_WITH_FAILURES": SUCCEEDED,
    "USER_CANCELED": ABORTED,
    "CANCELED": ABORTED,
    "SKIPPED": FAILED,
    "INTERNAL_ERROR": RETRYABLE,
    "DRIVER_ERROR": RETRYABLE,
    "CLUSTER_ERROR": RETRYABLE,
    "REPOSITORY_CHECKOUT_FAILED": RETRYABLE,
    "INVALID_CLUSTER_REQUEST": FAILED,
    "WORKSPACE_RUN_LIMIT_EXCEEDED": RETRYABLE,
    "FEATURE_DISABLED": FAILED,
    "CLUSTER_REQUEST_LIMIT_EXCEEDED": RETRYABLE,
    "STORAGE_ACCESS_ERROR": RETRYABLE,
    "RUN_EXECUTION_ERROR": FAILED,
    "UNAUTHORIZED_ERROR": FAILED,
    "LIBRARY_INSTALLATION_ERROR": FAILED,
    "MAX_CONCURRENT_RUNS_EXCEEDED": RETRYABLE,
    "MAX_SPARK_CONTEXTS_EXCEEDED": RETRYABLE,
    "RESOURCE_NOT_FOUND": FAILED,
    "INVALID_RUN_CONFIGURATION": FAILED,
    "CLOUD_FAILURE": RETRYABLE,
    "MAX_JOB_QUEUE_SIZE_EXCEEDED": RETRYABLE,
    "DISABLED": FAILED,
    "BREAKING_CHANGE": RETRYABLE,
    "CLUSTER_TERMINATED_BY_USER": RETRYABLE,
    "BUDGET_POLICY_LIMIT_EXCEEDED": FAILED,
}
"""All that https://docs.databricks.com/api/workspace/jobs/getrun lists."""


def phase(**told: Any) -> RemotePhase:
    return resource_of(msgspec.convert({"run_id": 7, **told}, Run)).phase


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("QUEUED", QUEUED),
        ("BLOCKED", QUEUED),
        ("WAITING_FOR_RETRY", QUEUED),
        ("PENDING", RemotePhase.INITIALIZING),
        ("RUNNING", RUNNING),
        ("TERMINATING", RUNNING),
        ("SKIPPED", FAILED),
        ("INTERNAL_ERROR", RETRYABLE),
    ],
)
def test_life_cycle_state_tells_the_phase(state: str, expected: RemotePhase) -> None:
    assert phase(state={"life_cycle_state": state}) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("QUEUED", QUEUED),
        ("BLOCKED", QUEUED),
        ("WAITING", QUEUED),
        ("PENDING", RemotePhase.INITIALIZING),
        ("RUNNING", RUNNING),
        ("TERMINATING", RUNNING),
    ],
)
def test_status_tells_the_phase_without_the_older_state(state: str, expected: RemotePhase) -> None:
    assert phase(status={"state": state}) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("SUCCESS", SUCCEEDED),
        ("SUCCESS_WITH_FAILURES", SUCCEEDED),
        ("FAILED", FAILED),
        ("TIMEDOUT", FAILED),
        ("CANCELED", ABORTED),
        ("MAXIMUM_CONCURRENT_RUNS_REACHED", RETRYABLE),
        ("EXCLUDED", FAILED),
        ("DISABLED", FAILED),
        ("UPSTREAM_FAILED", FAILED),
        ("UPSTREAM_CANCELED", FAILED),
    ],
)
def test_result_state_decides_where_there_are_no_details(result: str, expected: RemotePhase) -> None:
    assert phase(state={"life_cycle_state": "TERMINATED", "result_state": result}) == expected


@pytest.mark.parametrize(("code", "expected"), CODES.items())
def test_code_of_the_termination_decides(code: str, expected: RemotePhase) -> None:
    details = {"code": code, "type": "", "message": "m"}
    assert phase(status={"state": "TERMINATED", "termination_details": details}) == expected


@pytest.mark.parametrize("code", ["CLUSTER_ERROR", "DRIVER_ERROR"])
def test_what_is_the_users_fault_is_not_tried_again(code: str) -> None:
    assert phase(**ended("FAILED", code, "CLIENT_ERROR")) == FAILED
    assert phase(**ended("FAILED", code, "CLOUD_FAILURE")) == RETRYABLE


@pytest.mark.parametrize(
    ("kind", "expected"), [("CLOUD_FAILURE", RETRYABLE), ("INTERNAL_ERROR", RETRYABLE), ("CLIENT_ERROR", FAILED)]
)
def test_type_decides_for_codes_that_are_still_to_come(kind: str, expected: RemotePhase) -> None:
    assert phase(**ended("FAILED", "CODE_OF_2030", kind)) == expected


def test_result_decides_where_code_and_type_are_unknown() -> None:
    assert phase(**ended("SUCCESS", "CODE_OF_2030", "TYPE_OF_2030")) == SUCCEEDED


def test_timeout_is_no_cancellation() -> None:
    assert phase(**ended("TIMEDOUT", "CANCELED", "CLIENT_ERROR")) == FAILED


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"state": {"life_cycle_state": "DREAMING"}},
        {"status": {"state": "DREAMING"}},
        {"state": {"life_cycle_state": "TERMINATED", "result_state": "DREAMING"}},
        {"status": {"state": "TERMINATED", "termination_details": {"code": "DREAMING", "type": "X"}}},
    ],
)
def test_unknown_state_is_an_error_that_names_it(told: Mapping[str, Any]) -> None:
    with pytest.raises(DecodeError, match=r"run 7: unknown (state|result) '(DREAMING|)'"):
        phase(**told)


def test_message_has_code_and_text_and_the_page_is_linked() -> None:
    told = ended("FAILED", "CLUSTER_ERROR", "CLOUD_FAILURE", "no such machine")
    run = msgspec.convert(
        {"run_id": 7, "run_page_url": "https://dbc/#job/5/run/7", "setup_duration": 3, "run_duration": 9, **told}, Run
    )
    resource = resource_of(run)
    assert resource.message == "run 7: TERMINATED FAILED CLUSTER_ERROR: no such machine"
    assert [link.uri for link in resource.log_links] == ["https://dbc/#job/5/run/7"]
    assert resource.custom_info == {
        "run_id": 7,
        "termination_code": "CLUSTER_ERROR",
        "termination_type": "CLOUD_FAILURE",
        "setup_ms": 3,
        "run_ms": 9,
    }


def test_reason_to_wait_is_told() -> None:
    status = {"state": "QUEUED", "queue_details": {"code": "ACTIVE_RUNS_LIMIT_REACHED", "message": "too many runs"}}
    assert resource_of(msgspec.convert({"run_id": 7, "status": status}, Run)).message == "QUEUED: too many runs"
