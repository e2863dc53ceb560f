"""What errors and hanging calls of plugins and ports become."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from propfan.engine.task_state import Delayed, Faulted, Stage
from propfan.pluginmachinery.errors import (
    ApiError,
    BadTaskSpecificationError,
    ConflictError,
    DecodeError,
    ForbiddenError,
    NameTooLongError,
    PermanentError,
    PluginError,
    StorageError,
    TaskError,
    ThrottledError,
    TransientError,
    UnavailableError,
)
from propfan.pluginmachinery.phases import PhaseInfo
from tests.unit.engine.reconcile.rig import running
from tests.unit.engine.reconcile.single_task import NOW, Plugin, raising, single_task

pytestmark = pytest.mark.anyio


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


BAD = BadTaskSpecificationError("no image")
ITSELF = TaskError("", "again")


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ConflictError("Pod x", "changed"), Delayed("Pod x: changed", 0.05)),
        (StorageError("s3://b/k", "down"), Delayed("s3://b/k: down")),
        (TransientError("Busy", "later", 9.0), Delayed("[Busy] later", 9.0)),
        (ThrottledError("Pod x", "slow", 8.0), Delayed("Pod x: slow", 8.0)),
        (UnavailableError("Pod x", "down"), Delayed("Pod x: down")),
        (ApiError("Pod x", "crashed"), Delayed("Pod x: crashed")),
        (ForbiddenError("Pod x", "no"), Delayed("Pod x: no")),
        (TaskError("Mine", "text"), Faulted("Mine", "text")),
        (TaskError("", "text"), Faulted("", "text")),
        (PermanentError("Mine", "text"), Faulted("Mine", "text", is_permanent=True)),
        (BAD, Faulted("BadTaskSpecification", "no image", is_permanent=True)),
        (PluginError("p", "id", "gone"), Faulted("PluginError", "plugin 'p': id: gone")),
        (DecodeError("what", "problem"), Faulted("DecodeError", "what: problem")),
        (NameTooLongError("f0"), Faulted("NameTooLongError", str(NameTooLongError("f0")))),
        (ValueError("odd"), Faulted("ValueError", "ValueError: odd")),
        (RecursionError(), Faulted("RecursionError", "RecursionError: ")),
        (ValueError("\udcff"), Faulted("ValueError", "ValueError: ?")),
        (TaskError("Mine", "\udcff"), Faulted("Mine", "?")),
        (StorageError("s3://b", "\udcff"), Delayed("s3://b: ?")),
        (caused(TaskError("", "outer"), TaskError("Inner", "x")), Faulted("Inner", "outer")),
        (caused(TaskError("Outer", "x"), BAD), Faulted("BadTaskSpecification", "x", is_permanent=True)),
        (caused(ValueError("x"), BAD), Faulted("BadTaskSpecification", "ValueError: x", is_permanent=True)),
        (caused(StorageError("s3://b", "x"), BAD), Faulted("BadTaskSpecification", "s3://b: x", is_permanent=True)),
        (caused(ITSELF, ITSELF), Faulted("", "again")),
    ],
    ids=repr,
)
async def test_error_of_a_plugin_delays_its_task_or_is_its_fault(error: Exception, event: object) -> None:
    plugin = Plugin()
    plugin.answer = raising(error)
    async with single_task(plugin) as it:
        await it.launch()
        with anyio.fail_after(5):
            assert await it.round(stage=Stage.ACTIVE, observed_at=NOW - timedelta(days=1)) == event


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.ENDED])
async def test_call_that_hangs_is_a_fault_where_a_plugin_runs_the_task_and_else_a_delay(stage: Stage) -> None:
    async with single_task(plugin_timeout_s=7.0) as it:
        it.put(stage=stage)
        event = it.rounds.overdue(it.live)
        if stage in (Stage.LAUNCHING, Stage.WAITING_FOR_RESOURCES, Stage.ACTIVE):
            assert isinstance(event, Faulted)
            assert (event.code, event.is_permanent) == ("PluginTimeout", False)
            assert event.message.endswith("no answer within 7 s")
        else:
            assert isinstance(event, Delayed)
            assert event.reason.endswith("no answer within 7 s")


async def test_plugin_that_hangs_costs_its_own_task_only() -> None:
    async with running(plugin_timeout_s=0.4, max_system_failures=0) as it:
        look = it.plugin.get_task_phase

        async def hang(ctx: Any, resource: Any) -> PhaseInfo:
            if resource.metadata.name.startswith("bad"):
                await anyio.sleep_forever()
            return await look(ctx, resource)

        it.plugin.get_task_phase = hang  # type: ignore[method-assign]
        for name in ("bad", "good"):
            await it.submit(name)
            await it.until_pod(f"{name}-a0-0")
            await it.move(f"{name}-a0-0", "Succeeded")
        error = (await it.until_over("bad")).error_state
        assert error is not None
        assert error.code == "MaxSystemFailuresExceeded"
        assert "[PluginTimeout] observe: no answer within 0.4 s" in error.message
        assert (await it.until_over("good")).error_state is None
