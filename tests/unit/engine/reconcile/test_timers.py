"""Deadlines on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.reconcile import timers
from propfan.engine.reconcile.timers import Timers
from tests.simulation.virtual_time import START, VirtualClock, VirtualLoop


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Alarms:
    """Timers, and who was called when, in seconds."""

    def __init__(self, clock: Any = None) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.began_s = loop.time()
        self.clock = clock or VirtualClock(loop)
        self.called: list[tuple[str, float]] = []
        self.on_due: Callable[[str], None] | None = None
        self.wanted: set[str] = set()
        self.timers: Timers[str] = Timers(self.clock, self.note, self.wanted.__contains__)

    def note(self, item: str) -> None:
        self.called.append((item, self.now_s))
        if self.on_due is not None:
            self.on_due(item)

    @property
    def now_s(self) -> float:
        return round(asyncio.get_running_loop().time() - self.began_s, 6)

    def set(self, item: str, after_s: float) -> None:
        self.timers.set(item, self.clock.now() + timedelta(seconds=after_s))


@asynccontextmanager
async def running(alarms: Alarms) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(alarms.timers.run)
        yield
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_items_are_called_at_their_times_in_order() -> None:
    alarms = Alarms()
    alarms.set("late", 500)
    alarms.set("soon", 1)
    alarms.set("past", -5)
    async with running(alarms):
        await anyio.sleep(501)
    assert alarms.called == [("past", 0), ("soon", 1), ("late", 500)]


@pytest.mark.anyio
async def test_sooner_time_that_is_set_later_is_kept() -> None:
    alarms = Alarms()
    alarms.set("late", 50)
    async with running(alarms):
        await anyio.sleep(10)
        alarms.set("soon", 5)
        alarms.set("at once", 0)
        await anyio.sleep(100)
    assert alarms.called == [("at once", 10), ("soon", 15), ("late", 50)]


@pytest.mark.anyio
async def test_item_with_several_times_is_called_at_each() -> None:
    alarms = Alarms()
    for after_s in (3, 1, 3):
        alarms.set("a", after_s)
    async with running(alarms):
        await anyio.sleep(10)
    assert alarms.called == [("a", 1), ("a", 3), ("a", 3)]
    assert len(alarms.timers) == 0


@pytest.mark.anyio
async def test_call_may_set_the_next_time() -> None:
    alarms = Alarms()
    alarms.on_due = lambda item: alarms.set(item, 2)
    alarms.set("a", 2)
    async with running(alarms):
        await anyio.sleep(7)
    assert alarms.called == [("a", 2), ("a", 4), ("a", 6)]


class JumpingClock:
    """A time of day that somebody changes by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time()) + self.ahead


@pytest.mark.anyio
async def test_clock_that_was_put_forward_is_noticed_within_a_minute() -> None:
    clock = JumpingClock()
    alarms = Alarms(clock)
    alarms.set("a", 86_400)
    async with running(alarms):
        await anyio.sleep(1)
        clock.ahead = timedelta(days=1)
        await anyio.sleep(timers._LONGEST_SLEEP_S)
    assert [item for item, _ in alarms.called] == ["a"]


@pytest.mark.anyio
async def test_clock_that_was_put_back_calls_nobody_early() -> None:
    clock = JumpingClock()
    alarms = Alarms(clock)
    alarms.set("a", 100)
    async with running(alarms):
        await anyio.sleep(1)
        clock.ahead = timedelta(seconds=-1000)
        await anyio.sleep(500)
        assert alarms.called == []
        await anyio.sleep(700)
    assert alarms.called == [("a", 1100)]


@pytest.mark.anyio
async def test_times_of_what_is_not_wanted_any_more_take_no_room_for_ever() -> None:
    alarms = Alarms()
    alarms.wanted |= {"kept"}
    alarms.set("kept", 1e4)
    for number in range(5000):
        alarms.set(f"over-{number}", 1e4)
        alarms.timers.abandoned()
    assert len(alarms.timers) <= 2 * timers._FEW
    async with running(alarms):
        await anyio.sleep(2e4)
    assert "kept" in [item for item, _ in alarms.called]


@given(st.lists(st.integers(-5, 300), max_size=20), st.lists(st.integers(-5, 300), max_size=20))
def test_everybody_is_called_at_or_after_the_time_and_not_later(first: list[int], later: list[int]) -> None:
    async def play() -> None:
        alarms = Alarms()
        for after_s in first:
            alarms.set(str(after_s), after_s)
        async with running(alarms):
            await anyio.sleep(100)
            for after_s in later:
                alarms.set(str(100 + after_s), after_s)
            await anyio.sleep(1000)
        due = sorted([max(0, s) for s in first] + [100 + max(0, s) for s in later])
        assert [at_s for _, at_s in alarms.called] == due

    loop = VirtualLoop()
    try:
        loop.run_until_complete(play())
    finally:
        loop.close()
