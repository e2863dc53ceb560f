"""The state machine: every cell of its table, and invariants in every order of events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from propfan.engine import machine, status
from propfan.engine.task_state import (
    EVENTS,
    AbortRequested,
    Admitted,
    Backoff,
    CacheBusy,
    CacheHit,
    CacheMissed,
    Collected,
    Delayed,
    Event,
    Faulted,
    Finalized,
    Goal,
    Launched,
    Limits,
    ObjectGone,
    ObjectLost,
    Observed,
    Outcome,
    Pending,
    Persist,
    PluginData,
    Postponed,
    Refused,
    Rejected,
    Report,
    Signaled,
    Stage,
    TaskState,
    TimedOut,
    TimeLimit,
)
from propfan.engine.verdicts import MAX_ATTEMPT_ERRORS, MAX_HISTORY
from propfan.pluginmachinery.contexts import ExecutionErrorDocument
from propfan.pluginmachinery.errors import InvalidTransitionError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase, TaskInfo
from propfan.pluginmachinery.taskaction import TaskAction, TaskActionStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

RARELY = st.sampled_from([False] * 7 + [True])
WAYS = (Phase.QUEUED, Phase.INITIALIZING, Phase.RUNNING, Phase.WAITING_FOR_RESOURCES)
ERRORS = st.builds(
    ExecutionError,
    code=st.sampled_from(["Exit1", "OOMKilled", "BadTaskSpecification", ""]),
    message=st.text(max_size=20),
    kind=st.sampled_from(ErrorKind),
)
SECONDS = st.floats(0, 100)
EVENTS_OF: dict[type[Event], st.SearchStrategy[Event]] = {
    Admitted: st.builds(Admitted, st.just("pod"), is_condition=RARELY, checks_cache=RARELY),
    Rejected: st.builds(Rejected, st.sampled_from([Outcome.INVALID, Outcome.NO_PLUGIN]), st.text(max_size=9)),
    CacheHit: st.builds(CacheHit),
    CacheMissed: st.builds(CacheMissed),
    CacheBusy: st.builds(CacheBusy, st.just("other"), SECONDS),
    Launched: st.builds(Launched),
    Refused: st.builds(Refused, ERRORS),
    Postponed: st.builds(Postponed, st.sampled_from(["exceeded quota", "no room"]), SECONDS),
    Delayed: st.builds(Delayed, st.sampled_from(["store down", "cluster down"]), SECONDS),
    Observed: st.builds(
        Observed,
        st.sampled_from([*WAYS * 8, *Phase]),
        version=st.integers(0, 3),
        reason=st.sampled_from(["", "pulling", "ready"]),
        error=st.none() | ERRORS,
        info=st.none() | st.just(TaskInfo(occurred_at=NOW)),
        remove_object=st.booleans(),
        recheck_at=st.none() | st.just(NOW + timedelta(seconds=50)),
        plugin_data=st.none() | st.just(PluginData(1, b"mine")),
    ),
    ObjectLost: st.builds(ObjectLost, st.just("ResourceDeletedExternally"), st.just("gone")),
    Collected: st.builds(
        Collected, st.none() | st.builds(ExecutionErrorDocument, ERRORS, is_recoverable=st.booleans()), st.just("")
    ),
    Faulted: st.builds(Faulted, st.just("ValueError"), st.just("plugin raised"), is_permanent=RARELY),
    ObjectGone: st.builds(ObjectGone),
    TimedOut: st.builds(TimedOut, st.sampled_from([TimeLimit.ATTEMPT, TimeLimit.QUEUED, TimeLimit.DEADLINE])),
    AbortRequested: st.builds(AbortRequested, st.sampled_from(["", "enough"])),
    Signaled: st.builds(Signaled, st.just("ann")),
    Finalized: st.builds(Finalized),
}

HARSH = (AbortRequested, TimedOut, Rejected, Refused, CacheHit, Signaled)
"""What mostly ends a task: rare, for else hardly any would come far."""


def fresh(stage: Stage = Stage.RECEIVED, **changes: object) -> TaskState:
    state = TaskState("ns/r1-a0", Limits(max_attempts=3), NOW, stage=stage)
    return msgspec.structs.replace(state, **changes)


def saved(state: TaskState, now: datetime) -> TaskState:
    """The state after a restart."""
    body = msgspec.json.encode(status.to_patch(state, "r1/a0", now))
    written = msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(body)["status"]), type=TaskActionStatus)
    meta = ObjectMeta(name="r1-a0", namespace="ns", creation_timestamp=state.created_at)
    loaded, unsent = status.load(TaskAction(meta, status=written), state.limits)
    assert unsent == ()
    return loaded


def what_outlives(state: TaskState) -> TaskState:
    """All but what the next look finds out again."""
    pending = None if state.pending is None else msgspec.structs.replace(state.pending, info=None)
    return msgspec.structs.replace(state, pending=pending, observed_at=None, recheck_at=None, awaits_write=False)


class AnyOrder(RuleBasedStateMachine):
    """Whatever can happen in a stage happens, in any order and at any time."""

    @initialize(
        attempts=st.integers(1, 3),
        failures=st.sampled_from([3, 0, 6]),
        timeout_s=st.sampled_from([0.0, 300.0]),
        backoff_s=st.sampled_from([0.0, 2.0]),
    )
    def begin(self, attempts: int, failures: int, timeout_s: float, backoff_s: float) -> None:
        limits = Limits(
            max_attempts=attempts,
            max_system_failures=failures,
            attempt_timeout_s=timeout_s,
            queued_timeout_s=timeout_s,
            deadline_s=timeout_s * 10,
            retry_backoff=Backoff(backoff_s),
        )
        self.now = NOW
        self.state = TaskState("ns/r1-a0", limits, NOW)
        self.told: dict[tuple[int, Phase, int], Report] = {}
        self.final: Report | None = None

    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 1.0, 60.0]))
    def go_on(self, data: st.DataObject, wait_s: float) -> None:
        self.happen(data, wait_s, [kind for kind in EVENTS if kind not in HARSH])

    @rule(data=st.data(), is_meant=st.integers(0, 9))
    def interfere(self, data: st.DataObject, is_meant: int) -> None:
        if is_meant == 0:
            self.happen(data, 0.0, HARSH)

    def happen(self, data: st.DataObject, wait_s: float, kinds: Sequence[type[Event]]) -> None:
        possible = [kind for kind in kinds if machine.TRANSITIONS[self.state.stage, kind] is not None]
        if not possible:
            return
        event = data.draw(st.sampled_from(possible).flatmap(EVENTS_OF.__getitem__))
        self.now += timedelta(seconds=wait_s)
        before = self.state
        step = machine.step(before, event, self.now)
        self.state = step.state
        self.check_moved(before)
        for command in step.commands:
            if isinstance(command, Report):
                self.check_report(command)
        if any(isinstance(command, Report) for command in step.commands):
            assert isinstance(step.commands[-1], Persist), "what is told is written down, after it is told"

    @rule()
    def restart(self) -> None:
        self.state = saved(self.state, self.now)

    def check_moved(self, before: TaskState) -> None:
        after = self.state
        assert after.system_failures >= before.system_failures
        assert after.attempt in (before.attempt, before.attempt + 1)
        if before.outcome is not None:
            assert after.outcome is before.outcome, "the verdict is final"
            assert after.error == before.error
        if before.stage is Stage.ENDED:
            assert after == before, "what has ended does not change"
        if after.phase is before.phase and after.attempt == before.attempt:
            assert after.phase_version >= before.phase_version

    def check_report(self, report: Report) -> None:
        key = report.attempt, report.phase, report.version
        assert key not in self.told, f"{key} is told again as something else"
        self.told[key] = report
        assert self.final is None, "nothing follows the final report"
        if report.outcome is not None:
            self.final = report

    @invariant()
    def it_is_bounded(self) -> None:
        state, limits = self.state, self.state.limits
        assert 1 <= state.attempt <= limits.max_attempts
        assert state.system_failures <= limits.max_system_failures + 1
        assert len(state.history) <= MAX_HISTORY
        assert len(state.attempt_errors) <= MAX_ATTEMPT_ERRORS

    @invariant()
    def it_never_sleeps_for_ever(self) -> None:
        wake = machine.next_wake(self.state)
        assert (wake is None) == (self.state.stage is Stage.ENDED)
        assert (machine.goal(self.state) is Goal.NONE) == (self.state.stage is Stage.ENDED)

    @invariant()
    def its_conditions_agree(self) -> None:
        true = [condition.type for condition in self.state.conditions if condition.status == "True"]
        outcome = self.state.outcome
        if outcome is None:
            assert true in ([], ["Progressing"])
        else:
            assert true == ["Succeeded" if outcome.is_success else "Failed"]
        assert (outcome is not None) == self.state.stage.is_over
        assert (outcome is not None) == (self.final is not None)

    @invariant()
    def its_history_never_repeats_a_phase_in_a_row(self) -> None:
        names = [entry.phase for entry in self.state.history]
        assert all(one != other for one, other in itertools.pairwise(names))

    @invariant()
    def it_survives_a_restart(self) -> None:
        assert saved(self.state, self.now) == what_outlives(self.state)


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@pytest.mark.parametrize(("stage", "kind"), machine.TRANSITIONS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_every_cell_moves_or_refuses(stage: Stage, kind: type[Event]) -> None:
    state = fresh(stage, plugin_id="pod", pending=Pending(Phase.SUCCESS))
    event = {
        Admitted: Admitted("pod"),
        Rejected: Rejected(Outcome.INVALID, "no run name"),
        CacheHit: CacheHit(),
        CacheMissed: CacheMissed(),
        CacheBusy: CacheBusy("other", 5.0),
        Launched: Launched(),
        Refused: Refused(ExecutionError("Invalid", "never")),
        Postponed: Postponed("quota", 1.0),
        Delayed: Delayed("store down"),
        Observed: Observed(Phase.RUNNING),
        ObjectLost: ObjectLost("ResourceDeletedExternally", "gone"),
        Collected: Collected(),
        Faulted: Faulted("ValueError", "raised"),
        ObjectGone: ObjectGone(),
        TimedOut: TimedOut(TimeLimit.DEADLINE),
        AbortRequested: AbortRequested("enough"),
        Signaled: Signaled("ann"),
        Finalized: Finalized(),
    }[kind]
    if machine.TRANSITIONS[stage, kind] is None:
        with pytest.raises(InvalidTransitionError, match=f"no move from {stage.name} on {kind.__name__}"):
            machine.step(state, event, NOW)
    elif stage is Stage.ENDED:
        assert machine.step(state, event, NOW).state == state
    else:
        taken = machine.step(state, event, NOW)
        assert taken.state.task == state.task
        assert machine.next_wake(taken.state) is not None or taken.state.stage is Stage.ENDED


def test_the_table_has_a_cell_for_every_stage_and_event() -> None:
    assert set(machine.TRANSITIONS) == {(stage, kind) for stage in Stage for kind in EVENTS}
    assert set(EVENTS_OF) == set(EVENTS)


def test_every_stage_that_goes_on_can_be_aborted() -> None:
    for stage in Stage:
        taken = machine.step(fresh(stage), AbortRequested("enough"), NOW).state
        assert stage.is_over or taken.outcome is Outcome.ABORTED


def test_what_destroys_waits_until_its_decision_is_written() -> None:
    assert {stage for stage in Stage if machine.must_be_durable(fresh(stage))} == {Stage.CLEANING, Stage.ENDING}


@pytest.mark.parametrize("result", [Launched(), Postponed("no room", 0.0)], ids=lambda result: type(result).__name__)
def test_an_object_of_the_same_name_waits_until_it_is_written_that_the_old_one_is_away(result: Event) -> None:
    state = fresh(Stage.ACTIVE)
    lost = machine.step(state, ObjectLost("Lost", "gone"), NOW).state
    relaunch = machine.step(lost, ObjectGone(), NOW)
    assert relaunch.commands == (Persist(urgent=True),)
    assert machine.must_be_durable(relaunch.state)
    assert not machine.must_be_durable(machine.step(relaunch.state, result, NOW).state)


def test_the_next_attempts_object_has_another_name_and_waits_for_no_write() -> None:
    state = fresh(Stage.CLEANING, attempt=2, removing_attempt=1)
    relaunch = machine.step(state, ObjectGone(), NOW)
    assert relaunch.commands == ()
    assert not machine.must_be_durable(relaunch.state)


def test_a_try_that_is_put_off_is_not_overtaken_by_a_look_that_was_due_before() -> None:
    state = fresh(Stage.ACTIVE, observed_at=NOW, recheck_at=NOW + timedelta(seconds=1))
    state = machine.step(state, Faulted("ValueError", "raised"), NOW + timedelta(seconds=1)).state
    wake = machine.next_wake(state)
    assert wake is not None
    assert wake[0] == state.retry_at
    assert wake[0] > NOW + timedelta(seconds=1)


def test_an_end_while_an_old_object_goes_remembers_that_object() -> None:
    state = fresh(Stage.ACTIVE, attempt=1)
    state = machine.step(state, TimedOut(TimeLimit.ATTEMPT), NOW).state
    assert (state.stage, state.attempt, state.removing_attempt) == (Stage.CLEANING, 2, 1)
    state = machine.step(state, AbortRequested(""), NOW).state
    assert (state.stage, state.removing_attempt) == (Stage.ENDING, 1)


def test_a_back_off_is_no_time_in_the_queue() -> None:
    limits = Limits(max_attempts=2, queued_timeout_s=5.0, retry_backoff=Backoff(60.0))
    state = TaskState("ns/r1-a0", limits, NOW, stage=Stage.CLEANING, attempt=2, launch_at=NOW + timedelta(seconds=60))
    state = machine.step(state, ObjectGone(), NOW).state
    assert machine.reached_limit(state, NOW + timedelta(seconds=59)) is None
    assert machine.reached_limit(state, NOW + timedelta(seconds=65)) is TimeLimit.QUEUED
