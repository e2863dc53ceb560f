"""The tests that every core plugin passes.

Subclass ``CorePluginContract`` in a test module, name the entry and some stories, and run pytest::

    class TestSleepPlugin(CorePluginContract):
        entry = entry
        stories = (Story("naps", template, literal_map(d=timedelta(5)), ((0, Phase.RUNNING), (5, Phase.SUCCESS))),)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2

from propfan.pluginmachinery import entries
from propfan.pluginmachinery.contexts import CoreContext
from propfan.pluginmachinery.core_plugin import CorePlugin
from propfan.pluginmachinery.errors import DecodeError, PropfanError, TaskError
from propfan.pluginmachinery.phases import Phase, PhaseInfo, Transition
from propfan.pluginmachinery.registry import CorePluginEntry, LoadedCorePlugin, SetupContext
from propfan.pluginmachinery.testing.fakes import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.verdicts import problems_of_verdict


class Story(msgspec.Struct, frozen=True):
    """One task, and how it goes.

    Attributes:
        name: Part of the test's name.
        inputs: What the task is called with.
        rounds: Seconds after the first round, growing, and the phase expected then.
        error_code: Of the last verdict, for a failure; not compared when ``None``.
    """

    name: str
    template: tasks_pb2.TaskTemplate
    inputs: literals_pb2.LiteralMap | None
    rounds: Sequence[tuple[float, Phase]]
    error_code: str | None = None


class CorePluginContract:
    """Subclass it under a name that starts with ``Test``, and set what has no default.

    Attributes:
        entry: What the plugin registers itself with.
        stories: Tasks from their first round to their last.
        sections: The plugin's configuration sections.
    """

    entry: ClassVar[CorePluginEntry]
    stories: ClassVar[Sequence[Story]]
    sections: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__name__.startswith("Test"):
            for name in ("entry", "stories"):
                if not getattr(cls, name, None):
                    raise TypeError(f"{cls.__name__} must set '{name}': see {__name__}.CorePluginContract")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "story" in metafunc.fixturenames:
            stories = type(self).stories
            metafunc.parametrize("story", stories, ids=[story.name for story in stories])

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def setup_ctx(self) -> SetupContext:
        """What the plugin is loaded with; override it to give secrets."""
        return setup_context(sections=self.sections)

    @pytest.fixture
    def plugin(self, setup_ctx: SetupContext) -> CorePlugin:
        return self._load(setup_ctx)

    def _load(self, setup_ctx: SetupContext) -> CorePlugin:
        loaded = entries.load(self.entry, setup_ctx)
        assert isinstance(loaded, LoadedCorePlugin)
        return loaded.plugin

    async def _handle(self, plugin: CorePlugin, ctx: CoreContext) -> PhaseInfo:
        transition = await plugin.handle(ctx)
        assert isinstance(transition, Transition), f"handle must return a Transition, is {type(transition).__name__}"
        assert problems_of_verdict(transition.info, ctx.now) == ()
        return transition.info

    def test_entry_is_accepted(self, setup_ctx: SetupContext) -> None:
        entries.check(self.entry)
        self._load(setup_ctx)

    def test_a_story_reaches_its_end(self) -> None:
        assert any(story.rounds[-1][1].is_terminal for story in self.stories), "no story ends"

    @pytest.mark.anyio
    async def test_story_goes_as_expected(self, plugin: CorePlugin, story: Story) -> None:
        ctx = FakeTaskContext(story.template, inputs=story.inputs)
        then, last = 0.0, PhaseInfo(Phase.UNDEFINED)
        for after_s, phase in story.rounds:
            ctx, then = ctx.next_round(after_s - then), after_s
            info = await self._handle(plugin, ctx)
            assert info.phase is phase, f"after {after_s} s: {info!r}"
            assert info.phase is not last.phase or info.version >= last.version, "a version never goes back in a phase"
            last = info
        if story.error_code is not None:
            assert last.error is not None
            assert last.error.code == story.error_code

    @pytest.mark.anyio
    async def test_story_goes_the_same_when_the_engine_restarts_before_every_round(
        self, setup_ctx: SetupContext, story: Story
    ) -> None:
        ctx, then = FakeTaskContext(story.template, inputs=story.inputs), 0.0
        for after_s, phase in story.rounds:
            ctx, then = ctx.next_round(after_s - then), after_s
            info = await self._handle(self._load(setup_ctx), ctx)
            assert info.phase is phase, f"after {after_s} s: {info!r}"

    @pytest.mark.anyio
    async def test_story_goes_the_same_when_every_round_is_repeated(self, plugin: CorePlugin, story: Story) -> None:
        """As after a crash between a round and the write of its state."""
        ctx, then = FakeTaskContext(story.template, inputs=story.inputs), 0.0
        for after_s, phase in story.rounds:
            ctx, then = ctx.next_round(after_s - then), after_s
            lost = ctx.next_round()
            assert (await self._handle(plugin, lost)).phase is phase
            assert (await self._handle(plugin, ctx)).phase is phase

    @pytest.mark.anyio
    async def test_abort_and_finalize_succeed_at_any_time_and_again(
        self, setup_ctx: SetupContext, story: Story
    ) -> None:
        for rounds in range(len(story.rounds) + 1):
            plugin, then = self._load(setup_ctx), 0.0
            ctx = FakeTaskContext(story.template, inputs=story.inputs)
            for after_s, _ in story.rounds[:rounds]:
                ctx, then = ctx.next_round(after_s - then), after_s
                await self._handle(plugin, ctx)
            ctx = ctx.next_round()
            for method in (plugin.abort, plugin.abort, plugin.finalize, plugin.finalize):
                await method(ctx)

    @pytest.mark.anyio
    async def test_template_is_not_changed(self, plugin: CorePlugin, story: Story) -> None:
        ctx = FakeTaskContext(story.template, inputs=story.inputs)
        await self._handle(plugin, ctx)
        assert story.template.SerializeToString(deterministic=True) == ctx.template_bytes

    @pytest.mark.anyio
    async def test_round_fails_properly_when_everything_outside_is_down(self, plugin: CorePlugin, story: Story) -> None:
        try:
            await self._handle(plugin, FakeTaskContext(story.template, inputs=story.inputs).with_failing_ports())
        except PropfanError:
            return

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        ("version", "state"), [(0, b"\x00"), (1, b""), (1, b"{}"), (1, b"\xff\xfe"), (255, b"garbage")]
    )
    async def test_unreadable_state_raises_only_task_and_decode_errors(
        self, plugin: CorePlugin, story: Story, version: int, state: bytes
    ) -> None:
        ctx = FakeTaskContext(story.template, inputs=story.inputs)
        ctx.state_version, ctx.state = version, state
        try:
            await self._handle(plugin, ctx)
        except (TaskError, DecodeError):
            return
