from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from benchmarks.simulated_kubelet import Script, SimulatedKubelet, State, Step, fails, succeeds, waits
from propfan.engine.cluster import POD, ObservedObject, WatchEventType
from propfan.engine.embedded import EmbeddedCluster, watching
from propfan.pluginmachinery.errors import NotFoundError, UnavailableError
from tests.contract.objects import body, content, until_gone

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster.open(None) as cluster:
        yield cluster


async def phases_until(
    cluster: EmbeddedCluster, name: str, is_last: Callable[[Mapping[str, Any]], bool]
) -> list[Mapping[str, Any]]:
    """The statuses of a pod from now on."""
    seen: list[Mapping[str, Any]] = []
    with anyio.fail_after(20):
        async with cluster.watch(POD, resource_version="0") as changes:
            async for batch in changes:
                for event in batch:
                    if event.object.metadata.name == name and event.type is not WatchEventType.DELETED:
                        seen.append(content(event.object)["status"])
                        if is_last(seen[-1]):
                            return seen
    raise AssertionError("the watch ended")


def is_over(status: Mapping[str, Any]) -> bool:
    return status["phase"] in ("Succeeded", "Failed")


async def test_a_pod_goes_through_its_life(cluster: EmbeddedCluster) -> None:
    kubelet = SimulatedKubelet(cluster, lambda _: succeeds(0.001, 0.002, 0.001))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        await cluster.create(POD, body(POD, "n", "a"))
        seen = await phases_until(cluster, "a", is_over)
        tasks.cancel_scope.cancel()
    assert [status["phase"] for status in seen][-4:] == ["Pending", "Pending", "Running", "Succeeded"]
    (container,) = seen[-1]["containerStatuses"]
    assert container["name"] == "main"
    assert container["state"]["terminated"]["exitCode"] == 0
    assert {condition["type"] for condition in seen[-2]["conditions"]} == {"PodScheduled", "Initialized", "Ready"}


async def test_scripts_differ_from_pod_to_pod(cluster: EmbeddedCluster) -> None:
    scripts: Mapping[str, Script] = {
        "killed": fails(137, "OOMKilled"),
        "stuck": waits("ImagePullBackOff", "no such image"),
        "nowhere": (Step(0.0, State.UNSCHEDULABLE, message="0/3 nodes"),),
        "lost": (Step(0.0, State.RUNNING), Step(0.0, State.GONE)),
    }

    def script(pod: ObservedObject) -> Script:
        return scripts[pod.metadata.name]

    for name in scripts:
        await cluster.create(POD, body(POD, "n", name))
    kubelet = SimulatedKubelet(cluster, script)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        killed = (await phases_until(cluster, "killed", is_over))[-1]
        assert killed["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"
        assert killed["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
        await phases_until(
            cluster,
            "stuck",
            lambda status: (
                "ImagePullBackOff"
                in [found["state"].get("waiting", {}).get("reason") for found in status.get("containerStatuses", ())]
            ),
        )
        await phases_until(
            cluster,
            "nowhere",
            lambda status: (
                [(c["reason"], c["message"]) for c in status.get("conditions", ())] == [("Unschedulable", "0/3 nodes")]
            ),
        )
        await until_gone(cluster, POD, "n", "lost")
        tasks.cancel_scope.cancel()


async def test_a_bound_pod_that_is_deleted_stops(cluster: EmbeddedCluster) -> None:
    kubelet = SimulatedKubelet(cluster, lambda _: succeeds(finished_s=1e6), node="node", stopping_s=0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        await cluster.create(POD, body(POD, "n", "a"))
        await phases_until(cluster, "a", lambda status: status["phase"] == "Running")
        await cluster.delete(POD, "n", "a")
        assert (await cluster.get(POD, "n", "a")).metadata.deletion_timestamp is not None
        with anyio.fail_after(20):
            await until_gone(cluster, POD, "n", "a")
        tasks.cancel_scope.cancel()


async def test_only_matching_pods_are_played(cluster: EmbeddedCluster) -> None:
    await cluster.create(POD, body(POD, "n", "other"))
    await cluster.create(POD, body(POD, "n", "mine", labels={"x": "1"}))
    kubelet = SimulatedKubelet(cluster, labels={"x": "1"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        await phases_until(cluster, "mine", is_over)
        tasks.cancel_scope.cancel()
    assert content(await cluster.get(POD, "n", "other"))["status"] == {"phase": "Pending"}


async def test_a_kubelet_that_starts_again_goes_on_where_pods_are(cluster: EmbeddedCluster) -> None:
    await cluster.create(POD, body(POD, "n", "a"))
    await cluster.patch(POD, "n", "a", {"status": {"phase": "Running"}}, subresource="status")
    await cluster.create(POD, body(POD, "n", "b"))
    await cluster.patch(POD, "n", "b", {"status": {"phase": "Failed"}}, subresource="status")
    kubelet = SimulatedKubelet(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        seen = await phases_until(cluster, "a", is_over)
        tasks.cancel_scope.cancel()
    assert [status["phase"] for status in seen][-2:] == ["Running", "Succeeded"]
    assert kubelet.patches == 1
    assert content(await cluster.get(POD, "n", "b"))["status"]["phase"] == "Failed"


async def test_many_pods_and_a_short_history_are_no_trouble(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MAX_CHANGES", 100)
    for number in range(300):
        await cluster.create(POD, body(POD, "n", f"a{number}"))
    kubelet = SimulatedKubelet(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        for number in range(300):
            await phases_until(cluster, f"a{number}", is_over)
        tasks.cancel_scope.cancel()


async def test_a_write_that_failed_is_made_again(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.simulated_kubelet.RETRY_S", 0.001)
    whole, failed = cluster.patch, 0

    async def patch(*args: Any, **kwargs: Any) -> ObservedObject:
        nonlocal failed
        failed += 1
        if failed % 2:
            raise UnavailableError("Pod n/a", "try again")
        return await whole(*args, **kwargs)

    monkeypatch.setattr(cluster, "patch", patch)
    await cluster.create(POD, body(POD, "n", "a"))
    kubelet = SimulatedKubelet(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        await phases_until(cluster, "a", is_over)
        tasks.cancel_scope.cancel()
    assert (failed, kubelet.patches) == (6, 3)


async def test_a_pod_that_is_gone_is_forgotten(cluster: EmbeddedCluster) -> None:
    kubelet = SimulatedKubelet(cluster, lambda _: succeeds(finished_s=1e6))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kubelet.run)
        await cluster.create(POD, body(POD, "n", "a"))
        await phases_until(cluster, "a", lambda status: status["phase"] == "Running")
        await cluster.delete(POD, "n", "a")
        with pytest.raises(NotFoundError):
            await cluster.get(POD, "n", "a")
        with anyio.fail_after(20):
            while kubelet._pods:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
