"""A reconciler that drives the tasks of some shards, and hands them over."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import TASK_ACTION
from propfan.engine.config import ShardingSection
from propfan.engine.sharding import SHARD_LABEL, selector, shard_of
from propfan.pluginmachinery.errors import UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION
from tests.unit.engine.reconcile.rig import Rig, rig, running

pytestmark = pytest.mark.anyio

COUNT = 4
NONE: frozenset[int] = frozenset()
ALL = frozenset(range(COUNT))
SHARDS: dict[str, Any] = {"reconciler": {"shards": NONE}, "sharding": ShardingSection(shards=COUNT)}


def runs(shard: int, number: int = 3) -> list[str]:
    """Names of runs in a shard."""
    names = (f"r{n}" for n in range(1000))
    return [name for name in names if shard_of("default", name, COUNT) == shard][:number]


async def shard_label(it: Rig, pod: str) -> str | None:
    return (await it.truth.get(POD, "default", pod)).metadata.labels.get(SHARD_LABEL)


def test_whoever_has_all_shards_sees_also_what_has_no_label() -> None:
    assert SHARD_LABEL not in selector(ALL, COUNT)
    assert SHARD_LABEL not in selector(None, 0)
    assert selector({2, 0}, COUNT)[SHARD_LABEL] == ("0", "2")


async def test_only_tasks_of_the_own_shards_are_driven() -> None:
    async with running(**SHARDS) as it:
        mine, other = runs(1, 1)[0], runs(2, 1)[0]
        await it.submit(other)
        await it.submit(mine)
        it.reconciler.take_on(frozenset({1}))
        await it.until_pod(f"{mine}-a0-0")
        assert await it.pods() == [f"{mine}-a0-0"]
        assert await shard_label(it, f"{mine}-a0-0") == "1"
        it.reconciler.take_on(frozenset({2}))
        await it.until_pod(f"{other}-a0-0")
        for name in (mine, other):
            await it.move(f"{name}-a0-0", "Succeeded")
            await it.until_over(name)


async def test_a_task_that_is_handed_over_is_written_down_and_left_alone() -> None:
    async with running(**SHARDS) as it:
        it.reconciler.take_on(ALL)
        name = runs(1, 1)[0]
        await it.submit(name)
        await it.until_pod(f"{name}-a0-0")
        await it.reconciler.hand_over(frozenset({1}), 5.0)
        assert it.reconciler.live == {}
        assert (await it.status(name)).plugin_phase == "PhaseQueued"
        writes = len(it.cluster.writes)
        await it.move(f"{name}-a0-0", "Succeeded")
        await it.truth.patch(
            TASK_ACTION, "default", f"{name}-a0", {"metadata": {"annotations": {ABORT_ANNOTATION: ""}}}
        )
        await anyio.wait_all_tasks_blocked()
        assert len(it.cluster.writes) == writes


async def test_the_next_one_goes_on_with_the_pod_that_is_there() -> None:
    async with rig(**SHARDS) as it, anyio.create_task_group() as group:
        group.start_soon(it.reconciler.run)
        it.reconciler.take_on(ALL)
        names = runs(1)
        for name in names:
            await it.submit(name)
            await it.until_pod(f"{name}-a0-0")
        await it.reconciler.hand_over(ALL, 5.0)
        it.reconciler.take_on(ALL)
        for name in names:
            await it.move(f"{name}-a0-0", "Succeeded")
            await it.until_over(name)
        assert it.cluster.writes.count("create pods") == len(names)
        group.cancel_scope.cancel()


async def test_what_can_not_be_written_in_time_is_let_go() -> None:
    async with running(**SHARDS) as it:
        it.reconciler.take_on(ALL)
        name = runs(1, 1)[0]
        it.cluster.failures.extend([UnavailableError("x", "down")] * 50)
        await it.submit(name)
        await it.until_pod(f"{name}-a0-0")
        with anyio.fail_after(5):
            await it.reconciler.hand_over(frozenset({1}), 0.1)
        assert it.reconciler.live == {}


async def test_a_round_that_hangs_is_cut_off() -> None:
    async with running(**SHARDS) as it:
        it.reconciler.take_on(ALL)
        name = runs(1, 1)[0]
        gate = anyio.Event()
        truth_create = it.cluster.create

        async def hang(kind: object, body: bytes) -> object:
            gate.set()
            await anyio.sleep_forever()
            return await truth_create(kind, body)  # type: ignore[arg-type]

        it.cluster.create = hang  # type: ignore[method-assign, assignment]
        await it.submit(name)
        with anyio.fail_after(5):
            await gate.wait()
            await it.reconciler.hand_over(frozenset({1}), 0.1)
        assert it.reconciler.live == {}
        await it.until(lambda: it.reconciler.busy_workers == 0)


async def test_a_pod_of_another_executor_gets_the_label_of_its_shard() -> None:
    async with rig(**SHARDS) as it:
        name = runs(1, 1)[0]
        await it.submit(name)
        uid = (await it.action(name)).metadata.uid
        owner = {
            "apiVersion": "flyte.org/v1",
            "kind": "TaskAction",
            "name": f"{name}-a0",
            "uid": uid,
            "controller": True,
        }
        meta = {
            "name": f"{name}-a0-0",
            "namespace": "default",
            "ownerReferences": [owner],
            "labels": {"flyte.org/managed": "true"},
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}
        await it.truth.create(POD, msgspec.json.encode(pod))
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            it.reconciler.take_on(frozenset({1}))
            await it.until_reason("Queued", name)
            assert await shard_label(it, f"{name}-a0-0") == "1"
            await it.move(f"{name}-a0-0", "Succeeded")
            await it.until_over(name)
            group.cancel_scope.cancel()


async def test_nothing_is_begun_once_it_may_not_act() -> None:
    may_act = True
    arguments = {"shards": NONE, "may_act": lambda: may_act}
    async with running(reconciler=arguments, sharding=ShardingSection(shards=COUNT)) as it:
        it.reconciler.take_on(ALL)
        await it.submit()
        await it.until_pod("r1-a0-0")
        may_act = False
        await it.submit("r2")
        await it.until(lambda: len(it.reconciler.live) == 2)
        await anyio.wait_all_tasks_blocked()
        assert await it.pods() == ["r1-a0-0"]


async def test_a_status_that_another_engine_wrote_is_never_overwritten() -> None:
    """As when a replica wakes up that was stopped for so long that another one has taken its tasks."""
    async with running() as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await it.until_reason("Queued")
        final = {
            "type": "Succeeded",
            "status": "True",
            "reason": "Completed",
            "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        mine = msgspec.json.decode((await it.truth.get(TASK_ACTION, "default", "r1-a0")).raw)["status"]
        stage = msgspec.json.decode(msgspec.json.decode(f'"{mine["pluginState"]}"'.encode(), type=bytes))
        theirs = msgspec.json.encode({**stage, "stage": "Ending", "outcome": "Completed", "writer": 1})
        verdict = {"pluginState": theirs, "pluginPhase": "PhaseSuccess", "conditions": [final]}
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"status": verdict}, subresource="status")
        await it.move("r1-a0-0", "Failed", "Exit1")
        status = await it.until_over()
        assert [c.reason for c in status.conditions if c.status == "True"] == ["Completed"]
        assert status.error_state is None
