from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.processes import Capacity
from propfan.engine.processes.pods import Pod, PodSpec
from propfan.engine.processes.scheduler import Placed, Requests, Scheduler, Unschedulable, effective_requests
from propfan.engine.processes.statuses import PodStatus
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta

UNIT = 10**9


def requests(**amounts: int) -> Requests:
    return {name: amount * UNIT for name, amount in amounts.items()}


def cpus(*amounts: str, sidecars: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "name": f"c{i}",
            "resources": {"requests": {"cpu": amount}},
            **({"restartPolicy": "Always"} if i < sidecars else {}),
        }
        for i, amount in enumerate(amounts)
    ]


def effective_cpu(**spec: Any) -> float:
    pod = Pod(ObjectMeta(), msgspec.convert(spec, PodSpec), PodStatus())
    return effective_requests(pod)["cpu"] / UNIT


def test_containers_add_up() -> None:
    assert effective_cpu(containers=cpus("500m", "2")) == 2.5


def test_init_containers_count_by_the_largest() -> None:
    assert effective_cpu(containers=cpus("1"), initContainers=cpus("3", "2")) == 3
    assert effective_cpu(containers=cpus("4"), initContainers=cpus("3", "2")) == 4


def test_a_sidecar_counts_with_all_that_starts_after_it() -> None:
    assert effective_cpu(containers=cpus("1"), initContainers=cpus("1", "3", sidecars=1)) == 4
    assert effective_cpu(containers=cpus("5"), initContainers=cpus("1", "3", sidecars=1)) == 6


def test_overhead_comes_on_top_and_a_limit_stands_for_a_missing_request() -> None:
    limited = [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]
    assert effective_cpu(containers=limited, overhead={"cpu": "250m"}) == 2.25


@pytest.mark.parametrize("amount", ["-1", "many", ""])
def test_a_request_that_is_none_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=f"resources: cpu: '{amount}'"):
        effective_cpu(containers=cpus(amount))


def test_first_come_first_served() -> None:
    scheduler = Scheduler(requests(cpu=2))
    for uid in ("a", "b", "c"):
        scheduler.add(uid, requests(cpu=1))
    assert scheduler.place() == [
        Placed("a"),
        Placed("b"),
        Unschedulable("c", "0/1 nodes are available: 1 Insufficient cpu."),
    ]
    assert scheduler.remove("a")
    assert scheduler.place() == [Placed("c")]


def test_a_large_pod_is_not_overtaken_on_what_it_waits_for() -> None:
    scheduler = Scheduler(requests(cpu=2, gpu=1))
    scheduler.assume("old", requests(cpu=1))
    scheduler.add("large", requests(cpu=2))
    scheduler.add("small", requests(cpu=1))
    scheduler.add("other", requests(gpu=1))
    assert [d for d in scheduler.place() if isinstance(d, Placed)] == [Placed("other")]


def test_what_can_never_fit_holds_up_nobody_and_is_told_so() -> None:
    scheduler = Scheduler(requests(cpu=2, memory=1))
    scheduler.add("huge", requests(cpu=3, **{"nvidia.com/gpu": 1}))
    scheduler.add("small", requests(cpu=1))
    huge, small = scheduler.place()
    assert small == Placed("small")
    assert huge == Unschedulable(
        "huge",
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu. The whole node has less cpu, "
        "nvidia.com/gpu than the pod requests: it can never be placed here.",
    )


def test_the_number_of_pods_is_limited() -> None:
    scheduler = Scheduler(requests(pods=1))
    scheduler.assume("a", requests(pods=1))
    scheduler.add("b", requests(pods=1))
    assert scheduler.place() == [Unschedulable("b", "0/1 nodes are available: 1 Too many pods.")]


def test_a_waiting_pod_that_others_place_counts_as_it_was_added() -> None:
    scheduler = Scheduler(requests(cpu=1))
    scheduler.add("a", requests(cpu=1))
    scheduler.assume("a", {})
    scheduler.add("b", requests(cpu=1))
    assert [d for d in scheduler.place() if isinstance(d, Placed)] == []
    assert "a" in scheduler
    scheduler.remove("a")
    assert "a" not in scheduler
    assert scheduler.place() == [Placed("b")]


def test_a_pod_given_back_is_the_first_again() -> None:
    scheduler = Scheduler(requests(cpu=1))
    scheduler.add("a", requests(cpu=1))
    scheduler.add("b", requests(cpu=1))
    scheduler.place()
    scheduler.give_back("a")
    assert scheduler.place()[0] == Placed("a")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.lists(st.integers(0, 11), max_size=20),
)
def test_the_node_is_never_overcommitted_and_every_fitting_pod_gets_its_turn(
    wanted: list[tuple[int, int]], ends: list[int]
) -> None:
    scheduler = Scheduler(requests(cpu=3, memory=3))
    pods = {str(i): requests(cpu=cpu, memory=memory) for i, (cpu, memory) in enumerate(wanted)}
    for uid, amounts in pods.items():
        scheduler.add(uid, amounts)
    placed: set[str] = set()
    ended: set[str] = set()
    order = [str(i) for i in ends] + list(pods) * len(pods)
    for uid in order:
        placed |= {d.uid for d in scheduler.place() if isinstance(d, Placed)}
        for name in ("cpu", "memory"):
            assert sum(pods[other][name] for other in placed - ended) <= 3 * UNIT
        if uid in placed - ended:
            scheduler.remove(uid)
            ended.add(uid)
    assert placed == set(pods)


def test_a_pod_that_waits_for_others_lends_them_its_place_and_takes_it_back() -> None:
    scheduler = Scheduler(requests(cpu=1))
    scheduler.add("parent", requests(cpu=1))
    scheduler.place()
    scheduler.add("child", requests(cpu=1))
    assert scheduler.lend("parent")
    assert not scheduler.lend("parent")
    assert scheduler.place() == [Placed("child")]
    scheduler.reclaim("parent")
    scheduler.add("other", requests(cpu=1))
    assert [type(decision) for decision in scheduler.place()] == [Unschedulable]
    scheduler.remove("child")
    assert [type(decision) for decision in scheduler.place()] == [Unschedulable]
    scheduler.remove("parent")
    assert scheduler.place() == [Placed("other")]


def test_a_pod_that_ends_while_it_lends_frees_nothing_twice() -> None:
    scheduler = Scheduler(requests(cpu=1))
    scheduler.assume("parent", requests(cpu=1))
    scheduler.lend("parent")
    scheduler.remove("parent")
    scheduler.add("one", requests(cpu=1))
    scheduler.add("two", requests(cpu=1))
    assert [type(decision) for decision in scheduler.place()] == [Placed, Unschedulable]


def test_capacity_defaults_to_the_machine(tmp_path: Path) -> None:
    found = Capacity().in_nanos(tmp_path)
    assert found["cpu"] >= UNIT
    assert found["memory"] > 2**20 * UNIT
    assert found["pods"] == 110 * UNIT


@pytest.mark.parametrize(
    ("capacity", "field"),
    [
        (Capacity(cpu="lots"), "capacity.cpu"),
        (Capacity(memory="-1"), "capacity.memory"),
        (Capacity(resources={"nvidia.com/gpu": ""}), "capacity.nvidia.com/gpu"),
    ],
)
def test_a_capacity_that_is_none_is_refused(tmp_path: Path, capacity: Capacity, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        capacity.in_nanos(tmp_path)
    assert caught.value.field == field
