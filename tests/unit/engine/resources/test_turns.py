"""Quotas in the engine: tasks wait and say why, and every way out of a task frees its place."""

from __future__ import annotations

import contextlib
import random

import anyio
import msgspec
import pytest

from propfan.engine.cluster import TASK_ACTION, ObservedObject
from propfan.engine.config import EngineConfig, ShardingSection
from propfan.engine.resources.config import ProjectQuota, QueueQuota, QuotasSection
from propfan.engine.sharding import shard_of
from propfan.pluginmachinery.errors import NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION
from propfan.pluginmachinery.testing.fakes import setup_context
from tests.unit.engine.reconcile.rig import Rig, rig, running

pytestmark = pytest.mark.anyio

ONE = QuotasSection(max_running=1)
COUNT = 4


def registry_of(it: Rig) -> Registry:
    registry = Registry()
    registry.register(KubernetesPluginEntry(id="pods", task_types=("pod",), watched=POD, load=it.plugin))
    registry.load(setup_context())
    return registry


async def progress(it: Rig, name: str) -> str:
    conditions = (await it.status(name)).conditions
    return next((each.message for each in conditions if each.type == "Progressing"), "")


async def waits(it: Rig, name: str) -> None:
    async def is_so() -> bool:
        return (await it.status(name)).plugin_phase == "PhaseWaitingForResources"

    await it.until(is_so)


async def first_and_second(it: Rig) -> None:
    """``a`` runs and ``b`` waits for it."""
    await it.submit("a")
    await it.until_pod("a-a0-0")
    await it.submit("b")
    await waits(it, "b")


async def test_task_over_quota_waits_visibly_and_begins_when_the_other_ends() -> None:
    async with running(quotas=ONE) as it:
        await first_and_second(it)
        assert await progress(it, "b") == "all queues: 1 of 1 in use, place 1 of 1 in line"
        assert await it.pods() == ["a-a0-0"]
        await it.move("a-a0-0", "Succeeded")
        await it.until_pod("b-a0-0")
        assert (await it.until_over("a")).plugin_phase == "PhaseSuccess"
        await it.move("b-a0-0", "Succeeded")
        await it.until_over("b")


@pytest.mark.parametrize("way", ["failure", "abort", "deletion", "of the object"])
async def test_every_way_out_frees_the_place(way: str) -> None:
    async with running(quotas=ONE, max_system_failures=0) as it:
        await first_and_second(it)
        if way == "failure":
            await it.move("a-a0-0", "Failed")
        elif way == "abort":
            patch = {"metadata": {"annotations": {ABORT_ANNOTATION: "enough"}}}
            await it.truth.patch(TASK_ACTION, "default", "a-a0", patch)
        elif way == "deletion":
            await it.truth.delete(TASK_ACTION, "default", "a-a0")
        else:
            await it.truth.delete(POD, "default", "a-a0-0", grace_period_s=0)
        await it.until_pod("b-a0-0")


async def test_who_waits_and_is_aborted_leaves_the_line() -> None:
    async with running(quotas=ONE) as it:
        await first_and_second(it)
        await it.submit("c")
        await waits(it, "c")
        patch = {"metadata": {"annotations": {ABORT_ANNOTATION: ""}}}
        await it.truth.patch(TASK_ACTION, "default", "b-a0", patch)
        await it.until_over("b")
        await it.move("a-a0-0", "Succeeded")
        await it.until_pod("c-a0-0")
        assert "b-a0-0" not in await it.pods()


async def test_waiting_tasks_cost_no_writes() -> None:
    async with running(quotas=ONE) as it:
        await first_and_second(it)
        names = [f"w{number}" for number in range(20)]
        for name in names:
            await it.submit(name)
        for name in names:
            await waits(it, name)
        versions = {name: (await it.action(name)).metadata.resource_version for name in names}
        await it.move("a-a0-0", "Succeeded")
        await it.until_pod("b-a0-0")
        await it.until_over("a")
        assert {name: (await it.action(name)).metadata.resource_version for name in names} == versions


async def test_a_retry_runs_under_the_same_caps() -> None:
    async with running(quotas=ONE) as it:
        await it.submit("a", retries=1)
        await it.until_pod("a-a0-0")
        await it.move("a-a0-0", "Failed")
        await it.until_pod("a-a0-1")
        await it.submit("b")
        await waits(it, "b")
        await it.move("a-a0-1", "Succeeded")
        await it.until_pod("b-a0-0")


async def test_engine_that_starts_again_counts_what_runs_before_it_grants_anything() -> None:
    async with rig(quotas=ONE) as it:
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            await first_and_second(it)
            group.cancel_scope.cancel()
        again = Rig(it.truth, EngineConfig(workers=4, status_linger_s=0.02, quotas=ONE), registry_of(it), it.plugin)
        async with anyio.create_task_group() as group:
            group.start_soon(again.reconciler.run)
            await again.until(lambda: again.reconciler.is_listed)
            await again.submit("c")
            await waits(again, "c")
            assert await again.pods() == ["a-a0-0"]
            await again.move("a-a0-0", "Succeeded")
            await again.until_pod("b-a0-0")
            group.cancel_scope.cancel()


async def test_tasks_of_other_replicas_count() -> None:
    shards = {"a": shard_of("default", "a", COUNT)}
    names = (f"r{number}" for number in range(1000))
    other = next(name for name in names if shard_of("default", name, COUNT) != shards["a"])
    settings = {"quotas": ONE, "sharding": ShardingSection(shards=COUNT)}
    async with running(reconciler={"shards": frozenset({shards["a"]})}, **settings) as it:
        await it.submit(other)
        await it.truth.patch(
            TASK_ACTION, "default", f"{other}-a0", {"status": {"pluginPhase": "PhaseRunning"}}, subresource="status"
        )
        await it.submit("a")
        await waits(it, "a")
        await it.truth.patch(
            TASK_ACTION, "default", f"{other}-a0", {"status": {"pluginPhase": "PhaseSuccess"}}, subresource="status"
        )
        await it.until_pod("a-a0-0")


async def test_objects_wear_the_labels_of_their_queue() -> None:
    kueue = {"kueue.x-k8s.io/queue-name": "gpu-queue"}
    quotas = QuotasSection(queues={"default": QueueQuota(labels=kueue)}, projects={"p": ProjectQuota(max_running=9)})
    async with running(quotas=quotas) as it:
        await it.submit("a")
        await it.until_pod("a-a0-0")
        pod = await it.truth.get(POD, "default", "a-a0-0")
        assert kueue.items() <= pod.metadata.labels.items()


def test_labels_name_the_queue_and_own_labels_go_first() -> None:
    quotas = QuotasSection(queues={"gpu": QueueQuota(labels={"kueue.x-k8s.io/queue-name": "gpus", "more": "x"})})
    assert quotas.queue_of({}) == "default"
    assert quotas.queue_of({"flyte.org/queue": "gpu", "kueue.x-k8s.io/queue-name": "other"}) == "gpu"
    assert quotas.queue_of({"kueue.x-k8s.io/queue-name": "other"}) == "other"
    own = {"flyte.org/queue": "gpu", "kueue.x-k8s.io/queue-name": "mine"}
    assert quotas.labels_of(own) == {"more": "x"}
    assert quotas.labels_of({"flyte.org/queue": "unknown"}) == {}


def test_nothing_is_counted_where_nothing_is_bounded() -> None:
    assert not QuotasSection(queues={"gpu": QueueQuota(labels={"a": "b"})}).is_any


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_becomes_of_tasks_no_more_run_than_may_and_all_come_to_their_turn(seed: int) -> None:
    chance = random.Random(seed)
    quotas = QuotasSection(max_running=4)
    names = [f"t{number}" for number in range(40)]
    async with running(quotas=quotas, max_system_failures=2) as it:
        for name in names:
            await it.submit(name, retries=1)
        most = 0
        with anyio.fail_after(60):
            while it.reconciler.live or await left(it):
                pods = (await it.truth.list(POD)).items
                alive = [pod for pod in pods if phase_of(pod) not in ("Succeeded", "Failed")]
                most = max(most, len(alive))
                for pod in alive:
                    await befall(
                        it, pod.metadata.name, chance.choice(["Succeeded", "Failed", "gone", "abort", "delete", ""])
                    )
                await anyio.sleep(0.002)
        assert 0 < most <= 4
        turns = it.reconciler._rounds.turns._shares
        assert (turns.used("all queues"), turns.waiting) == (0, 0)


def phase_of(pod: ObservedObject) -> str:
    return str(msgspec.json.decode(pod.raw).get("status", {}).get("phase", ""))


async def left(it: Rig) -> bool:
    """Whether some task is there that has no end yet."""
    actions = (await it.truth.list(TASK_ACTION)).items
    return any("flyte.org/termination-status" not in each.metadata.labels for each in actions)


async def befall(it: Rig, pod: str, fate: str) -> None:
    task = pod.rpartition("-")[0]
    with contextlib.suppress(NotFoundError):
        if fate in ("Succeeded", "Failed"):
            await it.move(pod, fate)
        elif fate == "gone":
            await it.truth.delete(POD, "default", pod, grace_period_s=0)
        elif fate == "abort":
            await it.truth.patch(TASK_ACTION, "default", task, {"metadata": {"annotations": {ABORT_ANNOTATION: ""}}})
        elif fate == "delete":
            await it.truth.delete(TASK_ACTION, "default", task)
