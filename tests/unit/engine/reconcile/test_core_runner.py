"""What becomes of a core plugin's answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from propfan.engine.cluster import TASK_ACTION, ObservedObject
from propfan.engine.reconcile.core_runner import MAX_STATE_BYTES, CoreRunner
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, identity_of
from propfan.engine.task_state import Launched, Limits, ObjectGone, Observed, Outcome, PluginData, Stage, TaskState
from propfan.pluginmachinery.core_plugin import CoreProperties
from propfan.pluginmachinery.entries import CorePluginEntry, LoadedCorePlugin
from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import Phase, PhaseInfo, Transition, queued, retryable_failure, running, success

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLL_S = 10.0


class Plugin:
    """Answers what it is told to, and notes its calls."""

    def __init__(self, answer: object, stores: tuple[Any, Any] | None = None) -> None:
        self.answer = answer
        self.stores = stores
        self.calls: list[str] = []

    async def handle(self, ctx: Any) -> Any:
        if self.stores is not None:
            ctx.put_state(*self.stores)
        return self.answer

    async def abort(self, ctx: Any) -> None:
        self.calls.append("abort")

    async def finalize(self, ctx: Any) -> None:
        self.calls.append("finalize")

    def get_properties(self) -> CoreProperties:
        return CoreProperties()


class Round:
    """The part of a round's context that the runner uses."""

    def __init__(self) -> None:
        self.now = NOW
        self.new_state: tuple[Any, Any] | None = None

    def put_state(self, version: Any, state: Any) -> None:
        self.new_state = (version, state)


def live_task(**state: Any) -> LiveTask:
    seen = ObservedObject(TASK_ACTION, ObjectMeta(name="r1-a0", namespace="ns", uid="u", resource_version="1"), b"{}")
    task = msgspec.structs.replace(TaskState("ns/r1-a0", Limits(), NOW, stage=Stage.ACTIVE), **state)
    return LiveTask(TaskKey("ns", "r1-a0"), seen, task, identity_of(seen, None))


def runner(plugin: Plugin) -> CoreRunner:
    entry = CorePluginEntry(id="mine", task_types=("mine",), load=plugin)
    return CoreRunner(LoadedCorePlugin(entry, plugin, CoreProperties()), POLL_S)


async def observe(plugin: Plugin, live: LiveTask | None = None) -> Observed:
    event = await runner(plugin).observe(live or live_task(), Round())  # type: ignore[arg-type]
    assert isinstance(event, Observed)
    return event


@pytest.mark.anyio
async def test_task_is_looked_at_as_soon_as_it_is_handed_over() -> None:
    live = live_task()
    live.must_look = False
    event = await runner(Plugin(None)).launch(live, Round())  # type: ignore[arg-type]
    assert (event, live.must_look) == (Launched("handed to plugin mine"), True)


@pytest.mark.anyio
async def test_answer_becomes_an_event() -> None:
    failed = await observe(Plugin(Transition(retryable_failure("Code", "message", NOW, cleanup=True))))
    assert (failed.phase, failed.remove_object) == (Phase.RETRYABLE_FAILURE, True)
    assert failed.error is not None
    assert failed.error.code == "Code"
    assert (failed.recheck_at, failed.plugin_data) == (None, None)
    assert (await observe(Plugin(Transition(queued(NOW, 3, "why"))))).version == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wanted", "next_s"),
    [
        (None, POLL_S),
        (NOW + timedelta(seconds=3), 3),
        (NOW + timedelta(days=3), 3 * 86_400),
        (NOW, 0.05),
        (NOW - timedelta(days=1), 0.05),
    ],
)
async def test_plugin_that_goes_on_is_asked_again_but_never_without_a_pause(
    wanted: datetime | None, next_s: float
) -> None:
    info = running(NOW, 0).rechecked_at(wanted)
    assert (await observe(Plugin(Transition(info)))).recheck_at == NOW + timedelta(seconds=next_s)


@pytest.mark.anyio
async def test_plugin_that_has_ended_is_not_asked_again() -> None:
    assert (await observe(Plugin(Transition(success(NOW))))).recheck_at is None


@pytest.mark.anyio
async def test_only_a_changed_state_is_kept() -> None:
    going_on = Transition(running(NOW, 0))
    assert (await observe(Plugin(going_on, (1, b"a")))).plugin_data == PluginData(1, b"a")
    live = live_task(plugin_data=PluginData(1, b"a"))
    assert (await observe(Plugin(going_on, (1, b"a")), live)).plugin_data is None
    assert (await observe(Plugin(going_on, (2, b"a")), live)).plugin_data == PluginData(2, b"a")
    assert (await observe(Plugin(going_on), live)).plugin_data is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        None,
        running(NOW, 0),
        Transition(None),  # type: ignore[arg-type]
        Transition(PhaseInfo("RUNNING")),  # type: ignore[arg-type]
        Transition(PhaseInfo(Phase.RUNNING, version=-1)),
        Transition(PhaseInfo(Phase.RUNNING, reason=1)),  # type: ignore[arg-type]
        Transition(PhaseInfo(Phase.RUNNING, recheck_at=datetime(2026, 1, 1))),  # noqa: DTZ001
    ],
    ids=["None", "no transition", "no info", "text", "negative", "number", "no zone"],
)
async def test_wrong_answer_names_the_plugin(answer: object) -> None:
    with pytest.raises(TaskError, match="the answer of plugin 'mine'") as caught:
        await observe(Plugin(answer))
    assert caught.value.code == "InvalidPhaseInfo"


@pytest.mark.anyio
async def test_reason_that_is_no_unicode_is_made_legible() -> None:
    assert (await observe(Plugin(Transition(queued(NOW, 0, "file \udcff"))))).reason == "file ?"


@pytest.mark.anyio
@pytest.mark.parametrize("stores", [("1", b""), (1, "text"), (1, None), (None, b""), (1, bytes(MAX_STATE_BYTES + 1))])
async def test_state_that_can_not_be_kept_is_refused(stores: tuple[Any, Any]) -> None:
    with pytest.raises(TaskError, match="put_state takes") as caught:
        await observe(Plugin(Transition(running(NOW, 0)), stores))
    assert caught.value.code == "InvalidPluginState"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("outcome", "force", "calls"),
    [
        (Outcome.COMPLETED, False, ["finalize"]),
        (Outcome.COMPLETED, True, ["abort", "finalize"]),
        (Outcome.FAILED, False, ["abort", "finalize"]),
        (Outcome.ABORTED, True, ["abort", "finalize"]),
        (Outcome.TIMED_OUT, True, ["abort", "finalize"]),
        (None, True, ["abort", "finalize"]),
    ],
)
async def test_all_that_has_not_succeeded_is_aborted(outcome: Outcome | None, force: bool, calls: list[str]) -> None:  # noqa: FBT001
    plugin = Plugin(None)
    event = await runner(plugin).remove(live_task(outcome=outcome), Round(), force=force)  # type: ignore[arg-type]
    assert (event, plugin.calls) == (ObjectGone(), calls)


@pytest.mark.anyio
async def test_plugin_that_can_not_abort_is_not_finalized() -> None:
    class Stuck(Plugin):
        async def abort(self, ctx: Any) -> None:
            raise TaskError("Stuck", "try again")

    plugin = Stuck(None)
    remove: Callable[[], Any] = lambda: runner(plugin).remove(live_task(), Round(), force=True)  # type: ignore[arg-type]  # noqa: E731
    with pytest.raises(TaskError, match="try again"):
        await remove()
    assert plugin.calls == []
