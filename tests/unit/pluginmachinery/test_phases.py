"""Phases and the verdicts made of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.phases import (
    ErrorKind,
    ExecutionError,
    Phase,
    PhaseInfo,
    PluginState,
    TaskInfo,
    bump_version_on_new_reason,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EARLIER = datetime(2025, 1, 1, tzinfo=UTC)


def test_there_are_eleven_phases_in_the_order_of_the_wire() -> None:
    assert [phase.wire_name for phase in Phase] == [
        "PhaseUndefined",
        "PhaseNotReady",
        "PhaseWaitingForResources",
        "PhaseQueued",
        "PhaseInitializing",
        "PhaseRunning",
        "PhaseSuccess",
        "PhaseRetryableFailure",
        "PhasePermanentFailure",
        "PhaseWaitingForCache",
        "PhaseAborted",
    ]
    assert [int(phase) for phase in Phase] == list(range(11))


def test_a_phase_is_found_by_its_wire_name() -> None:
    assert [Phase.from_wire_name(phase.wire_name) for phase in Phase] == list(Phase)
    with pytest.raises(KeyError):
        Phase.from_wire_name("Running")


def test_predicates_say_which_phases_they_hold_for() -> None:
    assert {p for p in Phase if p.is_terminal} == {
        Phase.SUCCESS,
        Phase.RETRYABLE_FAILURE,
        Phase.PERMANENT_FAILURE,
        Phase.ABORTED,
    }
    assert {p for p in Phase if p.is_failure} == {Phase.RETRYABLE_FAILURE, Phase.PERMANENT_FAILURE}
    assert {p for p in Phase if p.is_success} == {Phase.SUCCESS}
    assert {p for p in Phase if p.is_aborted} == {Phase.ABORTED}
    assert {p for p in Phase if p.is_waiting_for_resources} == {Phase.WAITING_FOR_RESOURCES}


@pytest.mark.parametrize(
    ("made", "phase", "version", "reason"),
    [
        (phases.not_ready(NOW, 2, "why"), Phase.NOT_READY, 2, "why"),
        (phases.waiting_for_resources(NOW, 2, "why"), Phase.WAITING_FOR_RESOURCES, 2, "why"),
        (phases.queued(NOW, 2, "why"), Phase.QUEUED, 2, "why"),
        (phases.initializing(NOW, 2, "why"), Phase.INITIALIZING, 2, "why"),
        (phases.running(NOW, 2), Phase.RUNNING, 2, ""),
        (phases.success(NOW), Phase.SUCCESS, 0, ""),
        (phases.aborted(NOW, 2, "why"), Phase.ABORTED, 2, "why"),
        (phases.waiting_for_cache(NOW, 2), Phase.WAITING_FOR_CACHE, 2, ""),
    ],
)
def test_a_verdict_without_an_error(made: PhaseInfo, phase: Phase, version: int, reason: str) -> None:
    assert made == PhaseInfo(phase, version, reason, info=TaskInfo(occurred_at=NOW))


@pytest.mark.parametrize("cleanup", [False, True])
@pytest.mark.parametrize(
    ("make", "phase", "kind"),
    [
        (phases.failure, Phase.PERMANENT_FAILURE, ErrorKind.USER),
        (phases.system_failure, Phase.PERMANENT_FAILURE, ErrorKind.SYSTEM),
        (phases.retryable_failure, Phase.RETRYABLE_FAILURE, ErrorKind.USER),
        (phases.system_retryable_failure, Phase.RETRYABLE_FAILURE, ErrorKind.SYSTEM),
    ],
)
def test_a_failure_explains_itself_in_its_error(
    make: Callable[..., PhaseInfo],
    phase: Phase,
    kind: ErrorKind,
    cleanup: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    made = make("Code", "message", NOW, cleanup=cleanup)
    assert made == PhaseInfo(
        phase,
        error=ExecutionError("Code", "message", kind),
        info=TaskInfo(occurred_at=NOW),
        cleanup_on_failure=cleanup,
    )


def test_a_failure_that_says_nothing_is_unknown() -> None:
    made = phases.failure("", "", NOW)
    assert made.error == ExecutionError("Unknown", "Unknown error message", ErrorKind.USER)


def test_a_failure_takes_an_error_that_is_there() -> None:
    error = ExecutionError("ValueError", "bad", ErrorKind.USER)
    assert phases.failed(Phase.RETRYABLE_FAILURE, error, NOW).error is error
    assert phases.failed(Phase.PERMANENT_FAILURE, None, NOW).error is None
    with pytest.raises(ValueError, match="SUCCESS is not a failure"):
        phases.failed(Phase.SUCCESS, error, NOW)


def test_a_time_that_is_known_is_kept() -> None:
    known = TaskInfo(occurred_at=EARLIER)
    assert phases.running(NOW, 0, known).info is known
    unknown = TaskInfo(custom_info={"a": 1})
    assert phases.running(NOW, 0, unknown).info == TaskInfo(occurred_at=NOW, custom_info={"a": 1})
    assert unknown.occurred_at is None


def test_reasons_are_added_and_versions_replaced() -> None:
    made = phases.failure("Code", "message", NOW, cleanup=True).with_reason("one").with_reason("two").with_version(3)
    assert (made.reason, made.version, made.cleanup_on_failure) == ("one, two", 3, True)


@pytest.mark.parametrize(
    ("last", "version"),
    [
        (PluginState(Phase.QUEUED, 4, "before"), 5),
        (PluginState(Phase.QUEUED, 4, "now"), 2),
        (PluginState(Phase.QUEUED, 1, "before"), 2),
        (PluginState(Phase.RUNNING, 4, "before"), 2),
    ],
)
def test_a_new_reason_within_a_phase_is_worth_a_version(last: PluginState, version: int) -> None:
    assert bump_version_on_new_reason(phases.queued(NOW, 2, "now"), last).version == version
