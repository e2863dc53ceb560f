"""The tests that every Kubernetes plugin passes.

Subclass ``KubernetesPluginContract`` in a test module, name the entry, some templates and some
states of the object, and run pytest::

    class TestJobPlugin(KubernetesPluginContract):
        entry = entry
        templates = (task_template("job", image="busybox"),)
        samples = (
            StatusSample("just made", {}, Phase.QUEUED),
            StatusSample("working", {"active": 1}, Phase.RUNNING),
            StatusSample("done", {"succeeded": 1}, Phase.SUCCESS),
            StatusSample("gone wrong", {"failed": 1}, Phase.RETRYABLE_FAILURE),
        )
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import anyio
import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import entries, objects
from propfan.pluginmachinery.cluster_jobs import jobs_of
from propfan.pluginmachinery.errors import DecodeError, PropfanError, TaskError
from propfan.pluginmachinery.kubernetes_plugin import (
    AbortBehavior,
    AbortOverride,
    KubernetesPlugin,
    ObjectMeta,
    ObservedObject,
    RenderedObject,
)
from propfan.pluginmachinery.phases import Phase, PluginState
from propfan.pluginmachinery.registry import (
    KubernetesPluginEntry,
    LoadedClusterPlugin,
    LoadedKubernetesPlugin,
    SetupContext,
)
from propfan.pluginmachinery.testing.builders import NOW, observed, task_metadata
from propfan.pluginmachinery.testing.fakes import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.verdicts import problems_of_object, problems_of_verdict

LONGEST_NAME: Final = "r" + "0123456789" * 6 + "-0"
"""A generated name of 63 characters, the most that the engine makes of run, action and attempt."""

_GARBAGE: Final[tuple[object, ...]] = (None, True, -1, 1.5, "", "garbage", [], ["garbage"], {}, {"garbage": None})


class StatusSample(msgspec.Struct, frozen=True):
    """One state of the object, and what it means.

    Attributes:
        name: Of the state; part of the test's name.
        status: The object's ``status``.
        phase: The verdict expected.
        error_code: Of the verdict, for a failure; not compared when ``None``.
        is_terminal: What ``is_terminal`` answers; as ``phase.is_terminal`` when ``None``.
        members: Further members of the object, in place of the built ones.
        pods: Those of the task, as the JSON of each.
        age_s: Seconds since the object was created.
    """

    name: str
    status: Mapping[str, Any]
    phase: Phase
    error_code: str | None = None
    is_terminal: bool | None = None
    members: Mapping[str, Any] = {}
    pods: Sequence[Mapping[str, Any]] = ()
    age_s: float = 60.0


class KubernetesPluginContract:
    """Subclass it under a name that starts with ``Test``, and set what has no default.

    Attributes:
        entry: What the plugin registers itself with.
        templates: Tasks that the plugin can build, one of each sort.
        samples: States of the object of the first template; at least one success, one failure and
            one that is neither.
        sections: The plugin's configuration sections.
    """

    entry: ClassVar[KubernetesPluginEntry]
    templates: ClassVar[Sequence[tasks_pb2.TaskTemplate]]
    samples: ClassVar[Sequence[StatusSample]]
    sections: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__name__.startswith("Test"):
            for name in ("entry", "templates", "samples"):
                if not getattr(cls, name, None):
                    raise TypeError(f"{cls.__name__} must set '{name}': see {__name__}.KubernetesPluginContract")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "template" in metafunc.fixturenames:
            templates = type(self).templates
            metafunc.parametrize("template", templates, ids=[f"{t.type}-{i}" for i, t in enumerate(templates)])
        if "sample" in metafunc.fixturenames:
            samples = type(self).samples
            metafunc.parametrize("sample", samples, ids=[sample.name for sample in samples])

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def setup_ctx(self) -> SetupContext:
        """What the plugin is loaded with; override it to give pod templates or secrets."""
        return setup_context(sections=self.sections)

    @pytest.fixture
    def loaded(self, setup_ctx: SetupContext) -> LoadedKubernetesPlugin:
        return self._load(setup_ctx)

    @pytest.fixture
    def plugin(self, loaded: LoadedKubernetesPlugin) -> KubernetesPlugin:
        return loaded.plugin

    def _load(self, setup_ctx: SetupContext) -> LoadedKubernetesPlugin:
        loaded = entries.load(self.entry, setup_ctx)
        if isinstance(loaded, LoadedClusterPlugin):
            return jobs_of(loaded)
        assert isinstance(loaded, LoadedKubernetesPlugin)
        return loaded

    async def _build(self, plugin: KubernetesPlugin, ctx: FakeTaskContext) -> RenderedObject:
        built = await plugin.build_resource(ctx)
        return objects.normalise(built, self.entry.watched, self.entry.id, "build_resource")

    async def _observed(self, plugin: KubernetesPlugin, sample: StatusSample) -> ObservedObject:
        built = await self._build(plugin, FakeTaskContext(self.templates[0]))
        members = {**msgspec.json.decode(built.to_json()), **sample.members, "status": sample.status}
        return observed(self.entry.watched, members, created_at=NOW - timedelta(seconds=sample.age_s))

    def _context(self, sample: StatusSample, state: PluginState | None = None) -> FakeTaskContext:
        return FakeTaskContext(self.templates[0], pods=sample.pods, plugin_state=state or PluginState())

    def test_entry_is_accepted(self, setup_ctx: SetupContext) -> None:
        entries.check(self.entry)
        self._load(setup_ctx)

    def test_samples_cover_success_failure_and_work_in_progress(self) -> None:
        phases = [sample.phase for sample in self.samples]
        assert Phase.SUCCESS in phases, "no sample is a success"
        assert any(phase.is_failure for phase in phases), "no sample is a failure"
        assert any(not phase.is_terminal for phase in phases), "no sample is still under way"

    def test_names_have_a_length_that_the_engine_can_make(self, loaded: LoadedKubernetesPlugin) -> None:
        length = loaded.properties.generated_name_max_length
        assert length is None or length <= 253, "no name of a Kubernetes object is longer than 253"

    def test_identity_is_nothing_but_type_meta(
        self, plugin: KubernetesPlugin, template: tasks_pb2.TaskTemplate
    ) -> None:
        built = plugin.build_identity_resource(task_metadata(template))
        identity = objects.normalise(built, self.entry.watched, self.entry.id, "build_identity_resource")
        assert identity.metadata == ObjectMeta()
        assert identity.body == b"", "an identity has no other members than apiVersion and kind"

    @pytest.mark.anyio
    async def test_build_gives_an_object_that_an_api_server_can_read(
        self, loaded: LoadedKubernetesPlugin, template: tasks_pb2.TaskTemplate
    ) -> None:
        longest = loaded.properties.generated_name_max_length or 253
        for name in ("r1-a0-0", LONGEST_NAME):
            ctx = FakeTaskContext(template, metadata=task_metadata(template, generated_name=name))
            members = msgspec.json.decode((await self._build(loaded.plugin, ctx)).to_json())
            assert problems_of_object(members, longest) == ()

    @pytest.mark.anyio
    async def test_build_is_deterministic(
        self, plugin: KubernetesPlugin, setup_ctx: SetupContext, template: tasks_pb2.TaskTemplate
    ) -> None:
        first = await self._build(plugin, FakeTaskContext(template))
        again = await self._build(plugin, FakeTaskContext(template))
        assert first.to_json() == again.to_json(), "the second build differs from the first"
        fresh = await self._build(self._load(setup_ctx).plugin, FakeTaskContext(template))
        assert first.to_json() == fresh.to_json(), "after a restart the build differs"

    @pytest.mark.anyio
    async def test_build_changes_nothing_that_it_is_given(
        self, setup_ctx: SetupContext, template: tasks_pb2.TaskTemplate
    ) -> None:
        configuration = copy.deepcopy((setup_ctx.k8s, setup_ctx.logs, setup_ctx.sections))
        plugin, ctx = self._load(setup_ctx).plugin, FakeTaskContext(template)
        metadata = copy.deepcopy(ctx.metadata)
        await self._build(plugin, ctx)
        plugin.build_identity_resource(ctx.metadata)
        assert template.SerializeToString(deterministic=True) == ctx.template_bytes, "the template was changed"
        assert ctx.metadata == metadata, "the metadata was changed"
        assert (setup_ctx.k8s, setup_ctx.logs, setup_ctx.sections) == configuration, "the configuration was changed"

    @pytest.mark.anyio
    async def test_builds_of_two_tasks_do_not_mix(
        self, plugin: KubernetesPlugin, template: tasks_pb2.TaskTemplate
    ) -> None:
        contexts = [
            FakeTaskContext(template, metadata=task_metadata(template, generated_name=name))
            for name in ("r1-a0-0", "r2-a0-0")
        ]
        alone = [(await self._build(plugin, ctx)).to_json() for ctx in contexts]
        together: dict[int, bytes] = {}

        async def build(index: int) -> None:
            together[index] = (await self._build(plugin, contexts[index])).to_json()

        async with anyio.create_task_group() as group:
            for index in range(len(contexts)):
                group.start_soon(build, index)
        assert [together[index] for index in range(len(contexts))] == alone

    @pytest.mark.anyio
    async def test_build_fails_properly_when_everything_outside_is_down(
        self, plugin: KubernetesPlugin, template: tasks_pb2.TaskTemplate
    ) -> None:
        try:
            await self._build(plugin, FakeTaskContext(template).with_failing_ports())
        except PropfanError:
            return

    @pytest.mark.anyio
    async def test_phase_is_as_expected_and_legal(self, plugin: KubernetesPlugin, sample: StatusSample) -> None:
        ctx = self._context(sample)
        info = await plugin.get_task_phase(ctx, await self._observed(plugin, sample))
        assert problems_of_verdict(info, ctx.now) == ()
        assert info.phase is sample.phase, f"{info!r}"
        if sample.error_code is not None:
            assert info.error is not None
            assert info.error.code == sample.error_code

    @pytest.mark.anyio
    async def test_same_object_gets_the_same_phase_and_no_older_version(
        self, plugin: KubernetesPlugin, setup_ctx: SetupContext, sample: StatusSample
    ) -> None:
        resource = await self._observed(plugin, sample)
        first = await plugin.get_task_phase(self._context(sample), resource)
        state = PluginState(first.phase, first.version, first.reason)
        for again in (plugin, self._load(setup_ctx).plugin):
            second = await again.get_task_phase(self._context(sample, state), resource)
            assert second.phase is first.phase
            assert second.version >= first.version, "a version never goes back within a phase"

    @pytest.mark.anyio
    async def test_phase_is_legal_or_fails_properly_when_everything_outside_is_down(
        self, plugin: KubernetesPlugin, sample: StatusSample
    ) -> None:
        ctx = self._context(sample).with_failing_ports()
        try:
            info = await plugin.get_task_phase(ctx, await self._observed(plugin, sample))
        except PropfanError:
            return
        assert problems_of_verdict(info, ctx.now) == ()

    @pytest.mark.anyio
    async def test_no_status_is_no_error(self, plugin: KubernetesPlugin) -> None:
        """An object that was made a moment ago has none, or an empty one."""
        sample = StatusSample("new", {}, Phase.UNDEFINED, age_s=0.0)
        resource = await self._observed(plugin, sample)
        members = {name: value for name, value in msgspec.json.decode(resource.raw).items() if name != "status"}
        for new in (members, members | {"status": {}}):
            resource = observed(self.entry.watched, new)
            info = await plugin.get_task_phase(self._context(sample), resource)
            assert problems_of_verdict(info, NOW) == ()
            assert not info.phase.is_terminal, "an object that was only just made is not finished"
            assert plugin.is_terminal(resource) is False

    @pytest.mark.anyio
    async def test_garbage_in_the_status_raises_only_task_and_decode_errors(
        self, plugin: KubernetesPlugin, sample: StatusSample
    ) -> None:
        resource = await self._observed(plugin, sample)
        whole = msgspec.json.decode(resource.raw)
        ctx = self._context(sample)
        for path, status in _spoiled(whole["status"]):
            spoiled = ObservedObject(resource.kind, resource.metadata, msgspec.json.encode({**whole, "status": status}))
            problem = await _problem_with(plugin, ctx, spoiled)
            assert problem is None, f"status{path} of {status!r}: {problem}"

    @pytest.mark.anyio
    async def test_is_terminal_agrees_with_the_phase(self, plugin: KubernetesPlugin, sample: StatusSample) -> None:
        expected = sample.phase.is_terminal if sample.is_terminal is None else sample.is_terminal
        assert plugin.is_terminal(await self._observed(plugin, sample)) is expected

    @pytest.mark.anyio
    async def test_completion_time_has_a_time_zone(self, plugin: KubernetesPlugin, sample: StatusSample) -> None:
        completed_at = plugin.get_completion_time(await self._observed(plugin, sample))
        assert completed_at is None or isinstance(completed_at, datetime)
        assert completed_at is None or completed_at.tzinfo is not None

    @pytest.mark.anyio
    async def test_abort_is_answered_in_every_state(self, plugin: KubernetesPlugin, sample: StatusSample) -> None:
        if not isinstance(plugin, AbortOverride):
            pytest.skip("the plugin's object is simply deleted")
        resource = await self._observed(plugin, sample)
        behavior = await plugin.on_abort(self._context(sample), resource)
        assert isinstance(behavior, AbortBehavior)
        if behavior.update is not None:
            kind = behavior.resource[0] if behavior.resource else self.entry.watched
            objects.normalise(behavior.update, kind, self.entry.id, "on_abort")


async def _problem_with(plugin: KubernetesPlugin, ctx: FakeTaskContext, resource: ObservedObject) -> str | None:
    problems: tuple[str, ...] = ()
    try:
        problems = problems_of_verdict(await plugin.get_task_phase(ctx, resource), ctx.now)
    except (TaskError, DecodeError):
        pass
    except Exception as error:  # noqa: BLE001 - that there is none is the claim
        return f"get_task_phase raised {error!r}"
    for name, method in (("is_terminal", plugin.is_terminal), ("get_completion_time", plugin.get_completion_time)):
        try:
            method(resource)
        except (TaskError, DecodeError):
            pass
        except Exception as error:  # noqa: BLE001 - as above
            return f"{name} raised {error!r}"
    return "; ".join(problems) or None


def _spoiled(value: Any) -> Iterator[tuple[str, Any]]:
    """``value`` with each of its parts, and the whole, replaced by each piece of garbage."""
    for garbage in _GARBAGE:
        yield "", garbage
    if isinstance(value, Mapping):
        for name, item in value.items():
            for path, spoiled in _spoiled(item):
                yield f".{name}{path}", {**value, name: spoiled}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for path, spoiled in _spoiled(item):
                yield f"[{index}]{path}", [*value[:index], spoiled, *value[index + 1 :]]
