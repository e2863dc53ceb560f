"""Conditions, history, budgets and limits as clients see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from propfan.engine import machine, verdicts
from propfan.engine.task_state import (
    AbortRequested,
    Admitted,
    Backoff,
    Collected,
    Event,
    Faulted,
    Launched,
    Limits,
    ObjectGone,
    ObjectLost,
    Observed,
    Outcome,
    Persist,
    Report,
    Signaled,
    Stage,
    TaskState,
    TimedOut,
    TimeLimit,
)
from propfan.pluginmachinery.contexts import ExecutionErrorDocument
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EXIT_1 = ExecutionError("Exit1", "exit code 1")
EVICTED = ExecutionError("Evicted", "node gone", ErrorKind.SYSTEM)


def after(*events: Event, limits: Limits | None = None, condition: bool = False) -> TaskState:
    state = TaskState("ns/r1-a0", limits or Limits(max_attempts=2), NOW)
    for number, event in enumerate((Admitted("" if condition else "pod", is_condition=condition), *events)):
        state = machine.step(state, event, NOW + timedelta(seconds=number)).state
    return state


def shown(state: TaskState) -> dict[str, tuple[str, str, str]]:
    return {c.type: (c.status, c.reason, c.message) for c in state.conditions}


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        (Phase.NOT_READY, "Queued"),
        (Phase.QUEUED, "Queued"),
        (Phase.WAITING_FOR_RESOURCES, "Queued"),
        (Phase.INITIALIZING, "Initializing"),
        (Phase.RUNNING, "Executing"),
    ],
)
def test_a_phase_that_goes_on_is_progressing(phase: Phase, reason: str) -> None:
    state = after(Launched(), Observed(phase, version=7, reason="why"))
    assert shown(state) == {"Progressing": ("True", reason, "why")}
    assert state.history[-1].phase == reason


def test_success() -> None:
    state = after(Launched(), Observed(Phase.SUCCESS), Collected())
    assert shown(state) == {
        "Progressing": ("False", "Completed", "TaskAction has completed"),
        "Succeeded": ("True", "Completed", "TaskAction completed successfully"),
    }
    assert (state.history[-1].phase, state.history[-1].message) == ("Completed", "TaskAction completed successfully")
    assert state.error is None


def test_a_permanent_failure_shows_its_error_everywhere() -> None:
    state = after(Launched(), Observed(Phase.PERMANENT_FAILURE, error=EXIT_1), Collected())
    failed = ("PermanentFailure", "exit code 1")
    assert shown(state) == {"Progressing": ("False", *failed), "Failed": ("True", *failed)}
    assert state.error == EXIT_1


def test_a_retryable_failure_leaves_its_error_and_history_says_queued() -> None:
    state = after(Launched(), Observed(Phase.RUNNING), Observed(Phase.RETRYABLE_FAILURE, error=EXIT_1), Collected())
    assert shown(state) == {"Progressing": ("True", "RetryableFailure", "exit code 1")}
    assert [entry.phase for entry in state.history] == ["Queued", "Executing", "Queued"]
    assert (state.attempt, state.error, state.attempt_errors) == (2, EXIT_1, ("attempt 1: [Exit1] exit code 1",))


def test_an_abort_says_why() -> None:
    state = after(Launched(), AbortRequested("enough"))
    aborted = ("Aborted", "TaskAction was aborted: enough")
    assert shown(state) == {"Progressing": ("False", *aborted), "Failed": ("True", *aborted)}
    assert state.remove_object


def test_a_condition_action_is_paused_and_then_signalled() -> None:
    state = after(condition=True)
    assert shown(state) == {"Progressing": ("True", "Paused", "waiting for signal")}
    state = after(Signaled("ann"), condition=True)
    assert shown(state)["Succeeded"] == ("True", "Signaled", 'condition signalled by "ann"')
    assert [entry.phase for entry in state.history] == ["Paused", "Signaled"]


def test_the_transition_time_changes_with_the_status_only() -> None:
    state = after(Launched(), Observed(Phase.RUNNING), Observed(Phase.SUCCESS), Collected())
    progressing = next(c for c in state.conditions if c.type == "Progressing")
    assert progressing.last_transition_time == NOW + timedelta(seconds=4)
    state = after(Launched(), Observed(Phase.RUNNING))
    assert state.conditions[0].last_transition_time == NOW + timedelta(seconds=1)


def test_the_engines_retries_are_counted_over_the_whole_life() -> None:
    """A healthy round between two failures gives nothing back."""
    state = after(Launched(), limits=Limits(max_system_failures=3))
    for spent in (1, 2, 3):
        state = machine.step(state, Observed(Phase.RUNNING, version=spent), NOW).state
        state = machine.step(state, ObjectLost("ResourceDeletedExternally", "gone"), NOW).state
        assert (state.stage, state.system_failures, state.attempt) == (Stage.CLEANING, spent, 1)
        state = machine.step(state, ObjectGone(), NOW).state
        state = machine.step(state, Launched(), NOW).state
    state = machine.step(state, ObjectLost("ResourceDeletedExternally", "gone"), NOW).state
    assert state.outcome is Outcome.FAILED
    assert state.error is not None
    assert (state.error.code, state.error.kind) == ("MaxSystemFailuresExceeded", ErrorKind.SYSTEM)
    assert state.error.message == 'plugin "pod" failed with system error 4 times: [ResourceDeletedExternally] gone'


def test_a_system_failure_costs_no_attempt_and_tells_no_failure() -> None:
    state = after(Launched(), Observed(Phase.RETRYABLE_FAILURE, error=EVICTED))
    step = machine.step(state, Collected(), NOW)
    assert (step.state.attempt, step.state.system_failures) == (1, 1)
    assert [c.phase for c in step.commands if isinstance(c, Report)] == [Phase.QUEUED]
    assert step.commands[-1] == Persist(urgent=True)


@pytest.mark.parametrize("code", ["BadTaskSpecification", "MetadataTooLarge"])
def test_what_no_retry_can_mend_fails_at_once_as_the_users(code: str) -> None:
    state = after(Launched(), Faulted(code, "never"))
    assert state.error == ExecutionError(code, "never", ErrorKind.USER)
    assert state.outcome is Outcome.FAILED


def test_an_error_document_decides_over_success_and_over_the_objects_own_error() -> None:
    document = ExecutionErrorDocument(ExecutionError("Mine", "said so"), is_recoverable=False)
    for phase in (Phase.SUCCESS, Phase.RETRYABLE_FAILURE):
        state = after(Launched(), Observed(phase, error=EXIT_1), Collected(document))
        assert (state.outcome, state.error) == (Outcome.FAILED, document.error)


def test_a_failed_attempt_is_told_before_the_next_one() -> None:
    state = after(Launched(), Observed(Phase.RETRYABLE_FAILURE, error=EXIT_1))
    told = [c for c in machine.step(state, Collected(), NOW).commands if isinstance(c, Report)]
    assert [(r.attempt, r.phase, r.outcome) for r in told] == [
        (1, Phase.RETRYABLE_FAILURE, None),
        (2, Phase.QUEUED, None),
    ]
    assert told[0].error == EXIT_1


def test_a_back_off_grows_with_the_attempts_up_to_its_cap() -> None:
    backoff = Backoff(base_s=2.0, factor=3.0, cap_s=10.0)
    assert [backoff.wait_s(attempt) for attempt in (1, 2, 3, 50)] == [2.0, 6.0, 10.0, 10.0]
    assert Backoff().wait_s(5) == 0.0


@pytest.mark.parametrize(
    ("limit", "code", "outcome"),
    [
        (TimeLimit.ATTEMPT, "AttemptTimedOut", None),
        (TimeLimit.QUEUED, "QueuedTimedOut", None),
        (TimeLimit.DEADLINE, "DeadlineExceeded", Outcome.TIMED_OUT),
    ],
)
def test_a_limit_of_the_attempt_costs_the_attempt_and_the_deadline_ends_it_all(
    limit: TimeLimit, code: str, outcome: Outcome | None
) -> None:
    limits = Limits(max_attempts=2, attempt_timeout_s=1, queued_timeout_s=1, deadline_s=9)
    state = after(Launched(), TimedOut(limit), limits=limits)
    assert (state.outcome, state.error.code if state.error else "") == (outcome, code)
    if outcome is None:
        assert (state.stage, state.removing_attempt, state.attempt) == (Stage.CLEANING, 1, 2)
        state = machine.step(state, TimedOut(limit), NOW).state
        assert state.outcome is Outcome.TIMED_OUT, "the last attempt's limit is the task's"


def test_limits_count_from_their_own_beginnings() -> None:
    limits = Limits(attempt_timeout_s=10, queued_timeout_s=20, deadline_s=100)
    queued = after(Launched(), limits=limits)
    assert machine.reached_limit(queued, NOW + timedelta(seconds=19)) is None
    assert machine.reached_limit(queued, NOW + timedelta(seconds=20)) is TimeLimit.QUEUED
    runs = after(Launched(), Observed(Phase.RUNNING), limits=limits)
    assert machine.reached_limit(runs, NOW + timedelta(seconds=11)) is None
    assert machine.reached_limit(runs, NOW + timedelta(seconds=12)) is TimeLimit.ATTEMPT
    assert machine.reached_limit(runs, NOW + timedelta(seconds=100)) is TimeLimit.DEADLINE


def test_history_keeps_its_beginning_and_its_end() -> None:
    state = after(Launched(), limits=Limits(max_attempts=1))
    for number in range(3 * verdicts.MAX_HISTORY):
        phase = (Phase.INITIALIZING, Phase.RUNNING)[number % 2]
        state = machine.step(state, Observed(phase, version=number), NOW + timedelta(seconds=number)).state
    assert len(state.history) == verdicts.MAX_HISTORY
    assert state.history[0].phase == "Queued"
    assert state.history[-1].phase == "Executing"
