"""Bounds from templates, also from absurd ones."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from flyteidl2.core import tasks_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine import machine
from propfan.engine.config import LONGEST_S, EngineConfig
from propfan.engine.reconcile import limits
from propfan.engine.task_state import Backoff, Limits, Stage, TaskState

CONFIG = EngineConfig(max_system_failures=5, undefined_timeout_s=77.0, resync_s=88.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

durations = st.builds(
    Duration, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)
) | st.builds(Duration, seconds=st.integers(0, 10**6))


def test_template_that_says_nothing_has_the_engines_bounds() -> None:
    found = limits.of_template(tasks_pb2.TaskTemplate(), CONFIG)
    assert found == Limits(
        max_attempts=1,
        max_system_failures=5,
        undefined_timeout_s=77.0,
        resync_s=88.0,
        retry_backoff=Backoff(0.0, 2.0, 86_400.0),
    )
    assert not found.is_any
    assert found.retry_backoff.wait_s(3) == 0


def test_what_a_template_says_is_taken() -> None:
    template = tasks_pb2.TaskTemplate()
    metadata = template.metadata
    metadata.retries.retries = 3
    metadata.retries.backoff.base.seconds = 2
    metadata.retries.backoff.factor = 3.0
    metadata.retries.backoff.cap.seconds = 10
    metadata.timeout.FromTimedelta(timedelta(seconds=1.5))
    metadata.timeouts.queued_timeout.seconds = 20
    metadata.timeouts.deadline.seconds = 30
    found = limits.of_template(template, CONFIG)
    assert (found.max_attempts, found.attempt_timeout_s, found.queued_timeout_s, found.deadline_s) == (4, 1.5, 20, 30)
    assert [found.retry_backoff.wait_s(tries) for tries in (1, 2, 3)] == [2, 6, 10]
    assert found.is_any


def test_backoff_without_a_cap_ends_at_a_day_or_its_base() -> None:
    template = tasks_pb2.TaskTemplate()
    template.metadata.retries.backoff.base.seconds = 1
    assert limits.of_template(template, CONFIG).retry_backoff.wait_s(10**9) == 86_400
    template.metadata.retries.backoff.base.seconds = 200_000
    assert limits.of_template(template, CONFIG).retry_backoff.wait_s(2) == 200_000


@pytest.mark.parametrize("seconds", [0, -1, -(2**63)])
def test_condition_without_a_positive_timeout_waits_for_ever(seconds: int) -> None:
    assert not limits.of_condition(Duration(seconds=seconds), CONFIG).is_any


def test_unreadable_template_has_the_engines_bounds() -> None:
    found = limits.default(CONFIG)
    assert (found.max_attempts, found.max_system_failures, found.undefined_timeout_s, found.resync_s) == (1, 5, 77, 88)


@given(
    times=st.lists(durations, min_size=5, max_size=5),
    factor=st.floats(allow_nan=True, allow_infinity=True),
    retries=st.integers(0, 2**32 - 1),
    tries=st.integers(1, 2**32),
)
def test_no_template_leads_beyond_the_calendar(times: list[Duration], factor: float, retries: int, tries: int) -> None:
    template = tasks_pb2.TaskTemplate()
    metadata = template.metadata
    metadata.retries.retries = retries
    metadata.retries.backoff.factor = factor
    fields = (
        metadata.timeout,
        metadata.timeouts.queued_timeout,
        metadata.timeouts.deadline,
        metadata.retries.backoff.base,
        metadata.retries.backoff.cap,
    )
    for field, time in zip(fields, times, strict=True):
        field.CopyFrom(time)
    found = limits.of_template(template, CONFIG)
    assert 1 <= found.max_attempts <= 2**32
    wait_s = found.retry_backoff.wait_s(tries)
    assert math.isfinite(wait_s)
    assert 0 <= wait_s <= LONGEST_S
    state = TaskState("ns/task", found, NOW, stage=Stage.ACTIVE, queued_since=NOW, running_since=NOW)
    wake = machine.next_wake(state)
    assert wake is not None
    assert wake[0] >= NOW
    machine.reached_limit(state, NOW)
    paused = TaskState("ns/task", limits.of_condition(times[0], CONFIG), NOW, stage=Stage.PAUSED)
    assert machine.next_wake(paused) is not None
