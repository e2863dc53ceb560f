"""Every move of a job, and what holds in any order of events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.web import machine
from propfan.engine.web.machine import TRANSITIONS, Accepted, CallEvent, Declined, Told, Unanswered, Unseen, step
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.errors import InvalidTransitionError
from propfan.pluginmachinery.phases import ErrorKind, Phase
from propfan.pluginmachinery.web_plugin import WebPhase, WebPluginState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREATING = WebPluginState(WebPhase.CREATING, "key")
CREATED = WebPluginState(WebPhase.RESOURCES_CREATED, "key", b"meta")

EXAMPLES: dict[type[CallEvent], CallEvent] = {
    Accepted: Accepted(b"meta"),
    Declined: Declined(phases.failure("Code", "no", NOW)),
    Unanswered: Unanswered("slow", counts=True),
    Told: Told(phases.running(NOW, 0)),
    Unseen: Unseen("Code", "down"),
}


@pytest.mark.parametrize(("phase", "event"), TRANSITIONS, ids=lambda it: getattr(it, "name", None) or it.__name__)
def test_every_move_ends_in_a_phase_that_has_moves_or_is_over(phase: WebPhase, event: type[CallEvent]) -> None:
    taken = step(WebPluginState(phase, "key", b"meta"), EXAMPLES[event], 5, NOW)
    reached = taken.state.phase
    assert reached.is_terminal or any(start is reached for start, _ in TRANSITIONS)
    assert taken.info is not None or taken.waiting_for


@pytest.mark.parametrize("phase", [phase for phase in WebPhase if not phase.is_terminal])
@pytest.mark.parametrize("event", EXAMPLES.values(), ids=lambda event: type(event).__name__)
def test_what_can_not_happen_is_a_bug_with_a_name(phase: WebPhase, event: CallEvent) -> None:
    if (phase, type(event)) in TRANSITIONS:
        return
    with pytest.raises(InvalidTransitionError, match=f"no move from {phase.name} on {type(event).__name__}"):
        step(WebPluginState(phase, "key"), event, 5, NOW)


@pytest.mark.parametrize("event", EXAMPLES.values(), ids=lambda event: type(event).__name__)
def test_job_that_is_over_stays_as_it_is(event: CallEvent) -> None:
    for phase in (WebPhase.SUCCEEDED, WebPhase.USER_FAILURE, WebPhase.SYSTEM_FAILURE):
        over = WebPluginState(phase, "key", b"meta")
        assert step(over, event, 0, NOW) == machine.WebStep(over)


def test_accepted_job_is_queued_and_remembered() -> None:
    taken = step(msgspec.structs.replace(CREATING, failures=2, problem="slow"), Accepted(b"m"), 5, NOW)
    assert taken.state == WebPluginState(WebPhase.RESOURCES_CREATED, "key", b"m")
    assert taken.info is not None
    assert (taken.info.phase, taken.info.version, taken.info.reason) == (Phase.QUEUED, 2, "launched")


def test_only_slow_answers_use_up_the_chances_of_a_creation() -> None:
    state = CREATING
    for _ in range(100):
        state = step(state, Unanswered("down", counts=False, retry_after_s=3.0), 1, NOW).state
    assert (state.phase, state.failures) == (WebPhase.CREATING, 0)
    first = step(state, Unanswered("slow", counts=True, retry_after_s=3.0), 1, NOW)
    assert (first.info, first.waiting_for, first.retry_after_s) == (None, "slow", 3.0)
    last = step(first.state, Unanswered("slow", counts=True), 1, NOW)
    assert last.state.phase is WebPhase.SYSTEM_FAILURE
    assert last.info is not None
    assert last.info.error is not None
    assert (last.info.error.code, last.info.error.kind) == (machine.CREATION_UNANSWERED, ErrorKind.SYSTEM)


@pytest.mark.parametrize(
    ("info", "reached"),
    [
        (phases.queued(NOW, 0, "why"), WebPhase.RESOURCES_CREATED),
        (phases.running(NOW, 0), WebPhase.RESOURCES_CREATED),
        (phases.success(NOW), WebPhase.SUCCEEDED),
        (phases.failure("Code", "no", NOW), WebPhase.USER_FAILURE),
        (phases.retryable_failure("Code", "no", NOW), WebPhase.USER_FAILURE),
        (phases.aborted(NOW, 0, "why"), WebPhase.USER_FAILURE),
    ],
    ids=lambda it: getattr(getattr(it, "phase", it), "name", None),
)
def test_verdict_decides_whether_the_job_is_over(info: phases.PhaseInfo, reached: WebPhase) -> None:
    taken = step(msgspec.structs.replace(CREATED, failures=3, problem="down"), Told(info, 7), 5, NOW)
    assert taken.info is info
    assert taken.state == WebPluginState(reached, "key", b"meta", links_digest=7)


@pytest.mark.parametrize("allowed", [0, 1, 5])
def test_one_failed_look_more_than_allowed_ends_the_task(allowed: int) -> None:
    state = CREATED
    for failures in range(1, allowed + 1):
        taken = step(state, Unseen("Code", "down"), allowed, NOW)
        state = taken.state
        assert (taken.info, taken.waiting_for, state.failures) == (None, "down", failures)
    last = step(state, Unseen("Code", "gone"), allowed, NOW)
    assert last.state.phase is WebPhase.SYSTEM_FAILURE
    assert last.info is not None
    assert last.info.error is not None
    assert last.info.cleanup_on_failure
    assert last.info.error.code == "AutoRefreshCacheFailed"
    assert last.info.error.message == f"{allowed + 1} looks at the job in a row failed, the last: gone"


def test_look_that_can_never_succeed_ends_the_task_with_its_own_code() -> None:
    last = step(CREATED, Unseen("MessageTooLarge", "10 MiB", is_final=True), 5, NOW)
    assert last.info is not None
    assert last.info.error is not None
    assert (last.info.error.code, last.info.error.message) == ("MessageTooLarge", "10 MiB")


@given(st.lists(st.sampled_from([*EXAMPLES.values(), Told(phases.success(NOW)), Unanswered("down", counts=False)])))
def test_job_ends_once_and_a_known_meta_is_never_lost(events: list[Any]) -> None:
    state, ended = CREATING, 0
    for event in events:
        try:
            taken = step(state, event, 2, NOW)
        except InvalidTransitionError:
            continue
        was_over = state.phase.is_terminal
        ended += taken.state.phase.is_terminal and not was_over
        assert not (was_over and taken.state != state)
        assert state.resource_meta is None or taken.state.resource_meta == state.resource_meta
        assert taken.state.phase >= state.phase
        assert taken.state.idempotency_key == "key"
        if taken.state.phase.is_terminal and not was_over:
            assert taken.info is not None
            assert taken.info.phase.is_terminal
        state = taken.state
    assert ended <= 1


@pytest.mark.parametrize(
    ("phase", "may_run"),
    [
        (WebPhase.NOT_STARTED, False),
        (WebPhase.CREATING, True),
        (WebPhase.RESOURCES_CREATED, True),
        (WebPhase.SUCCEEDED, False),
        (WebPhase.USER_FAILURE, False),
        (WebPhase.SYSTEM_FAILURE, True),
    ],
)
def test_job_may_run_unless_it_was_seen_to_end_or_never_was(phase: WebPhase, may_run: bool) -> None:  # noqa: FBT001
    assert machine.may_run(WebPluginState(phase)) is may_run
