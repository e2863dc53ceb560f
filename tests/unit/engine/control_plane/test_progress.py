"""What events make of an action."""

from __future__ import annotations

from flyteidl2.common.phase_pb2 import (
    ACTION_PHASE_ABORTED as ABORTED,
)
from flyteidl2.common.phase_pb2 import (
    ACTION_PHASE_FAILED as FAILED,
)
from flyteidl2.common.phase_pb2 import (
    ACTION_PHASE_QUEUED as QUEUED,
)
from flyteidl2.common.phase_pb2 import (
    ACTION_PHASE_RUNNING as RUNNING,
)
from flyteidl2.common.phase_pb2 import (
    ACTION_PHASE_SUCCEEDED as SUCCEEDED,
)
from flyteidl2.workflow import run_definition_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.control_plane import progress
from propfan.engine.control_plane.ledger import ToldEvent
from propfan.engine.control_plane.records import ActionRecord
from tests.unit.engine.control_plane.messages import action_record, run_record, told


def advance(record: ActionRecord, *events: ToldEvent) -> list[bool]:
    return [progress.advance(record.details, record.update, one.event, is_final=one.is_final) for one in events]


def transitions(record: ActionRecord, attempt: int = 0) -> list[int]:
    return [transition.phase for transition in record.details.attempts[attempt].phase_transitions]


def test_a_healthy_action_goes_through_its_phases() -> None:
    record = action_record(run_record())
    end = told(SUCCEEDED, after_s=5)
    end.event.outputs.output_uri = "s3://b/x/1/outputs.pb"
    assert advance(record, told(QUEUED), told(RUNNING, after_s=2), end) == [True] * 3
    assert transitions(record) == [QUEUED, RUNNING, SUCCEEDED]
    assert (record.is_over, record.details.status.duration_ms) == (True, 5000)
    assert (record.update.phase, record.update.output_uri) == (SUCCEEDED, "s3://b/x/1")


def test_repeats_and_old_news_change_nothing() -> None:
    record = action_record(run_record())
    advance(record, told(QUEUED, after_s=1), told(RUNNING, after_s=3))
    before = record.details.SerializeToString(deterministic=True)
    assert advance(record, told(QUEUED, after_s=1)) == [False]
    assert record.details.SerializeToString(deterministic=True) == before


def test_a_time_without_fractions_is_not_taken_for_old_news() -> None:
    record = action_record(run_record())
    advance(record, told(QUEUED, after_s=1.9), told(RUNNING, after_s=1.0))
    assert transitions(record) == [QUEUED, RUNNING]
    first, second = record.details.attempts[0].phase_transitions
    assert first.end_time == second.start_time == first.start_time


def test_an_attempt_that_is_followed_by_another_leaves_the_action_waiting() -> None:
    record = action_record(run_record())
    failed = told(FAILED, after_s=2, is_final=False)
    failed.event.error_info.message = "once"
    advance(record, told(RUNNING), failed)
    assert (record.is_over, record.update.phase, record.update.HasField("error")) == (False, QUEUED, False)
    advance(record, told(RUNNING, attempt=2, after_s=3), told(SUCCEEDED, attempt=2, after_s=4))
    assert (record.details.status.attempts, record.details.status.phase) == (2, SUCCEEDED)
    assert [attempt.error_info.message for attempt in record.details.attempts] == ["once", ""]


def test_the_parent_is_told_of_the_error() -> None:
    record = action_record(run_record())
    failed = told(FAILED, after_s=2)
    error = failed.event.error_info
    error.code, error.message, error.kind = "ValueError", "no", run_definition_pb2.ErrorInfo.KIND_USER
    advance(record, failed)
    assert (record.update.error.code, record.update.error.message, record.update.error.kind) == ("ValueError", "no", 1)
    assert record.details.error_info.message == "no"


def test_an_error_without_a_code_still_has_one() -> None:
    record = action_record(run_record())
    advance(record, told(ABORTED, after_s=2))
    assert record.update.error.code == "Aborted"
    assert record.details.WhichOneof("result") == "abort_info"


def test_nothing_comes_after_the_end() -> None:
    record = action_record(run_record())
    assert advance(record, told(SUCCEEDED, after_s=2), told(RUNNING, after_s=3)) == [True, False]
    assert record.details.status.phase == SUCCEEDED


@given(st.lists(st.sampled_from([QUEUED, RUNNING]), max_size=6), st.integers(0, 6))
def test_a_batch_that_is_sent_again_makes_no_difference(phases: list[int], repeated: int) -> None:
    events = [told(phase, after_s=number + 1.0) for number, phase in enumerate([*phases, SUCCEEDED])]
    once, twice = action_record(run_record()), action_record(run_record())
    advance(once, *events)
    advance(twice, *events[:repeated], *events)
    assert once.details == twice.details
    assert once.update == twice.update
