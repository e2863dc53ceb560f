"""A plan must say exactly what the plain conversion says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2
from hypothesis import event, given, settings
from hypothesis import strategies as st

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import (
    ExecutionId,
    IOPaths,
    NodeExecutionId,
    ResourceRequirements,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskExecutionMetadata,
    TaskId,
    TaskOverrides,
)
from propfan.pluginmachinery.errors import PermanentError, PropfanError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, RenderedObject
from propfan.pluginmachinery.podspec import plan
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, PodTask, read_task
from propfan.plugins.pod import build
from tests.golden import inputs, runner
from tests.golden.areas import podspec as area
from tests.unit.pluginmachinery.podspec import tasks


def context(template: tasks_pb2.TaskTemplate, metadata: TaskExecutionMetadata, paths: IOPaths = tasks.PATHS) -> Any:
    return Context(template, metadata, paths)


class Context:
    """As much of a ``TaskContext`` as a conversion looks at."""

    def __init__(self, template: tasks_pb2.TaskTemplate, metadata: TaskExecutionMetadata, paths: IOPaths) -> None:
        self.template = template
        self.template_bytes = template.SerializeToString()
        self.metadata = metadata
        self.paths = paths
        self.inputs = self
        self.reads = 0

    async def read(self) -> literals_pb2.LiteralMap | None:
        self.reads += 1
        return None


def plainly(builder: PodSpecBuilder, ctx: Any) -> RenderedObject | PropfanError:
    try:
        return build.render(build.build_pod(builder, inputs.finish(read_task(ctx))))
    except PropfanError as error:
        return error


def assert_same(planned: RenderedObject | None, plain: RenderedObject | PropfanError) -> bool:
    """Whether there was a plan, which then agrees."""
    if planned is None:
        return False
    assert isinstance(plain, RenderedObject)
    assert msgspec.json.decode(planned.to_json()) == msgspec.json.decode(plain.to_json())
    return True


def recorded() -> Iterator[dict[str, Any]]:
    for case in runner.read_cases(runner.DATA / "podspec.jsonl.gz"):
        yield case.input


def test_plans_of_recorded_tasks_say_what_the_plain_conversion_says() -> None:
    planned = 0
    for case in recorded():
        builder, ctx = area.builder(case), inputs.Context(case)
        plans = build.plans(builder)
        assert plans.render(ctx) is None, "the first execution is converted plainly"
        planned += assert_same(plans.render(ctx), plainly(builder, ctx))
    assert planned > 100


@cache
def folded() -> list[tuple[PodSpecBuilder, plan.Plans, inputs.Context]]:
    """Some recorded tasks that have a plan, in its cache."""
    found = []
    for case in recorded():
        builder, ctx = area.builder(case), inputs.Context(case)
        plans = build.plans(builder)
        plans.render(ctx)
        if plans.render(ctx) is not None:
            found.append((builder, plans, ctx))
    return found


texts = st.one_of(
    st.sampled_from(
        ["", "a", "run-1", "A_B", 'quo"te\\', "{{.namespace}}", "{", "$1", "\ufdd0A\ufdd0", "main", "default"]
    ),
    st.text(max_size=12),
)
executions = st.builds(
    TaskExecutionId,
    generated_name=st.one_of(st.sampled_from(["run-a0-0", "x" * 64, "main", "default", "primary", "init-a"]), texts),
    unique_node_id=texts,
    id=st.builds(
        TaskExecutionIdentifier,
        task_id=st.one_of(st.none(), st.builds(TaskId, texts, texts, texts, texts)),
        node_execution_id=st.one_of(
            st.none(),
            st.builds(NodeExecutionId, texts, st.one_of(st.none(), st.builds(ExecutionId, texts, texts, texts))),
        ),
        retry_attempt=st.integers(0, 10),
    ),
)
paths = st.builds(IOPaths, texts, texts, texts, texts, texts, texts, texts, texts, texts, texts)
environments = st.dictionaries(
    st.one_of(st.sampled_from(["_F_E_VS", "ACTION_NAME", "RUN_NAME"]), texts),
    st.one_of(st.sampled_from(["true", "1", "no"]), texts),
    max_size=4,
)
quantities = st.dictionaries(st.sampled_from(["cpu", "memory", "gpu"]), st.sampled_from(["1", "500m", "2Gi", "0"]))


@settings(deadline=None, max_examples=200)
@given(
    st.data(),
    executions,
    paths,
    environments,
    st.booleans(),
    texts,
    texts,
    st.lists(quantities, min_size=4, max_size=4),
)
def test_plan_agrees_on_any_execution(
    data: st.DataObject,
    execution: TaskExecutionId,
    io: IOPaths,
    environment: dict[str, str],
    interruptible: Any,
    console_url: str,
    account: str,
    resources: list[dict[str, str]],
) -> None:
    builder, plans, recorded_ctx = data.draw(st.sampled_from(folded()))
    metadata = msgspec.structs.replace(
        recorded_ctx.metadata,
        task_execution_id=execution,
        environment_variables=environment,
        interruptible=interruptible,
        console_url=console_url,
        k8s_service_account=account,
        overrides=TaskOverrides(resources=ResourceRequirements(resources[0], resources[1])),
        platform_resources=ResourceRequirements(resources[2], resources[3]),
    )
    ctx = context(recorded_ctx.template, metadata, io)
    ctx.template_bytes = recorded_ctx.template_bytes
    plain = plainly(builder, ctx)
    assert_same(plans.render(ctx), plain)
    is_planned = assert_same(plans.render(ctx), plain)
    event(f"planned: {is_planned}")


def builder_and_plans(store: Any = None, **k8s: Any) -> tuple[PodSpecBuilder, plan.Plans]:
    builder = PodSpecBuilder(K8sConfig(**k8s), store)
    return builder, build.plans(builder)


@pytest.mark.anyio
async def test_inputs_are_read_only_when_a_command_asks_for_them() -> None:
    _, plans = builder_and_plans()
    for argument, reads in (("{{.input}}", 0), ("{{ $INPUTS.x }}", 1), ("{{.\u0131nputs.x}}", 0)):
        ctx = context(tasks.container_template(container={"args": [argument]}), tasks.metadata())
        for _ in range(3):
            await plans.build(ctx)
        assert ctx.reads == 3 * reads


@pytest.mark.parametrize(
    "argument",
    ["{{.inputs.x}}", "{{.perRetryUniqueKey}}", "{{ {{.input}} }}", "{{.Input\u017f.x}}", "\ufdd0A\ufdd0"],
)
def test_what_a_plan_can_not_hold_is_converted_plainly(argument: str) -> None:
    _, plans = builder_and_plans()
    ctx = context(tasks.container_template(container={"args": [argument]}), tasks.metadata())
    assert [plans.render(ctx) for _ in range(3)] == [None, None, None]


def test_changed_pod_template_makes_a_new_plan() -> None:
    store = tasks.Templates(base={"containers": [], "schedulerName": "one"})
    builder, plans = builder_and_plans(store, default_pod_template_name="base")
    ctx = context(tasks.container_template(), tasks.metadata())
    for scheduler in ("one", "two"):
        store.objects["flyte", "base"] = {
            "metadata": {},
            "template": {"spec": {"containers": [], "schedulerName": scheduler}},
        }
        plans.render(ctx)
        planned = plans.render(ctx)
        assert planned is not None
        assert b'"schedulerName":"%s"' % scheduler.encode() in planned.body
        assert assert_same(planned, plainly(builder, ctx))


@pytest.mark.parametrize("where", ["config", "template", "override"])
def test_marks_from_elsewhere_are_never_taken_for_values(where: str) -> None:
    mark = "\ufdd0A\ufdd0"
    store = tasks.Templates(base={"containers": [], "schedulerName": mark if where == "template" else "s"})
    builder, plans = builder_and_plans(
        store,
        default_pod_template_name="base",
        default_env_vars={"X": mark} if where == "config" else {},
    )
    over = TaskOverrides(resources=ResourceRequirements(), container_image=mark if where == "override" else "")
    ctx = context(tasks.container_template(), tasks.metadata(overrides=over))
    assert [plans.render(ctx) for _ in range(3)] == [None, None, None]
    assert mark in plainly_text(builder, ctx)


def plainly_text(builder: PodSpecBuilder, ctx: Any) -> str:
    plain = plainly(builder, ctx)
    assert isinstance(plain, RenderedObject)
    return plain.to_json().decode()


def test_execution_named_like_a_templates_container_is_converted_plainly() -> None:
    store = tasks.Templates(base={"containers": [{"name": "side", "image": "s", "workingDir": "/side"}]})
    builder, plans = builder_and_plans(store, default_pod_template_name="base")
    template = tasks.container_template()
    for _ in range(2):
        assert_same(
            plans.render(context(template, tasks.metadata())), plainly(builder, context(template, tasks.metadata()))
        )
    assert plans.render(context(template, tasks.metadata())) is not None
    assert plans.render(context(template, tasks.metadata("side"))) is None


def test_caches_are_bounded() -> None:
    builder, _ = builder_and_plans()
    plans = plan.Plans(builder, lambda task: build.render(build.build_pod(builder, task)), capacity=4, capacity_each=2)
    for number in range(20):
        template = tasks.container_template(container={"image": str(number)})
        for account in ("a", "b", "c"):
            for _ in range(2):
                plans.render(context(template, tasks.metadata(k8s_service_account=account)))
    assert len(plans._known) == 4
    assert all(known is None or sum(map(len, known.plans.values())) <= 2 for known in plans._known.values())


def test_huge_template_is_not_kept() -> None:
    _, plans = builder_and_plans()
    ctx = context(tasks.container_template(container={"args": ["x" * plan.MAX_FOLDED_BYTES]}), tasks.metadata())
    assert [plans.render(ctx) for _ in range(3)] == [None, None, None]
    assert not plans._known


def job_plans(builder: PodSpecBuilder, convert: Any, **options: Any) -> plan.Plans:
    """Of an object that has more in it than a pod."""
    own = {"name": lambda ctx: ctx.metadata.task_execution_id.generated_name.upper()}
    return plan.Plans(builder, convert, own=own, uses_labels=True, **options)


def job(builder: PodSpecBuilder) -> Any:
    def convert(task: PodTask) -> RenderedObject:
        pod = builder.to_pod_spec(task)
        execution = task.metadata
        template = {"metadata": {"labels": {"a": "1", **execution.labels}}, "spec": pod.spec}
        metadata = ObjectMeta(
            name=task.own("name"),
            namespace=task.parameters.namespace,
            labels={**execution.labels, "kept": "yes"},
            annotations=execution.annotations,
        )
        spec = {"selector": {"name": f"job-{task.own('name')}"}, "template": template}
        return RenderedObject("example.com/v1", "Job", metadata, b'"spec":' + msgspec.json.encode(spec))

    return convert


short = st.dictionaries(st.sampled_from(["a", "run", "attempt", "x/y"]), texts, max_size=3)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(texts, texts, short, short), min_size=1, max_size=6))
def test_plan_of_a_job_agrees_on_names_labels_and_annotations(
    executions: list[tuple[str, str, dict[str, str], dict[str, str]]],
) -> None:
    builder = PodSpecBuilder(K8sConfig())
    convert = job(builder)
    plans = job_plans(builder, convert)
    template = tasks.container_template()
    for name, namespace, labels, notes in executions:
        ctx = context(
            template, tasks.metadata(name, namespace=namespace, labels=labels, annotations=notes), tasks.PATHS
        )
        for _ in range(2):
            planned = plans.render(ctx)
            plain = convert(inputs.finish(read_task(ctx, plans._own_values(ctx))))
            assert planned is None or msgspec.json.decode(planned.to_json()) == msgspec.json.decode(plain.to_json())
            event(f"planned: {planned is not None}")


def test_plan_of_a_job_serves_executions_with_other_values() -> None:
    builder = PodSpecBuilder(K8sConfig())
    plans = job_plans(builder, job(builder))
    template = tasks.container_template()
    for number in range(5):
        ctx = context(template, tasks.metadata(f"run-{number}", labels={"run": f"r{number}"}), tasks.PATHS)
        planned = plans.render(ctx)
        if number:
            assert planned is not None
            assert planned.metadata.name == f"RUN-{number}"
            assert planned.metadata.labels == {"run": f"r{number}", "kept": "yes"}
            assert b'"name":"job-RUN-%d"' % number in planned.body
    known = next(iter(plans._known.values()))
    assert known is not None
    assert known.count == 1


def test_conversion_that_looks_at_what_a_plan_does_not_hold_is_not_folded() -> None:
    builder = PodSpecBuilder(K8sConfig())

    def convert(task: PodTask) -> RenderedObject:
        body = b'"attempts":"%d"' % task.metadata.max_attempts
        return RenderedObject("example.com/v1", "Job", ObjectMeta(), body)

    plans = job_plans(builder, convert)
    template = tasks.container_template()
    assert [plans.render(context(template, tasks.metadata(max_attempts=3), tasks.PATHS)) for _ in range(3)] == [
        None
    ] * 3


@pytest.mark.anyio
async def test_error_of_an_own_value_is_raised_by_the_plain_conversion() -> None:
    builder = PodSpecBuilder(K8sConfig())

    def refuse(ctx: Any) -> str:
        raise PermanentError("Bad", "no name for it")

    plans = plan.Plans(builder, job(builder), own={"name": refuse})
    ctx = context(tasks.container_template(), tasks.metadata(), tasks.PATHS)
    for _ in range(3):
        with pytest.raises(PermanentError, match="no name for it"):
            await plans.build(ctx)


@pytest.mark.parametrize(
    ("text", "is_half"),
    [
        (f"a {plan.MARK}1{plan.MARK} {{{{.runName}}}}", False),  # nothing can be made of what nobody knows
        (f"{{{{.{plan.MARK}1{plan.MARK}}}}}", True),
        (f"{{{{.runName}}}} {{{{ {plan.MARK}1{plan.MARK}", True),
        (f"{{{{{{.runName}}}}{{ {plan.MARK}1{plan.MARK}", True),
        ("{{.runName}} {{", False),
    ],
)
def test_only_open_braces_are_half_a_placeholder(text: str, *, is_half: bool) -> None:
    assert plan._holds_half_a_placeholder([{"args": [text]}]) is is_half
