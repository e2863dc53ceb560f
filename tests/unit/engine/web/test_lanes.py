from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from propfan.engine.web.lanes import Lane, Lanes, TokenBucket
from propfan.pluginmachinery.web_plugin import RateLimit

pytestmark = pytest.mark.anyio

FAST = RateLimit(100_000, 10_000)


def nothing() -> None:
    return


@asynccontextmanager
async def running(lane: Lane | Lanes) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.run)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()


def test_bucket_lets_a_burst_through_and_then_keeps_its_pace() -> None:
    bucket = TokenBucket(RateLimit(qps=2, burst=3))
    assert [bucket.wait_s(100.0) for _ in range(6)] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.5]
    assert bucket.wait_s(101.5) == 0.5
    assert bucket.wait_s(110.0) == 0.0


def test_bucket_saves_no_more_than_its_burst_and_no_clock_makes_it_grow() -> None:
    bucket = TokenBucket(RateLimit(qps=1000, burst=2))
    bucket.wait_s(50.0)
    assert [bucket.wait_s(0.0) for _ in range(2)] == [0.0, 0.001]
    assert [bucket.wait_s(9999.0) for _ in range(3)] == [0.0, 0.0, 0.001]


async def test_calls_begin_in_order_and_no_more_at_once_than_workers() -> None:
    lane, begun, go_on = Lane(TokenBucket(FAST), 3, 60.0), list[int](), anyio.Event()

    def call(number: int) -> Callable[[], object]:
        async def wait() -> None:
            begun.append(number)
            await go_on.wait()

        return wait

    async with running(lane):
        for number in range(10):
            lane.put(call(number), nothing)  # type: ignore[arg-type]
        await anyio.wait_all_tasks_blocked()
        assert (begun, len(lane)) == ([0, 1, 2], 7)
        go_on.set()
        await anyio.wait_all_tasks_blocked()
    assert begun == list(range(10))


async def test_calls_from_before_the_start_are_made_then() -> None:
    lane, done = Lane(TokenBucket(FAST), 2, 60.0), anyio.Event()

    async def call() -> None:
        done.set()

    lane.put(call, nothing)
    async with running(lane):
        with anyio.fail_after(5):
            await done.wait()


async def test_call_that_hangs_is_cancelled_and_its_worker_goes_on() -> None:
    lane, overdue, done = Lane(TokenBucket(FAST), 1, 0.05), anyio.Event(), anyio.Event()

    async def finish() -> None:
        done.set()

    async with running(lane):
        lane.put(anyio.sleep_forever, overdue.set)
        lane.put(finish, nothing)
        with anyio.fail_after(5):
            await overdue.wait()
            await done.wait()


async def test_paused_lane_calls_nothing_until_the_time_is_over() -> None:
    lane, done = Lane(TokenBucket(FAST), 1, 60.0), anyio.Event()

    async def call() -> None:
        done.set()

    async with running(lane):
        lane.pause(0.1)
        began_s = anyio.current_time()
        lane.put(call, nothing)
        with anyio.fail_after(5):
            await done.wait()
        assert anyio.current_time() - began_s >= 0.1


async def test_endpoint_that_hangs_holds_up_no_other() -> None:
    lanes, done = Lanes(reads=FAST, writes=FAST, workers=1, limit_s=60.0), anyio.Event()

    async def call() -> None:
        done.set()

    async with running(lanes):
        lanes.of("down")[0].put(anyio.sleep_forever, nothing)
        lanes.of("up")[0].put(call, nothing)
        with anyio.fail_after(5):
            await done.wait()


async def test_looks_and_writes_have_lanes_of_their_own() -> None:
    lanes, done = Lanes(reads=FAST, writes=FAST, workers=1, limit_s=60.0), anyio.Event()

    async def call() -> None:
        done.set()

    async with running(lanes):
        reads, writes = lanes.of("one")
        assert lanes.of("one") == (reads, writes)
        writes.put(anyio.sleep_forever, nothing)
        reads.put(call, nothing)
        with anyio.fail_after(5):
            await done.wait()
