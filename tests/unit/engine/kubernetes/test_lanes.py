"""Who goes first, and how many."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from propfan.engine.kubernetes.lanes import LONGEST_HOLD_S, Lane, Rate
from tests.simulation.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio

UNLIMITED = Rate(0, 1)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Traffic:
    """Requests that take a second each, and the order and time in which they began."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.began: list[str] = []
        self.times: list[float] = []
        self.under_way = 0
        self.most = 0

    async def send(self, group: str) -> None:
        async with self.lane.slot(group):
            self.began.append(group)
            self.times.append(anyio.current_time())
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await anyio.sleep(1)
            self.under_way -= 1


async def test_no_more_than_so_many_are_under_way() -> None:
    traffic = Traffic(Lane(3, UNLIMITED))
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(traffic.send, "a")
    assert traffic.most == 3
    assert len(traffic.began) == 20


async def test_a_busy_namespace_does_not_keep_the_others_waiting() -> None:
    traffic = Traffic(Lane(1, UNLIMITED))
    async with anyio.create_task_group() as tasks:
        for group in "aaaaaabbc":
            tasks.start_soon(traffic.send, group)
    assert "".join(traffic.began) == "aabcabaaa"


async def test_one_that_gives_up_waiting_takes_no_place() -> None:
    traffic = Traffic(Lane(1, UNLIMITED))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(traffic.send, "a")
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0.5) as scope:
            await traffic.send("b")
        assert scope.cancelled_caught
        tasks.start_soon(traffic.send, "c")
    assert traffic.began == ["a", "c"]


async def test_a_place_that_is_given_to_one_who_just_gave_up_goes_to_the_next() -> None:
    lane = Lane(1, UNLIMITED)
    traffic = Traffic(lane)
    async with anyio.create_task_group() as tasks:
        leave = anyio.Event()

        async def first() -> None:
            async with lane.slot("a"):
                await leave.wait()

        async with anyio.create_task_group() as impatient:
            tasks.start_soon(first)
            await anyio.lowlevel.checkpoint()
            impatient.start_soon(traffic.send, "b")
            await anyio.wait_all_tasks_blocked()
            leave.set()
            await anyio.lowlevel.checkpoint()
            impatient.cancel_scope.cancel()
        with anyio.fail_after(5):
            await traffic.send("c")
    assert traffic.began[-1] == "c"


async def test_the_rate_is_kept_after_a_burst() -> None:
    traffic = Traffic(Lane(100, Rate(2, 3)))
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(traffic.send, "a")
    assert [pytest.approx(time - began) for time in traffic.times] == [0, 0, 0, 0.5, 1.0, 1.5, 2.0]


def test_a_quiet_time_is_saved_up_to_the_burst_only() -> None:
    rate = Rate(10, 5)
    assert [rate.take(0.0) for _ in range(6)] == [0, 0, 0, 0, 0, pytest.approx(0.1)]
    assert [rate.take(1000.0) for _ in range(6)] == [pytest.approx(wait_s) for wait_s in (0, 0, 0, 0, 0, 0.1)]


async def test_a_lane_is_held_for_as_long_as_the_server_asks() -> None:
    traffic = Traffic(Lane(10, UNLIMITED))
    began = anyio.current_time()
    traffic.lane.hold(5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(traffic.send, "a")
        await anyio.sleep(4)
        traffic.lane.hold(3)
        traffic.lane.hold(1)
    assert traffic.times == [pytest.approx(began + 7)]


async def test_no_server_can_hold_a_lane_for_ever() -> None:
    traffic = Traffic(Lane(10, UNLIMITED))
    began = anyio.current_time()
    traffic.lane.hold(1e9)
    await traffic.send("a")
    assert traffic.times == [pytest.approx(began + LONGEST_HOLD_S)]
