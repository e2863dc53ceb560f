"""When status is written, and who is woken for it, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine import status
from propfan.engine.cluster import TASK_ACTION, ObjectMeta, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, decode, identity_of
from propfan.engine.reconcile.publisher import Publisher, Signal
from propfan.engine.reconcile.timers import Timers
from propfan.engine.task_state import Limits, TaskState
from propfan.pluginmachinery.errors import ConflictError, UnavailableError
from propfan.pluginmachinery.phases import ZERO_TIME, Phase
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
        self.takes_s = 0.0
        self.overtaken_by: list[ObservedObject] = []
        self.timers: Timers[LiveTask] = Timers(clock, self.due, lambda _: True)
        self.publisher = Publisher(
            self,  # type: ignore[arg-type]  # of a cluster it only uses patch and get
            self,
            EngineConfig(status_linger_s=0.05),
            clock,
            self.timers,
            on_written=lambda _: None,
            on_vanished=lambda _: None,
            on_overtaken=lambda _, found: self.overtaken_by.append(found),
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
        await anyio.sleep(self.takes_s)
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


class ShakyDesk(Desk):
    """Keeps the TaskAction, refuses writes over what it has not shown, and answers the first ones as told.

    Args:
        fates: Of the first writes: ``refused``, or ``unheard`` when it is applied and the answer is lost.
    """

    def __init__(self, *fates: str) -> None:
        super().__init__()
        self._fates = list(fates)
        self.there = self.live.action

    def put(self, status: Mapping[str, Any]) -> None:
        version = str(int(self.there.metadata.resource_version) + 1)
        metadata = ObjectMeta(name="a", namespace="n", resource_version=version)
        self.there = ObservedObject(
            TASK_ACTION, metadata, msgspec.json.encode({"metadata": metadata, "status": status})
        )

    async def get(self, *_: object) -> ObservedObject:
        return self.there

    async def patch(self, *path: object, **options: object) -> ObservedObject:
        fate = self._fates.pop(0) if self._fates else ""
        if fate == "refused":
            raise UnavailableError("TaskAction n/a", "down")
        if options["resource_version"] != self.there.metadata.resource_version:
            raise ConflictError("TaskAction n/a", "changed")
        patch = path[-1]
        assert isinstance(patch, Mapping)
        self.put(patch["status"])
        if fate == "unheard":
            raise UnavailableError("TaskAction n/a", "timeout")
        return self.there

    def change(self, *, urgent: bool = False) -> None:
        self.live.state = msgspec.structs.replace(self.live.state, tries=self.live.state.tries + 1)
        super().change(urgent=urgent)


@pytest.mark.parametrize(
    "fates",
    [["unheard"], ["unheard", "refused"], ["refused", "unheard", "refused", "refused"], ["", "unheard", "refused"]],
    ids=" ".join,
)
async def test_a_write_whose_answer_was_lost_is_never_taken_for_that_of_another_engine(fates: list[str]) -> None:
    desk = ShakyDesk(*fates)
    await desk.run(1.0, 0.1, 0.1, 0.1, 0.1)
    assert desk.overtaken_by == []
    assert desk.live.is_durable
    assert status.load(decode(desk.there), Limits())[0].tries == 5


async def test_what_another_engine_wrote_counts_though_it_is_this_one_in_an_earlier_life() -> None:
    desk = ShakyDesk()
    earlier = LiveTask(desk.live.key, desk.there, desk.live.state, desk.live.identity)
    desk.put(status.to_patch(earlier.state, "r/a", ZERO_TIME, writer=earlier.writer)["status"])
    await desk.run(1.0)
    assert desk.overtaken_by == [desk.there]
    assert earlier.is_own_status(desk.there)


async def test_first_change_waits_for_others() -> None:
    assert await Desk().run(1.0, 0.02, 0.02) == [1.05]


async def test_change_after_a_quiet_time_is_written_at_once() -> None:
    assert await Desk().run(1.0, 1.0) == [1.05, 2.0]


async def test_quick_changes_after_a_write_are_one_write() -> None:
    assert await Desk().run(1.0, 1.0, 0.01, 0.01) == [1.05, 2.0, 2.06]


def pending(desk: Desk, *, has_object: bool = True) -> Desk:
    desk.live.state = msgspec.structs.replace(desk.live.state, phase=Phase.QUEUED)
    desk.live.object = desk.live.action if has_object else None
    return desk


async def test_what_is_on_its_way_to_run_waits_for_what_comes_soon() -> None:
    assert await pending(Desk()).run(1.0, 0.5, 0.5) == [3.0]
    assert await pending(Desk()).run(1.0, 4.0) == [3.0, 7.0]


async def test_a_slow_server_is_not_pressed_by_what_is_on_its_way_to_run() -> None:
    desk = pending(Desk())
    desk.takes_s = 2.0
    assert await desk.run(1.0, 5.0) == [3.0, 14.0]  # the first write took a tenth of its time into the average


async def test_what_is_of_a_job_elsewhere_does_not_wait_longer() -> None:
    assert await pending(Desk(), has_object=False).run(1.0, 0.5) == [1.05, 1.5]


async def test_a_beginning_ends_the_wait_before_it() -> None:
    desk = pending(Desk())

    async def begin() -> None:
        await anyio.sleep(1.5)
        desk.live.state = msgspec.structs.replace(desk.live.state, phase=Phase.RUNNING)
        desk.change()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin)
        await desk.run(1.0)
    assert desk.written_s == [1.55]


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
