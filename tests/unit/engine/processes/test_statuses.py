"""Container states add up to a phase and to conditions, as the kubelet adds them up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from propfan.engine.processes.statuses import (
    Condition,
    Containers,
    ContainerStatus,
    PodStatus,
    Running,
    State,
    Terminated,
    Verdict,
    Waiting,
    summarize,
    unschedulable,
)

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=1)

WAITING = State(waiting=Waiting("ContainerCreating"))
RUNNING = State(running=Running(NOW))
DONE = State(terminated=Terminated(0, "Completed"))
FAILED = State(terminated=Terminated(1, "Error"))
NOTHING = State()
NEW = PodStatus()


def container(state: State, name: str = "main", last_state: State = NOTHING) -> ContainerStatus:
    up = state.running is not None
    return ContainerStatus(name, state, last_state, ready=up, started=up)


def summary(
    *regular: ContainerStatus,
    init: tuple[ContainerStatus, ...] = (),
    sidecars: frozenset[str] = frozenset(),
    policy: str = "Never",
    is_over: bool = False,
    verdict: Verdict | None = None,
    previous: PodStatus = NEW,
) -> PodStatus:
    containers = Containers(init, regular, sidecars, policy)
    return summarize(containers, previous, EARLIER, NOW, is_over=is_over, verdict=verdict)


@pytest.mark.parametrize(
    ("states", "policy", "is_over", "phase"),
    [
        ([WAITING], "Never", False, "Pending"),
        ([RUNNING], "Never", False, "Running"),
        ([RUNNING, WAITING], "Never", False, "Pending"),
        ([DONE, RUNNING], "Never", False, "Running"),
        ([DONE, FAILED], "Never", False, "Running"),
        ([DONE, DONE], "Never", True, "Succeeded"),
        ([DONE, FAILED], "Never", True, "Failed"),
        ([FAILED], "OnFailure", False, "Running"),
        ([DONE], "OnFailure", True, "Succeeded"),
        ([DONE], "Always", False, "Running"),
    ],
)
def test_phases(states: list[State], policy: str, *, is_over: bool, phase: str) -> None:
    statuses = [container(state, f"c{index}") for index, state in enumerate(states)]
    assert summary(*statuses, policy=policy, is_over=is_over).phase == phase


def test_a_container_in_back_off_has_run_so_the_pod_is_running() -> None:
    looping = container(State(waiting=Waiting("CrashLoopBackOff")), last_state=FAILED)
    assert summary(looping, policy="Always").phase == "Running"


def test_what_is_over_has_failed_or_succeeded() -> None:
    assert summary(container(WAITING), is_over=True).phase == "Failed"
    assert summary(container(WAITING), init=(container(DONE, "first"),), is_over=True).phase == "Failed"


def test_a_verdict_says_why_what_is_over_has_failed() -> None:
    verdict = Verdict("DeadlineExceeded", "too long")
    over = summary(container(WAITING), is_over=True, verdict=verdict)
    assert (over.phase, over.reason, over.message) == ("Failed", "DeadlineExceeded", "too long")
    before = summary(container(RUNNING), verdict=verdict)
    assert (before.phase, before.reason) == ("Running", "")
    done = summary(container(DONE), is_over=True, verdict=verdict)
    assert (done.phase, done.reason) == ("Succeeded", "")


def test_unready_containers_are_named() -> None:
    status = summary(container(RUNNING, "a"), container(WAITING, "b"))
    assert status.conditions == (
        Condition("Initialized", "True", NOW),
        Condition("Ready", "False", NOW, "ContainersNotReady", "containers with unready status: [b]"),
        Condition("ContainersReady", "False", NOW, "ContainersNotReady", "containers with unready status: [b]"),
        Condition("PodScheduled", "True", NOW),
    )


def test_a_sidecar_that_runs_does_not_hold_up_the_pod_but_counts_for_readiness() -> None:
    init = (container(RUNNING, "side"), container(DONE, "first"))
    status = summary(container(RUNNING), init=init, sidecars=frozenset({"side"}))
    assert [c.status for c in status.conditions or ()] == ["True"] * 4
    init = (container(FAILED, "side"), container(DONE, "first"))
    status = summary(container(RUNNING), init=init, sidecars=frozenset({"side"}))
    assert [c.status for c in status.conditions or ()] == ["True", "False", "False", "True"]


def test_a_condition_keeps_its_time_while_it_holds() -> None:
    before = PodStatus(
        conditions=(
            Condition("Ready", "False", EARLIER, "ContainersNotReady"),
            Condition("PodScheduled", "False", EARLIER),
        )
    )
    times = {c.type: c.last_transition_time for c in summary(container(WAITING), previous=before).conditions or ()}
    assert times == {"Initialized": NOW, "Ready": EARLIER, "ContainersReady": NOW, "PodScheduled": NOW}


def test_an_unschedulable_pod_keeps_the_time_of_its_first_refusal() -> None:
    first = unschedulable(PodStatus(), "no cpu", EARLIER)
    second = unschedulable(first, "no memory", NOW)
    assert second.conditions == (Condition("PodScheduled", "False", EARLIER, "Unschedulable", "no memory"),)
