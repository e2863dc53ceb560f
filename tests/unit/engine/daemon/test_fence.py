"""When a replica has to stop, and what it can not do any more then."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import POD
from propfan.engine.daemon.fence import Fence, FencedCluster, FencedSink, boot_time_s
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.errors import UnavailableError

pytestmark = pytest.mark.anyio


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(for_s: float = 7.0) -> tuple[Fence, Watch]:
    watch = Watch()
    fence = Fence(watch)
    fence.begin(watch.now + for_s)
    return fence, watch


def test_a_new_fence_is_shut() -> None:
    assert not Fence(Watch()).is_open


def test_it_is_open_until_its_deadline() -> None:
    fence, watch = opened()
    watch.now += 6.9
    assert fence.is_open
    watch.now += 0.1
    assert not fence.is_open


def test_a_renewal_pushes_the_deadline_on_and_never_back() -> None:
    fence, watch = opened()
    fence.extend(watch.now + 20)
    fence.extend(watch.now + 3)
    watch.now += 19
    assert fence.is_open


def test_a_renewal_that_comes_late_is_of_no_use() -> None:
    """As after a stop of the whole process: nobody has looked in time, and others may have taken over."""
    fence, watch = opened()
    watch.now += 8
    fence.extend(watch.now + 7)
    assert not fence.is_open


def test_what_is_shut_stays_shut_and_keeps_its_first_reason() -> None:
    fence, watch = opened()
    fence.shut("stolen")
    fence.shut("another")
    fence.extend(watch.now + 100)
    assert (fence.is_open, fence.why) == (False, "stolen")


async def test_who_waits_for_its_end_is_woken() -> None:
    fence, _ = opened()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fence.closed)
        await anyio.wait_all_tasks_blocked()
        fence.shut("over")


async def test_its_deadline_wakes_them_too() -> None:
    fence = Fence()
    fence.begin(boot_time_s() + 0.05)
    with anyio.fail_after(5):
        await fence.closed()
    assert not fence.is_open


class Events:
    def __init__(self) -> None:
        self.recorded: list[Any] = []

    async def record(self, events: Any) -> None:
        self.recorded.extend(events)


async def test_once_it_is_shut_nothing_is_written_or_told_and_reads_go_on() -> None:
    fence, _ = opened()
    pod = msgspec.json.encode({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}})
    told = Events()
    sink = FencedSink(told, fence)
    async with EmbeddedCluster.open() as truth:
        cluster = FencedCluster(truth, fence)
        await cluster.create(POD, pod)
        await sink.record([])
        fence.shut("over")
        for write in (
            lambda: cluster.create(POD, pod),
            lambda: cluster.patch(POD, "n", "p", {}),
            lambda: cluster.delete(POD, "n", "p"),
            lambda: sink.record([]),
        ):
            with pytest.raises(UnavailableError, match="over"):
                await write()
        assert (await cluster.get(POD, "n", "p")).metadata.name == "p"
        assert len((await cluster.list(POD)).items) == 1
        async with cluster.watch(POD, resource_version="0") as stream:
            assert stream is not None
