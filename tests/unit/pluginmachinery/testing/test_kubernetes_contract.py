"""Each claim of the contract is broken once by a plugin, and found."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import anyio.lowlevel
import msgspec
import pytest

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.errors import PluginError, PropfanError, TransientError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.phases import ExecutionError, Phase, PhaseInfo, TaskInfo
from propfan.pluginmachinery.registry import KubernetesPluginEntry, SetupContext
from propfan.pluginmachinery.testing import (
    NOW,
    KubernetesPluginContract,
    StatusSample,
    setup_context,
    task_template,
)

DEMO = Kind("example.com", "v1", "Demo", "demos")
HEAD = {"apiVersion": DEMO.api_version, "kind": DEMO.kind}
TEMPLATE = task_template("demo", image="busybox")
COUNTER: Iterator[int] = itertools.count()
Json = dict[str, Any]


class Demo:
    """A plugin without fault."""

    def __init__(self, setup: SetupContext) -> None:
        self.setup = setup

    def build_identity_resource(self, metadata: Any) -> Json:
        return dict(HEAD)

    async def build_resource(self, ctx: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return HEAD | {
            "metadata": {"labels": {"app.kubernetes.io/name": "demo"}, "annotations": {"Note": "n" * 70}},
            "spec": {"name": ctx.metadata.task_execution_id.generated_name, "image": ctx.template.container.image},
        }

    async def get_task_phase(self, ctx: Any, resource: ObservedObject) -> Any:
        state = self.state(resource)
        if state == "done":
            return phases.success(ctx.now)
        if state == "failed":
            return phases.failure("Broken", "it broke", ctx.now)
        info = phases.queued(ctx.now, ctx.plugin_state.phase_version, "waits")
        return info.rechecked_at(ctx.now + timedelta(seconds=1))

    def get_properties(self) -> Properties:
        return Properties(generated_name_max_length=40)

    def is_terminal(self, resource: ObservedObject) -> bool:
        return self.state(resource) in ("done", "failed")

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        return NOW if self.is_terminal(resource) else None

    def state(self, resource: ObservedObject) -> str:
        status = msgspec.json.decode(resource.raw).get("status") or {}
        if not isinstance(status, dict) or not isinstance(status.get("state", ""), str):
            raise TransientError("", "status can not be read")
        return str(status.get("state", ""))


SAMPLES = (
    StatusSample("waits", {"state": "waits"}, Phase.QUEUED),
    StatusSample("done", {"state": "done"}, Phase.SUCCESS),
    StatusSample("failed", {"state": "failed"}, Phase.PERMANENT_FAILURE, "Broken"),
)


def contract(plugin: type = Demo, **attributes: Any) -> KubernetesPluginContract:
    entry = KubernetesPluginEntry(id="demo", task_types=("demo",), watched=DEMO, load=plugin)
    values = {"entry": entry, "templates": (TEMPLATE,), "samples": SAMPLES, "sections": {"demo": {"list": []}}}
    made: KubernetesPluginContract = type("TestDemo", (KubernetesPluginContract,), values | attributes)()
    return made


async def run(tests: KubernetesPluginContract, claim: str) -> None:
    """One test of the contract as pytest would call it, for every template and sample."""
    setup = setup_context(sections=tests.sections)
    test = getattr(tests, f"test_{claim}")
    wanted = inspect.signature(test).parameters
    for template, sample in itertools.product(tests.templates, tests.samples):
        loaded = tests._load(setup)
        given: Mapping[str, Any] = {
            "setup_ctx": setup,
            "loaded": loaded,
            "plugin": loaded.plugin,
            "template": template,
            "sample": sample,
        }
        result = test(**{name: given[name] for name in wanted})
        if inspect.isawaitable(result):
            await result


CLAIMS = [name.removeprefix("test_") for name in vars(KubernetesPluginContract) if name.startswith("test_")]


@pytest.mark.anyio
@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if not claim.startswith("abort")])
async def test_plugin_without_fault_passes(claim: str) -> None:
    await run(contract(), claim)


def built(**members: Any) -> Any:
    async def build_resource(self: Any, ctx: Any) -> Any:
        return HEAD | members

    return build_resource


def answering(info: Any) -> Any:
    async def get_task_phase(self: Any, ctx: Any, resource: Any) -> Any:
        return info

    return get_task_phase


def raising(error: Exception) -> Any:
    def method(self: Any, resource: Any) -> Any:
        raise error

    return method


async def counting(self: Any, ctx: Any) -> Any:
    return HEAD | {"spec": next(COUNTER)}


async def counted_per_plugin(self: Any, ctx: Any) -> Any:
    self.number = getattr(self, "number", None) or next(COUNTER) + 1
    return HEAD | {"spec": self.number}


async def change_template(self: Any, ctx: Any) -> Any:
    ctx.template.container.args.append("more")
    return HEAD


async def change_labels(self: Any, ctx: Any) -> Any:
    ctx.metadata.labels["more"] = "x"
    return HEAD


async def change_section(self: Any, ctx: Any) -> Any:
    self.setup.sections["demo"]["list"].append(1)
    return HEAD


async def remember_task(self: Any, ctx: Any) -> Any:
    self.name = ctx.metadata.task_execution_id.generated_name
    await anyio.lowlevel.checkpoint()
    return HEAD | {"spec": self.name}


async def crash_without_inputs(self: Any, ctx: Any) -> Any:
    try:
        await ctx.inputs.read()
    except PropfanError:
        raise KeyError("inputs") from None
    return HEAD


async def crash_without_pods(self: Any, ctx: Any, resource: Any) -> Any:
    try:
        await ctx.kubernetes.list_pods()
    except PropfanError:
        raise KeyError("pods") from None
    return phases.queued(ctx.now, 0, "")


async def count_down(self: Any, ctx: Any, resource: Any) -> Any:
    return phases.queued(ctx.now, 0 if ctx.plugin_state.phase_version else 5, "")


async def trust_the_status(self: Any, ctx: Any, resource: Any) -> Any:
    return phases.queued(ctx.now, 0, msgspec.json.decode(resource.raw)["status"]["state"])


async def no_behavior(self: Any, ctx: Any, resource: Any) -> Any:
    return None


QUEUED = phases.queued(NOW, 0, "")
FAILURE = ExecutionError("c", "m")
WRONG: Any = object()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("claim", "members"),
    [
        ("entry_is_accepted", {"get_properties": lambda _: None}),
        ("names_have_a_length_that_the_engine_can_make", {"get_properties": lambda _: Properties(generated_name_max_length=254)}),
        ("identity_is_nothing_but_type_meta", {"build_identity_resource": lambda _self, _metadata: HEAD | {"spec": {}}}),
        ("identity_is_nothing_but_type_meta", {"build_identity_resource": lambda _self, _metadata: HEAD | {"metadata": {"name": "x"}}}),
        ("identity_is_nothing_but_type_meta", {"build_identity_resource": lambda _self, _metadata: {"kind": "Demo"}}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(kind="Other")}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(spec=object())}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(metadata={"labels": {"a": "b c"}})}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(metadata={"labels": {"a": "b" * 64}})}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(metadata={"labels": {"A/b": "c"}})}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(metadata={"annotations": {"a b": "c"}})}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(metadata={"annotations": {"a": "b" * 2**18}})}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(metadata={"name": "n" * 41})}),
        ("build_gives_an_object_that_an_api_server_can_read", {"build_resource": built(spec={"t": [{"metadata": {"labels": {"a": 1}}}]})}),
        ("build_is_deterministic", {"build_resource": counting}),
        ("build_is_deterministic", {"build_resource": counted_per_plugin}),
        ("build_changes_nothing_that_it_is_given", {"build_resource": change_template}),
        ("build_changes_nothing_that_it_is_given", {"build_resource": change_labels}),
        ("build_changes_nothing_that_it_is_given", {"build_resource": change_section}),
        ("builds_of_two_tasks_do_not_mix", {"build_resource": remember_task}),
        ("phase_is_as_expected_and_legal", {"get_task_phase": answering(QUEUED)}),
        ("phase_is_as_expected_and_legal", {"get_task_phase": answering(None)}),
        ("same_object_gets_the_same_phase_and_no_older_version", {"get_task_phase": count_down}),
        ("no_status_is_no_error", {"get_task_phase": answering(phases.success(NOW))}),
        ("no_status_is_no_error", {"is_terminal": lambda _self, _resource: True}),
        ("garbage_in_the_status_raises_only_task_and_decode_errors", {"get_task_phase": trust_the_status}),
        ("garbage_in_the_status_raises_only_task_and_decode_errors", {"is_terminal": raising(ValueError())}),
        ("garbage_in_the_status_raises_only_task_and_decode_errors", {"get_completion_time": raising(KeyError())}),
        ("garbage_in_the_status_raises_only_task_and_decode_errors", {"get_task_phase": answering(None)}),
        ("is_terminal_agrees_with_the_phase", {"is_terminal": lambda _self, _resource: False}),
        ("completion_time_has_a_time_zone", {"get_completion_time": lambda _self, _resource: NOW.replace(tzinfo=None)}),
        ("abort_is_answered_in_every_state", {"on_abort": no_behavior}),
    ],
)  # fmt: skip
async def test_fault_is_found(claim: str, members: Mapping[str, Any]) -> None:
    broken = contract(type("Broken", (Demo,), dict(members)), templates=(task_template("demo", image="busybox"),))
    with pytest.raises((AssertionError, PropfanError)):
        await run(broken, claim)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("claim", "members"),
    [
        ("no_status_is_no_error", {"get_task_phase": trust_the_status}),
        ("build_fails_properly_when_everything_outside_is_down", {"build_resource": crash_without_inputs}),
        (
            "phase_is_legal_or_fails_properly_when_everything_outside_is_down",
            {"get_task_phase": crash_without_pods},
        ),
    ],
)
async def test_crash_is_found(claim: str, members: Mapping[str, Any]) -> None:
    with pytest.raises(KeyError):
        await run(contract(type("Broken", (Demo,), dict(members))), claim)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "info",
    [
        PhaseInfo(WRONG),
        PhaseInfo(Phase.QUEUED, version=-1),
        PhaseInfo(Phase.QUEUED, version=2**32),
        PhaseInfo(Phase.QUEUED, error=FAILURE),
        PhaseInfo(Phase.QUEUED, cleanup_on_failure=True),
        PhaseInfo(Phase.QUEUED, recheck_at=NOW),
        PhaseInfo(Phase.QUEUED, recheck_at=(NOW + timedelta(1)).replace(tzinfo=None)),
        PhaseInfo(Phase.QUEUED, info=TaskInfo(occurred_at=NOW.replace(tzinfo=None))),
        PhaseInfo(Phase.QUEUED, info=TaskInfo(custom_info={"a": object()})),
        PhaseInfo(Phase.SUCCESS, error=FAILURE),
        PhaseInfo(Phase.SUCCESS, recheck_at=NOW + timedelta(1)),
        PhaseInfo(Phase.RETRYABLE_FAILURE),
        PhaseInfo(Phase.PERMANENT_FAILURE, error=ExecutionError("", "m")),
        PhaseInfo(Phase.PERMANENT_FAILURE, error=ExecutionError("c", "")),
    ],
)
async def test_illegal_verdict_is_found(info: PhaseInfo) -> None:
    sample = StatusSample("any", {}, info.phase)
    broken = contract(type("Broken", (Demo,), {"get_task_phase": answering(info)}), samples=(sample,))
    with pytest.raises(AssertionError):
        await run(broken, "phase_is_as_expected_and_legal")


@pytest.mark.anyio
async def test_rendered_objects_are_understood() -> None:
    class Rendering(Demo):
        async def build_resource(self, ctx: Any) -> RenderedObject:
            return RenderedObject(DEMO.api_version, DEMO.kind, ObjectMeta(labels={"a": "b"}), b'"spec":{}')

    for claim in CLAIMS:
        if not claim.startswith("abort"):
            await run(contract(Rendering), claim)


@pytest.mark.parametrize(
    "phases_there", [(Phase.SUCCESS,), (Phase.SUCCESS, Phase.QUEUED), (Phase.RETRYABLE_FAILURE, Phase.QUEUED)]
)
@pytest.mark.anyio
async def test_samples_that_leave_something_out_are_found(phases_there: tuple[Phase, ...]) -> None:
    samples = tuple(StatusSample(str(phase), {}, phase) for phase in phases_there)
    with pytest.raises(AssertionError):
        await run(contract(samples=samples), "samples_cover_success_failure_and_work_in_progress")


@pytest.mark.parametrize("missing", ["entry", "templates", "samples"])
def test_subclass_that_sets_too_little_is_refused_by_name(missing: str) -> None:
    attributes: dict[str, Any] = {missing: ()}
    with pytest.raises(TypeError, match=f"TestDemo must set '{missing}'"):
        contract(**attributes)


@pytest.mark.anyio
async def test_broken_entry_is_refused_by_its_own_error() -> None:
    with pytest.raises(PluginError, match="get_properties"):
        await run(contract(type("Broken", (Demo,), {"get_properties": lambda _: None})), "entry_is_accepted")
