"""Events: what identifies them, which phase the control plane is told, and that they can always be sent."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import msgspec
import pytest
from flyteidl2.common import phase_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.task_events import MAX_CHARS, ActionPhase, Identity, TaskEvent, action_phase, readable, to_event
from propfan.engine.task_state import Outcome, Report
from propfan.pluginmachinery.phases import (
    ErrorKind,
    ExecutionError,
    LogContext,
    Phase,
    ReasonInfo,
    TaskInfo,
    TaskLog,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDENTITY = Identity("ns", "r1-a0", "u1", "r1", "a0", "p", "d")


def report(phase: Phase = Phase.RUNNING, **values: object) -> Report:
    return msgspec.structs.replace(Report(1, phase, 0, NOW), **values)


def test_phases_are_those_of_the_wire() -> None:
    wire = phase_pb2.ActionPhase.DESCRIPTOR.values_by_name
    assert {f"ACTION_PHASE_{phase.name}": phase.value for phase in ActionPhase} == {
        name: value.number for name, value in wire.items()
    }


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_one_for_the_control_plane(phase: Phase) -> None:
    expected = {
        Phase.UNDEFINED: ActionPhase.UNSPECIFIED,
        Phase.NOT_READY: ActionPhase.QUEUED,
        Phase.QUEUED: ActionPhase.QUEUED,
        Phase.WAITING_FOR_RESOURCES: ActionPhase.WAITING_FOR_RESOURCES,
        Phase.WAITING_FOR_CACHE: ActionPhase.WAITING_FOR_RESOURCES,
        Phase.INITIALIZING: ActionPhase.INITIALIZING,
        Phase.RUNNING: ActionPhase.RUNNING,
        Phase.SUCCESS: ActionPhase.SUCCEEDED,
        Phase.RETRYABLE_FAILURE: ActionPhase.FAILED,
        Phase.PERMANENT_FAILURE: ActionPhase.FAILED,
        Phase.ABORTED: ActionPhase.ABORTED,
    }
    assert action_phase(report(phase)) is expected[phase]


def test_paused_and_timed_out_are_told_as_such() -> None:
    assert action_phase(report(Phase.NOT_READY, reason="waiting for signal")) is ActionPhase.PAUSED
    assert action_phase(report(Phase.PERMANENT_FAILURE, outcome=Outcome.TIMED_OUT)) is ActionPhase.TIMED_OUT


def test_event_carries_what_the_report_says() -> None:
    error = ExecutionError("Code", "message", ErrorKind.USER)
    info = TaskInfo(logs=(TaskLog("http://logs"),), log_context=LogContext(primary_pod_name="pod"))
    reasons = (ReasonInfo("pulled", NOW),)
    told = to_event(
        IDENTITY,
        report(
            Phase.PERMANENT_FAILURE,
            version=3,
            reason="why",
            error=error,
            outcome=Outcome.FAILED,
            cache_status="CACHE_MISS",
            info=info,
            reasons=reasons,
        ),
        "s3://out",
    )
    assert told == TaskEvent(
        "ns", "r1-a0", "u1", "r1", "a0", "p", "d", 1, ActionPhase.FAILED, Phase.PERMANENT_FAILURE, 3, NOW, True, "why",
        error, "CACHE_MISS", "s3://out", info.logs, info.log_context, reasons,
    )  # fmt: skip
    assert not to_event(IDENTITY, report()).is_final


def test_key_tells_task_attempt_phase_and_version_apart() -> None:
    identities = [IDENTITY, *(msgspec.structs.replace(IDENTITY, **{n: "x"}) for n in ("namespace", "name", "uid"))]
    reports = [report(), report(attempt=2), report(version=1), report(Phase.QUEUED)]
    keys = [to_event(identity, told).key for identity, told in itertools.product(identities, reports)]
    assert len(set(keys)) == len(keys) == 16
    assert to_event(IDENTITY, report(reason="other words")).key == to_event(IDENTITY, report()).key


texts = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)


@given(reason=texts, code=texts, message=texts)
def test_any_text_can_be_sent_and_read_again(reason: str, code: str, message: str) -> None:
    told = to_event(IDENTITY, report(reason=reason, error=ExecutionError(code, message)))
    assert msgspec.json.decode(msgspec.json.encode(told), type=TaskEvent) == told


@given(st.text(max_size=50), st.integers(10, 60))
def test_readable_text_stays_and_a_long_one_keeps_both_ends(text: str, limit: int) -> None:
    shown = readable(text, limit)
    if len(text) <= limit:
        assert shown == text
    else:
        assert len(shown) <= limit
        assert shown.startswith(text[:2])
        assert shown.endswith(text[-2:])


def test_huge_message_is_cut() -> None:
    told = to_event(IDENTITY, report(error=ExecutionError("Code", "x" * 10_000_000), reason="y" * 10_000_000))
    assert told.error is not None
    assert len(told.error.message) <= MAX_CHARS
    assert len(told.reason) <= MAX_CHARS
