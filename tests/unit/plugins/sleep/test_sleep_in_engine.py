"""core-sleep as a whole: submitted, run and restarted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from flyteidl2.core import types_pb2

from propfan.engine.api import Engine
from propfan.engine.clock import Clock
from propfan.engine.config import EngineConfig
from propfan.engine.submission import Submission
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import literal_map, task_template
from propfan.plugins.sleep import entry

TEMPLATE = task_template("core-sleep", inputs={"duration": types_pb2.DURATION}).SerializeToString()


def a_sleep_of(duration: timedelta) -> Submission:
    return Submission(template=TEMPLATE, inputs=literal_map(duration=duration).SerializeToString())


class ClockAhead:
    def __init__(self, by: timedelta) -> None:
        self.by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self.by


def engine_in(folder: Path, clock: Clock | None = None) -> Engine:
    registry = Registry()
    registry.register(entry)
    return Engine(EngineConfig(data_dir=folder), registry=registry, clock=clock)


@pytest.mark.anyio
@pytest.mark.parametrize("duration", [timedelta(), timedelta(milliseconds=30)])
async def test_task_ends_when_the_time_is_over(tmp_path: Path, duration: timedelta) -> None:
    with anyio.fail_after(20):
        async with engine_in(tmp_path) as engine:
            key = await engine.submit(a_sleep_of(duration))
            status = await engine.wait(key)
    assert status.phase is Phase.SUCCESS
    assert status.ended_at is not None
    assert status.ended_at - status.created_at >= duration


@pytest.mark.anyio
async def test_restarted_engine_remembers_when_the_sleep_began(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        async with engine_in(tmp_path) as engine:
            key = await engine.submit(a_sleep_of(timedelta(hours=1)))
            async with engine.events(key=key) as events:
                async for _, event in events:
                    if event.plugin_phase is Phase.RUNNING:
                        break
        async with engine_in(tmp_path, ClockAhead(timedelta(hours=1))) as engine:
            status = await engine.wait(key)
    assert status.phase is Phase.SUCCESS
