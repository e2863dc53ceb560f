"""Runs in memory: one copy for all who look, and every change told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from flyteidl2.common.phase_pb2 import ACTION_PHASE_RUNNING as RUNNING
from flyteidl2.common.phase_pb2 import ACTION_PHASE_SUCCEEDED as SUCCEEDED

from propfan.engine.control_plane.ledger import Ledger
from propfan.engine.control_plane.records import ActionRecord
from propfan.engine.control_plane.store.database import open_database
from propfan.engine.control_plane.store.run_store import RunStore
from propfan.pluginmachinery.errors import NotFoundError
from tests.unit.engine.control_plane.messages import action_record, run_record, sleep_task, told

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def a_ledger() -> AsyncIterator[Ledger]:
    """With a run of one action."""
    async with open_database("sqlite://") as database:
        ledger = Ledger(RunStore(database), is_shared=False)
        run = run_record()
        await ledger.add_run(run, action_record(run), sleep_task())
        yield ledger


async def test_a_watcher_sees_what_is_and_then_each_change() -> None:
    async with a_ledger() as ledger:
        view = await ledger.view("r1")
        seen: list[list[tuple[str, int]]] = []

        async def watch() -> None:
            async with aclosing(view.follow()) as changes:  # type: ignore[type-var]
                async for records in changes:
                    seen.append([(record.key.name, record.phase) for record in records])
                    if records and records[-1].is_over:
                        return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            await ledger.record([told(RUNNING)])
            await anyio.wait_all_tasks_blocked()
            assert [record.key.name for record in await ledger.record([told(SUCCEEDED, after_s=2)])] == ["a0"]
        assert seen == [[("a0", 1)], [("a0", RUNNING)], [("a0", SUCCEEDED)]]
        assert view.watchers == 0


async def test_a_watcher_of_children_begins_with_nothing_when_there_are_none() -> None:
    async with a_ledger() as ledger:
        view = await ledger.view("r1")
        async with aclosing(view.follow(lambda record: record.parent == "a0")) as changes:  # type: ignore[type-var]
            assert await anext(changes) == []
            assert await ledger.add_action(action_record(view.run, "a1", "a0"), None)
            assert [record.key.name for record in await anext(changes)] == ["a1"]


async def test_a_watcher_who_is_late_is_told_the_latest_of_each_action_in_order() -> None:
    async with a_ledger() as ledger:
        view = await ledger.view("r1")
        for name in ("a1", "a2"):
            await ledger.add_action(action_record(view.run, name, "a0"), None)
        async with aclosing(view.follow()) as changes:  # type: ignore[type-var]
            assert [record.key.name for record in await anext(changes)] == ["a0", "a1", "a2"]
            for name, phase, after_s in (("a2", RUNNING, 1.0), ("a0", RUNNING, 2.0), ("a2", SUCCEEDED, 3.0)):
                await ledger.record([told(phase, action=name, after_s=after_s)])
            assert [(record.key.name, record.phase) for record in await anext(changes)] == [
                ("a0", RUNNING),
                ("a2", SUCCEEDED),
            ]


async def test_what_the_engine_tells_of_need_not_be_handed_over_again() -> None:
    async with a_ledger() as ledger:
        assert [record.key.name for record in await ledger.store.unsubmitted("here")] == ["a0"]
        await ledger.record([told(RUNNING)])
        assert await ledger.store.unsubmitted("here") == []


async def test_records_that_somebody_holds_do_not_change_under_them() -> None:
    async with a_ledger() as ledger:
        held: ActionRecord = (await ledger.view("r1")).actions["a0"]
        await ledger.record([told(RUNNING)])
        assert (held.phase, (await ledger.view("r1")).actions["a0"].phase) == (1, RUNNING)


async def test_events_survive_a_restart_and_repeats_of_them_are_no_news() -> None:
    async with open_database("sqlite://") as database:
        store = RunStore(database)
        first, run = Ledger(store, is_shared=False), run_record()
        await first.add_run(run, action_record(run), sleep_task())
        await first.record([told(RUNNING), told(SUCCEEDED, after_s=2)])
        second = Ledger(store, is_shared=False)
        assert await second.record([told(RUNNING), told(SUCCEEDED, after_s=2)]) == []
        assert (await second.view("r1")).actions["a0"].phase == SUCCEEDED


async def test_two_processes_on_one_database_lose_no_change() -> None:
    async with open_database("sqlite://") as database:
        store = RunStore(database)
        ledgers, run = [Ledger(store, is_shared=True) for _ in range(2)], run_record()
        await ledgers[0].add_run(run, action_record(run), sleep_task())
        await ledgers[0].add_action(action_record(run, "a1", "a0"), None)
        await ledgers[1].view("r1")
        await ledgers[0].record([told(RUNNING, action="a1")])
        await ledgers[1].record([told(SUCCEEDED, action="a1", after_s=2)])
        found = {record.key.name: record for record in await store.actions_of("r1")}
        transitions = [one.phase for one in found["a1"].details.attempts[0].phase_transitions]
        assert transitions == [RUNNING, SUCCEEDED]


async def test_an_action_is_added_once() -> None:
    async with a_ledger() as ledger:
        record = action_record((await ledger.view("r1")).run, "a1", "a0")
        assert [await ledger.add_action(record, None), await ledger.add_action(record, None)] == [True, False]


async def test_events_of_what_nobody_knows_are_dropped() -> None:
    async with a_ledger() as ledger:
        assert await ledger.record([told(SUCCEEDED, run="r9"), told(SUCCEEDED, action="a9")]) == []
        with pytest.raises(NotFoundError):
            await ledger.view("r9")
