"""Each claim of the contract is broken once by a plugin, and found."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.core_plugin import CoreProperties
from propfan.pluginmachinery.errors import PermanentError, PropfanError
from propfan.pluginmachinery.phases import Phase, Transition
from propfan.pluginmachinery.registry import CorePluginEntry, SetupContext
from propfan.pluginmachinery.testing import CorePluginContract, Story, setup_context, task_template


class Counter:
    """A plugin without fault: done in its third round."""

    def __init__(self, setup: SetupContext) -> None:
        self.rounds = 0

    async def handle(self, ctx: Any) -> Any:
        if ctx.state and not ctx.state.isdigit():
            raise PermanentError("CorruptedPluginState", "no number")
        rounds = int(ctx.state or b"0") + 1
        ctx.put_state(1, b"%d" % rounds)
        if rounds == 3:
            return Transition(phases.success(ctx.now))
        return Transition(phases.running(ctx.now, rounds))

    async def abort(self, ctx: Any) -> None:
        return None

    async def finalize(self, ctx: Any) -> None:
        return None

    def get_properties(self) -> CoreProperties:
        return CoreProperties()


STORY = Story("counts", task_template("count"), None, ((0, Phase.RUNNING), (1, Phase.RUNNING), (2, Phase.SUCCESS)))


def contract(plugin: type = Counter, **attributes: Any) -> CorePluginContract:
    entry = CorePluginEntry(id="count", task_types=("count",), load=plugin)
    made: CorePluginContract = type(
        "TestCount", (CorePluginContract,), {"entry": entry, "stories": (STORY,)} | attributes
    )()
    return made


async def run(tests: CorePluginContract, claim: str) -> None:
    setup = setup_context()
    test = getattr(tests, f"test_{claim}")
    wanted = inspect.signature(test).parameters
    for story in tests.stories:
        given: Mapping[str, Any] = {
            "setup_ctx": setup,
            "plugin": tests._load(setup),
            "story": story,
            "version": 1,
            "state": b"garbage",
        }
        result = test(**{name: given[name] for name in wanted})
        if inspect.isawaitable(result):
            await result


CLAIMS = [name.removeprefix("test_") for name in vars(CorePluginContract) if name.startswith("test_")]


@pytest.mark.anyio
@pytest.mark.parametrize("claim", CLAIMS)
async def test_plugin_without_fault_passes(claim: str) -> None:
    await run(contract(), claim)


async def count_in_memory(self: Any, ctx: Any) -> Any:
    self.rounds += 1
    return Transition(phases.success(ctx.now) if self.rounds == 3 else phases.running(ctx.now, self.rounds))


async def count_down(self: Any, ctx: Any) -> Any:
    ctx.put_state(1, ctx.state + b"1")
    rounds = len(ctx.state)
    return Transition(phases.success(ctx.now) if rounds == 2 else phases.running(ctx.now, 5 - rounds))


async def verdict_alone(self: Any, ctx: Any) -> Any:
    return phases.success(ctx.now)


async def come_back_too_early(self: Any, ctx: Any) -> Any:
    return Transition(phases.running(ctx.now, 0).rechecked_at(ctx.now - timedelta(1)))


async def change_template(self: Any, ctx: Any) -> Any:
    ctx.template.type = "other"
    return Transition(phases.running(ctx.now, 0))


async def crash(self: Any, ctx: Any) -> Any:
    raise KeyError("x")


async def crash_without_inputs(self: Any, ctx: Any) -> Any:
    try:
        await ctx.inputs.read()
    except PropfanError:
        raise KeyError("inputs") from None


async def stop_once(self: Any, ctx: Any) -> None:
    self.rounds -= 1
    if self.rounds < -1:
        raise KeyError("stopped already")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("claim", "members"),
    [
        ("entry_is_accepted", {"get_properties": lambda _: None}),
        ("story_goes_as_expected", {"handle": verdict_alone}),
        ("story_goes_as_expected", {"handle": come_back_too_early}),
        ("story_goes_as_expected", {"handle": count_down}),
        ("story_goes_the_same_when_the_engine_restarts_before_every_round", {"handle": count_in_memory}),
        ("story_goes_the_same_when_every_round_is_repeated", {"handle": count_in_memory}),
        ("abort_and_finalize_succeed_at_any_time_and_again", {"abort": crash}),
        ("abort_and_finalize_succeed_at_any_time_and_again", {"finalize": stop_once}),
        ("template_is_not_changed", {"handle": change_template}),
        ("round_fails_properly_when_everything_outside_is_down", {"handle": crash_without_inputs}),
        ("unreadable_state_raises_only_task_and_decode_errors", {"handle": crash}),
    ],
)
async def test_fault_is_found(claim: str, members: Mapping[str, Any]) -> None:
    broken = Story("counts", task_template("count"), None, STORY.rounds)
    with pytest.raises((AssertionError, KeyError, PropfanError)):
        await run(contract(type("Broken", (Counter,), dict(members)), stories=(broken,)), claim)


@pytest.mark.anyio
async def test_stories_of_which_none_ends_are_found() -> None:
    story = Story("starts", task_template("count"), None, ((0, Phase.RUNNING),))
    with pytest.raises(AssertionError):
        await run(contract(stories=(story,)), "a_story_reaches_its_end")


@pytest.mark.parametrize("missing", ["entry", "stories"])
def test_subclass_that_sets_too_little_is_refused_by_name(missing: str) -> None:
    attributes: dict[str, Any] = {missing: ()}
    with pytest.raises(TypeError, match=f"TestCount must set '{missing}'"):
        contract(**attributes)
