"""When status is written, and who is woken for it, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from typing import Any

import anyio
import pytest

from propfan.engine.cluster import TASK_ACTION, ObjectMeta, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, identity_of
from propfan.engine.reconcile.publisher import Publisher, Signal
from propfan.engine.reconcile.timers import Timers
from propfan.engine.task_state import Limits, TaskState
from tests.simulation.virtual_time import VirtualClock, VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Desk:
    """A publisher whose cluster only notes when it was written to, in seconds."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        clock = VirtualClock(loop)
        self.began_s = loop.time()
        self.written_s: list[float] = []
        self.timers: Timers[LiveTask] = Timers(clock, self.due, lambda _: True)
        self.publisher = Publisher(
            self,  # type: ignore[arg-type]  # of a cluster it only uses patch
            self,
            EngineConfig(status_linger_s=0.05),
            clock,
            self.timers,
            on_written=lambda _: None,
            on_vanished=lambda _: None,
            on_overtaken=lambda _, __: None,
        )
        action = ObservedObject(TASK_ACTION, ObjectMeta(name="a", namespace="n", resource_version="1"), b"{}")
        state = TaskState("n/a", Limits(), clock.now())
        self.live = LiveTask(TaskKey("n", "a"), action, state, identity_of(action, None))

    def due(self, live: LiveTask) -> None:
        self.publisher.due(live)

    async def record(self, events: object) -> None:
        return None

    async def patch(self, *_: object, **__: object) -> ObservedObject:
        self.written_s.append(round(self._loop.time() - self.began_s, 3))
        return self.live.action

    def change(self, *, urgent: bool = False) -> None:
        self.live.revision += 1
        self.publisher.changed(self.live, urgent=urgent)

    async def run(self, *pauses_s: float, urgent_last: bool = False) -> list[float]:
        """Changes the task after each pause, and says when it was written."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.publisher.run)
            tasks.start_soon(self.timers.run)
            for number, pause_s in enumerate(pauses_s, 1):
                await anyio.sleep(pause_s)
                self.change(urgent=urgent_last and number == len(pauses_s))
            await anyio.sleep(10.0)
            tasks.cancel_scope.cancel()
        return self.written_s


async def test_first_change_waits_for_others() -> None:
    assert await Desk().run(1.0, 0.02, 0.02) == [1.05]


async def test_change_after_a_quiet_time_is_written_at_once() -> None:
    assert await Desk().run(1.0, 1.0) == [1.05, 2.0]


async def test_quick_changes_after_a_write_are_one_write() -> None:
    assert await Desk().run(1.0, 1.0, 0.01, 0.01) == [1.05, 2.0, 2.06]


async def test_verdict_does_not_wait() -> None:
    assert await Desk().run(1.0, 0.01, urgent_last=True) == [1.01]


async def test_under_load_changes_wait_longer_but_not_for_ever() -> None:
    desk = Desk()
    desk.timers.late_by = timedelta(seconds=0.03)
    assert await desk.run(1.0, 0.4) == [1.6]
    desk = Desk()
    desk.timers.late_by = timedelta(seconds=60)
    assert await desk.run(1.0) == [3.0]


async def test_each_piece_of_work_wakes_one_waiter() -> None:
    signal, work, taken = Signal(), deque[str](), list[str]()

    async def take(name: str) -> None:
        await signal.wait_for(work)
        taken.append(f"{name} {work.popleft()}")

    with anyio.move_on_after(1.0):
        async with anyio.create_task_group() as tasks:
            for name in ("first", "second", "third"):
                tasks.start_soon(take, name)
            await anyio.sleep(0.1)
            for item in ("x", "y"):
                work.append(item)
                signal.give()
    assert taken == ["third x", "second y"]


async def test_waiter_that_was_cancelled_takes_no_work_from_others() -> None:
    signal, work, taken = Signal(), deque[str](), list[str]()

    async def take() -> None:
        await signal.wait_for(work)
        taken.append(work.popleft())

    with anyio.fail_after(1.0):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await anyio.sleep(0.1)
            async with anyio.create_task_group() as doomed:
                doomed.start_soon(take)
                await anyio.sleep(0.1)
                doomed.cancel_scope.cancel()
            work.append("x")
            signal.give()
    assert taken == ["x"]
