"""What the state machine of tasks promises to jobs: the mark before a creation, and what finds a job again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from propfan.engine import machine, status
from propfan.engine.task_state import (
    AbortRequested,
    Collected,
    Delayed,
    Launched,
    Limits,
    ObjectGone,
    Observed,
    Persist,
    PluginData,
    Report,
    Stage,
    Step,
    TaskState,
)
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.phases import Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = PluginData(1, b"job")


def task(**changes: Any) -> TaskState:
    return msgspec.structs.replace(TaskState("ns/a", Limits(max_attempts=2), NOW, plugin_id="web"), **changes)


def launched() -> Step:
    return machine.step(task(stage=Stage.LAUNCHING), Launched("handed over", DATA), NOW)


def test_mark_is_written_at_once_and_before_anything_else_is_done() -> None:
    taken = launched()
    assert (taken.state.stage, taken.state.plugin_data) == (Stage.ACTIVE, DATA)
    assert machine.must_be_durable(taken.state)
    assert [type(command) for command in taken.commands] == [Report, Persist]
    assert taken.commands[-1] == Persist(urgent=True)


def test_mark_is_written_also_when_there_is_nothing_to_tell() -> None:
    again = task(stage=Stage.LAUNCHING, phase=Phase.QUEUED, reason="handed over")
    assert machine.step(again, Launched("handed over", DATA), NOW).commands == (Persist(urgent=True),)


def test_launch_without_a_mark_waits_for_no_write() -> None:
    assert not machine.must_be_durable(machine.step(task(stage=Stage.LAUNCHING), Launched(), NOW).state)


def test_mark_that_was_read_is_written() -> None:
    """Nothing is waited for after a restart: the state that was loaded is the one that was written."""
    patch = status.to_patch(launched().state, "r/a", NOW)
    assert b"awaits" not in patch["status"]["pluginState"]


def test_first_news_end_the_waiting() -> None:
    seen = machine.step(launched().state, Observed(Phase.RUNNING), NOW)
    assert (machine.must_be_durable(seen.state), seen.state.plugin_data) == (False, DATA)


def test_what_finds_the_job_stays_until_it_is_gone_and_then_goes() -> None:
    active = task(stage=Stage.ACTIVE, plugin_data=DATA)
    lost = machine.step(active, Observed(Phase.RETRYABLE_FAILURE, error=phases.ExecutionError("Lost", "spot")), NOW)
    cleaning = machine.step(lost.state, Collected(), NOW).state
    assert (cleaning.stage, cleaning.attempt, cleaning.removing_attempt) == (Stage.CLEANING, 2, 1)
    assert cleaning.plugin_data == DATA
    relaunching = machine.step(cleaning, ObjectGone(), NOW).state
    assert (relaunching.stage, relaunching.plugin_data) == (Stage.LAUNCHING, None)


def test_what_finds_the_job_stays_over_an_abort() -> None:
    ending = machine.step(task(stage=Stage.ACTIVE, plugin_data=DATA), AbortRequested("enough"), NOW).state
    assert (ending.stage, ending.plugin_data) == (Stage.ENDING, DATA)


def test_condition_says_no_longer_why_the_task_stood_still_once_it_does_not() -> None:
    running = machine.step(task(stage=Stage.ACTIVE), Observed(Phase.RUNNING), NOW).state
    delayed = machine.step(running, Delayed("no route"), NOW).state
    assert delayed.conditions[0].message == "no route"
    seen = machine.step(delayed, Observed(Phase.RUNNING), NOW)
    assert (seen.state.conditions[0].message, seen.state.waiting_for, seen.commands) == ("", "", (Persist(),))
