"""The cache as tasks see it: submitted, run as processes, and not run again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from flyteidl2.core import tasks_pb2, types_pb2

from propfan.engine import task_cache
from propfan.engine.api import Engine
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import Submission, TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import literal_map, task_template
from propfan.plugins.pod import entry

RUN = """
folder=${1#file://}; mkdir -p "$folder"
echo "$3" >> "$2"
case "$3" in wait*) read -r line < "$2.gate";; esac
printf %s "$3" > "$folder/outputs.pb"
"""
"""Notes that it ran, waits for the gate if it is told to, and leaves its text as outputs."""


class Lab:
    """An engine on a data directory, with the notes of the tasks that ran."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self.notes = folder / "notes"

    def task(self, says: str, *, name: str = "sample", version: str = "1") -> tasks_pb2.TaskTemplate:
        template = task_template(
            "container",
            image="none",
            command=["/bin/sh", "-c", RUN, "task"],
            args=["{{.outputPrefix}}", str(self.notes), says],
            inputs={"x": types_pb2.INTEGER, "y": types_pb2.INTEGER},
            outputs={"o0": types_pb2.STRING},
            name=name,
        )
        template.metadata.discoverable = True
        template.metadata.discovery_version = version
        return template

    async def submit(self, template: tasks_pb2.TaskTemplate, x: int = 1, y: int = 1) -> TaskKey:
        inputs = literal_map(x=x, y=y).SerializeToString()
        return await self.engine.submit(Submission(template=template.SerializeToString(), inputs=inputs))

    async def run(self, template: tasks_pb2.TaskTemplate, x: int = 1, y: int = 1) -> TaskStatus:
        return await self.engine.wait(await self.submit(template, x, y))

    async def outputs(self, status: TaskStatus) -> bytes:
        return await self.engine.store.get(f"{status.output_prefix}/outputs.pb")

    def said(self) -> list[str]:
        return self.notes.read_text().split()

    async def until(self, key: TaskKey, phase: Phase) -> None:
        async with self.engine.events(key=key) as events:
            async for _, event in events:
                if event.plugin_phase is phase:
                    return

    async def open_gate(self) -> None:
        await anyio.Path(f"{self.notes}.gate").write_text("go\n")


@asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    registry = Registry()
    registry.register(entry)
    config = EngineConfig(data_dir=folder / "data", store=f"file://{folder}/store", status_linger_s=0.0)
    with anyio.fail_after(20):
        async with Engine(config, registry=registry) as engine:
            yield Lab(folder, engine)


@pytest.mark.anyio
async def test_second_run_is_a_hit_with_equal_outputs(tmp_path: Path) -> None:
    async with lab(tmp_path) as tasks:
        first = await tasks.run(tasks.task("hello"))
        second = await tasks.run(tasks.task("hello"))
        assert (first.outcome, first.cache_status) == (Outcome.COMPLETED, "CACHE_POPULATED")
        assert (second.outcome, second.cache_status) == (Outcome.COMPLETED, "CACHE_HIT")
        assert tasks.said() == ["hello"]
        assert first.output_prefix != second.output_prefix
        assert await tasks.outputs(first) == await tasks.outputs(second) == b"hello"


@pytest.mark.anyio
async def test_what_differs_is_computed_and_what_is_ignored_is_not(tmp_path: Path) -> None:
    async with lab(tmp_path) as tasks:
        await tasks.run(tasks.task("first"), x=1)
        await tasks.run(tasks.task("inputs"), x=2)
        await tasks.run(tasks.task("version", version="2"))
        await tasks.run(tasks.task("name", name="other"))
        ignoring = tasks.task("ignoring", name="ignoring")
        ignoring.metadata.cache_ignore_input_vars.append("y")
        await tasks.run(ignoring, x=1, y=1)
        hit = await tasks.run(ignoring, x=1, y=2)
        assert hit.cache_status == "CACHE_HIT"
        assert tasks.said() == ["first", "inputs", "version", "name", "ignoring"]


@pytest.mark.anyio
async def test_task_runs_again_when_its_cached_outputs_are_gone(tmp_path: Path) -> None:
    async with lab(tmp_path) as tasks:
        first = await tasks.run(tasks.task("hello"))
        await anyio.Path(f"{first.output_prefix.removeprefix('file://')}/outputs.pb").unlink()
        second = await tasks.run(tasks.task("hello"))
        third = await tasks.run(tasks.task("hello"))
        assert [second.cache_status, third.cache_status] == ["CACHE_POPULATED", "CACHE_HIT"]
        assert tasks.said() == ["hello", "hello"]


@pytest.mark.anyio
async def test_failed_task_is_not_cached(tmp_path: Path) -> None:
    async with lab(tmp_path) as tasks:
        failing = tasks.task("hello")
        failing.container.command[2] = 'echo ran >> "$2"; exit 1'
        for _ in range(2):
            assert (await tasks.run(failing)).outcome is Outcome.FAILED
        assert tasks.said() == ["ran", "ran"]


@pytest.mark.anyio
async def test_two_serialisable_tasks_at_once_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_cache, "_BUSY_RETRY_S", 0.01)
    async with lab(tmp_path) as tasks:
        os.mkfifo(f"{tasks.notes}.gate")
        template = tasks.task("wait")
        template.metadata.cache_serializable = True
        first = await tasks.submit(template)
        await tasks.until(first, Phase.RUNNING)
        second = await tasks.submit(template)
        await tasks.until(second, Phase.WAITING_FOR_CACHE)
        waiting = await tasks.engine.explain(second)
        assert waiting.waiting_for == f'waiting for cache to be populated by reservation owner "{first}"'
        await tasks.open_gate()
        statuses = [await tasks.engine.wait(key) for key in (first, second)]
        assert [status.cache_status for status in statuses] == ["CACHE_POPULATED", "CACHE_HIT"]
        assert tasks.said() == ["wait"]
        assert await tasks.outputs(statuses[1]) == b"wait"


@pytest.mark.anyio
async def test_aborted_owner_lets_the_next_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_cache, "_BUSY_RETRY_S", 0.01)
    async with lab(tmp_path) as tasks:
        os.mkfifo(f"{tasks.notes}.gate")
        template = tasks.task("wait")
        template.metadata.cache_serializable = True
        first = await tasks.submit(template)
        await tasks.until(first, Phase.RUNNING)
        second = await tasks.submit(template)
        await tasks.until(second, Phase.WAITING_FOR_CACHE)
        await tasks.engine.abort(first)
        await tasks.until(second, Phase.RUNNING)
        await tasks.open_gate()
        assert (await tasks.engine.wait(first)).outcome is Outcome.ABORTED
        assert (await tasks.engine.wait(second)).cache_status == "CACHE_POPULATED"
