"""Plans: a conversion done once for a template, then filled in for each execution.

What a task is converted to depends mostly on its template and on configuration. So the plain conversion
runs once with *marks* in place of everything that differs between executions (names, paths, environment); its
JSON, cut at the marks, is the plan. What a plan can not hold takes the plain way each time: inputs in the
command line, texts with braces, names that mean something to a pod template.

For a plugin whose objects hold more than a pod, the conversion ``convert(task)`` is folded alike. It may put what
differs between executions into its object only as it finds it in the task: whole or within a longer text, not cut,
changed or escaped, and it may not decide by it. What it needs in another form is a value of the plugin's own::

    Plans(
        builder,
        convert,  # reads task.own("start_time"), merges task.metadata.labels into pod templates
        own={
            "name": lambda ctx: ctx.metadata.task_execution_id.generated_name,
            "start_time": lambda ctx: str(round(ctx.now.timestamp() * 1000)),
        },
        uses_labels=True,
    )

In the task that is folded, ``task.metadata`` holds marks of the execution's node, run, task, attempt and console
URL, of its generated name in the form of a container's name, and with ``uses_labels`` of the values of labels and
annotations, whose names are constant in a plan. ``task.parameters`` holds marks of the namespace and the paths.
Overrides, platform resources, accounts and interruptibility are as they are; the rest is missing. A plan whose object
has marks anywhere else than in its body, its name, its namespace and its labels and annotations is given up.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan._speedups import fragments
from propfan.pluginmachinery.contexts import (
    ExecutionId,
    IOPaths,
    NamespacedName,
    NodeExecutionId,
    OwnerReference,
    ResourceRequirements,
    TaskContext,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskExecutionMetadata,
    TaskId,
    TaskOverrides,
)
from propfan.pluginmachinery.errors import PropfanError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, RenderedObject
from propfan.pluginmachinery.podspec import build
from propfan.pluginmachinery.podspec import environment as environments
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, PodTask
from propfan.pluginmachinery.templates import TemplateParameters

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import TaskTemplate

MARK: Final = "\ufdd0"
"""A noncharacter of Unicode: no text has any use for it. A task that holds one is never folded."""

MAX_FOLDED_BYTES: Final = 64 * 1024
"""Of a template; larger ones are not kept."""

_MARK_BYTES: Final = MARK.encode()
_ENVIRONMENT: Final = "ENVIRONMENT"
_SLOTS: Final = (
    "container_name",
    "unique_node_id",
    "run",
    "project",
    "domain",
    "attempt",
    "task_project",
    "task_domain",
    "task_name",
    "task_version",
    "console_url",
    "namespace",
    "input",
    "output_prefix",
    "input_prefix",
    "raw_output_prefix",
    "previous_checkpoints_prefix",
    "checkpoint_prefix",
    "task_template",
    _ENVIRONMENT,
)
_CONSOLE_URL: Final = _SLOTS.index("console_url")
_NAMESPACE: Final = _SLOTS.index("namespace")
_ENVIRONMENT_SLOT: Final = _SLOTS.index(_ENVIRONMENT)
_ANY_MARK: Final = re.compile(rf"{MARK}\d+{MARK}")
_WHOLE_PLACEHOLDER: Final = re.compile(rf"\{{\{{[^{{}}{MARK}]*\}}\}}")

_NO_RUN: Final = ExecutionId()
_NO_TASK: Final = TaskId()
_NO_OWNER: Final = OwnerReference("", "", "", "")

Values = list[str | Mapping[str, str]]


class _MarkedMetadata(msgspec.Struct, frozen=True):
    """Which values an object's metadata takes, by their index; labels and annotations by their name."""

    name: int | None = None
    namespace: int | None = None
    labels: tuple[tuple[str, int], ...] = ()
    annotations: tuple[tuple[str, int], ...] = ()

    def fill(self, metadata: ObjectMeta, values: Values) -> ObjectMeta:
        members: dict[str, Any] = {}
        if self.name is not None:
            members["name"] = values[self.name]
        if self.namespace is not None:
            members["namespace"] = values[self.namespace]
        if self.labels:
            members["labels"] = {**metadata.labels, **{name: values[index] for name, index in self.labels}}
        if self.annotations:
            filled = {name: values[index] for name, index in self.annotations}
            members["annotations"] = {**metadata.annotations, **filled}
        return msgspec.structs.replace(metadata, **members)


_NOTHING_MARKED: Final = _MarkedMetadata()


class Plan(msgspec.Struct, frozen=True):
    """A folded conversion.

    Attributes:
        program: Of the body, see ``_speedups.fragments``.
        rendered: Without a body, and without what is marked in its metadata.
        braceless: Values that must hold no brace, since they were put into command lines.
        foreign_names: Containers of pod templates; an execution's container of such a name is another case.
    """

    rendered: RenderedObject
    program: tuple[bytes | int, ...]
    marked: _MarkedMetadata
    braceless: tuple[int, ...]
    foreign_names: frozenset[str]

    def render(self, values: Values) -> RenderedObject | None:
        """The object with an execution's values; ``None`` where the plan does not hold."""
        if values[0] in self.foreign_names:
            return None
        if fragments.have_brace(values, self.braceless):
            return None
        metadata = self.rendered.metadata
        if self.marked is not _NOTHING_MARKED:
            metadata = self.marked.fill(metadata, values)
        body = fragments.render(self.program, values)
        return RenderedObject(self.rendered.api_version, self.rendered.kind, metadata, body)


class _Folded(msgspec.Struct, frozen=True):
    """A plan and what it was made with; ``None`` says that there can be none."""

    stored: Mapping[str, Any] | None
    overrides: TaskOverrides | None
    platform: ResourceRequirements | None
    plan: Plan | None


class _Known(msgspec.Struct):
    """What is remembered of one template."""

    is_foldable: bool
    template_name: str
    plans: dict[tuple[Any, ...], list[_Folded]]
    count: int = 0

    def add(self, key: tuple[Any, ...], folded: _Folded, capacity: int) -> None:
        if self.count >= capacity:
            self.plans.clear()
            self.count = 0
        self.plans.setdefault(key, []).insert(0, folded)
        self.count += 1


class Plans:
    """Converts tasks, keeping a plan for what comes twice.

    Args:
        convert: The plain conversion. Of the execution it uses only what the module's docstring allows, and the
            environment by the names given.
        watched_values: Variables of the execution on whose values the conversion depends.
        watched_names: Variables on whose being there it depends.
        own: What gives the values of the plugin's own, by name; the conversion asks for them with ``task.own``. An
            error of one of them is raised where the plain conversion asks.
        uses_labels: Whether the conversion looks at labels and annotations of the execution.
        capacity: Templates to keep; each has at most ``capacity_each`` plans.
    """

    def __init__(
        self,
        builder: PodSpecBuilder,
        convert: Callable[[PodTask], RenderedObject],
        *,
        watched_values: Sequence[str] = (),
        watched_names: Sequence[str] = (),
        own: Mapping[str, Callable[[TaskContext], str]] | None = None,
        uses_labels: bool = False,
        capacity: int = 1024,
        capacity_each: int = 64,
    ) -> None:
        self._builder = builder
        self._convert = convert
        self._watched_values = tuple(watched_values)
        self._watched_names = tuple(watched_names)
        self._own = dict(own or {})
        self._uses_labels = uses_labels
        self._capacity = capacity
        self._capacity_each = capacity_each
        self._known: OrderedDict[bytes, _Known | None] = OrderedDict()
        """``None`` for a template that was seen once. The most recently used one comes last."""

    async def build(self, ctx: TaskContext) -> RenderedObject:
        """The object of a task.

        Raises: as the plain conversion.
        """
        rendered = self.render(ctx)
        return self._convert(await build.read_task(ctx, self._own_values(ctx))) if rendered is None else rendered

    def render(self, ctx: TaskContext) -> RenderedObject | None:
        """As `build`, but without inputs; ``None`` where the plain conversion is due.

        The first execution of a template is converted plainly, the second one makes the plan.
        """
        template_bytes = ctx.template_bytes
        if template_bytes not in self._known:
            self._see(template_bytes)
            return None
        self._known.move_to_end(template_bytes)
        known = self._known[template_bytes]
        if known is None:
            known = self._known[template_bytes] = self._know(template_bytes, ctx.template)
        if not known.is_foldable:
            return None
        metadata = ctx.metadata
        try:
            values, key = self._values(ctx)
        except PropfanError:
            return None  # of a value of the plugin's own
        stored = None
        if known.template_name:
            stored = self._builder.templates.find(metadata.namespace, known.template_name)
        found = None
        for case in known.plans.get(key, ()):
            if (
                case.stored is stored
                and case.overrides == metadata.overrides
                and case.platform == metadata.platform_resources
            ):
                found = case
                break
        if found is None:
            plan = self._fold(ctx, values)
            known.add(key, _Folded(stored, metadata.overrides, metadata.platform_resources, plan), self._capacity_each)
        else:
            plan = found.plan
        values[_CONSOLE_URL] = metadata.console_url.rstrip("/")
        return None if plan is None else plan.render(values)

    def forget(self) -> None:
        """Drop all plans."""
        self._known.clear()

    def _see(self, template_bytes: bytes) -> None:
        if len(template_bytes) <= MAX_FOLDED_BYTES:
            self._known[template_bytes] = None
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def _know(self, template_bytes: bytes, template: TaskTemplate) -> _Known:
        is_foldable = _MARK_BYTES not in template_bytes and _has_constant_inputs(template_bytes)
        return _Known(
            is_foldable, template.metadata.pod_template_name or self._builder.k8s.default_pod_template_name, {}
        )

    def _own_values(self, ctx: TaskContext) -> Callable[[str], str]:
        return lambda name: self._own[name](ctx)

    def _values(self, ctx: TaskContext) -> tuple[Values, tuple[Any, ...]]:
        """What an execution puts into the slots, and all else that its conversion depends on."""
        metadata, paths = ctx.metadata, ctx.paths
        execution = metadata.task_execution_id
        identifier = execution.id
        node, task = identifier.node_execution_id, identifier.task_id
        run = (None if node is None else node.execution_id) or _NO_RUN
        of_task = task or _NO_TASK
        environment = metadata.environment_variables
        values: Values = [
            build.container_name(execution.generated_name),
            execution.unique_node_id,
            run.name,
            run.project,
            run.domain,
            str(identifier.retry_attempt),
            of_task.project,
            of_task.domain,
            of_task.name,
            of_task.version,
            metadata.console_url,
            metadata.namespace,
            paths.input,
            paths.output_prefix,
            paths.input_prefix,
            paths.raw_output_prefix,
            paths.previous_checkpoints_prefix,
            paths.checkpoint_prefix,
            paths.task_template,
            environment,
        ]
        for value_of in self._own.values():
            values.append(value_of(ctx))
        names: tuple[tuple[str, ...], ...] = ()
        if self._uses_labels:
            names = (tuple(metadata.labels), tuple(metadata.annotations))
            values += metadata.labels.values()
            values += metadata.annotations.values()
        key = (
            fragments.empties(values),
            names,
            run is _NO_RUN,
            task is None,
            metadata.interruptible,
            metadata.k8s_service_account,
            metadata.security_context,
            *map(environment.get, self._watched_values),
            *map(environment.__contains__, self._watched_names),
        )
        return values, key

    def _fold(self, ctx: TaskContext, values: Values) -> Plan | None:
        """The plan of the executions that are like this one, ``None`` when there is none.

        A plan is trusted once it has said of this execution what the plain conversion says.
        """
        metadata = ctx.metadata
        overrides = metadata.overrides
        if overrides is not None and overrides.pod_template and not _has_constant_inputs(overrides.pod_template):
            return None
        marks = [f"{MARK}{index}{MARK}" if value else "" for index, value in enumerate(values)]
        environment = self._marked_environment(metadata.environment_variables, marks)
        try:
            plain = self._convert(build.task_of(ctx.template, metadata, ctx.paths, None, self._own_values(ctx)))
            task = self._marked_task(ctx.template, metadata, marks, environment)
            rendered = self._convert(task)
            foreign_names = self._builder.foreign_container_names(task)
        except PropfanError:
            return None
        if _MARK_BYTES in plain.to_json():
            return None
        body = rendered.body
        if _holds_half_a_placeholder(msgspec.json.decode(b"{" + body + b"}")):
            return None
        if environment:
            body = body.replace(msgspec.json.encode(environment)[1:-1], marks[_ENVIRONMENT_SLOT].encode())
        program = fragments.cut(body, _MARK_BYTES)
        used = {part for part in program if isinstance(part, int)}
        constant, marked = _take_apart(rendered.metadata, marks)
        if _MARK_BYTES in msgspec.json.encode(constant):
            return None
        plan = Plan(
            rendered=RenderedObject(rendered.api_version, rendered.kind, constant, b""),
            program=program,
            marked=marked,
            braceless=tuple(sorted(used.intersection(range(_NAMESPACE, _ENVIRONMENT_SLOT)))),
            foreign_names=foreign_names,
        )
        said = plan.render([*values[:_CONSOLE_URL], metadata.console_url.rstrip("/"), *values[_CONSOLE_URL + 1 :]])
        return plan if said is None or said == plain else None

    def _marked_task(
        self,
        template: TaskTemplate,
        metadata: TaskExecutionMetadata,
        marks: list[str],
        environment: list[dict[str, Any]],
    ) -> PodTask:
        """The task with marks in place of everything that has a slot."""
        task = _marked_task(template, metadata, marks, environment)
        own_names, labels_begin = tuple(self._own), len(_SLOTS) + len(self._own)
        own = dict(zip(own_names, marks[len(_SLOTS) : labels_begin], strict=True))
        marked = task.metadata
        if self._uses_labels:
            annotations_begin = labels_begin + len(metadata.labels)
            marked = msgspec.structs.replace(
                marked,
                labels=dict(zip(metadata.labels, marks[labels_begin:annotations_begin], strict=True)),
                annotations=dict(zip(metadata.annotations, marks[annotations_begin:], strict=True)),
            )
        return msgspec.structs.replace(task, metadata=marked, own=own.__getitem__)

    def _marked_environment(self, variables: Mapping[str, str], marks: list[str]) -> list[dict[str, Any]]:
        """The variables that the conversion looks at, and a mark for all of them."""
        if not variables:
            return []
        looked_at = {name: variables[name] for name in self._watched_values if name in variables}
        looked_at.update((name, "") for name in self._watched_names if name in variables)
        return [*environments.variables(looked_at), {"name": marks[_ENVIRONMENT_SLOT]}]


def _has_constant_inputs(serialised: bytes) -> bool:
    """Whether no command line in a template asks for what has no slot: inputs, and the unique key of an attempt."""
    lowered = serialised.lower()
    asks_for_key = b"perretryuniquekey" in lowered or b"perretryunique\xe2\x84\xaaey" in lowered  # the Kelvin sign
    return not (asks_for_key or build.asks_for_inputs(serialised))


def _take_apart(metadata: ObjectMeta, marks: Sequence[str]) -> tuple[ObjectMeta, _MarkedMetadata]:
    """An object's metadata without the members that are marks, and these."""
    slots = {mark: index for index, mark in enumerate(marks) if mark}
    parts: dict[str, Any] = {}
    marked: dict[str, Any] = {}
    for kind, entries in (("labels", metadata.labels), ("annotations", metadata.annotations)):
        parts[kind] = {name: value for name, value in entries.items() if value not in slots}
        marked[kind] = tuple((name, slots[value]) for name, value in entries.items() if value in slots)
    for field, value in (("name", metadata.name), ("namespace", metadata.namespace)):
        if value in slots:
            parts[field], marked[field] = "", slots[value]
    found = _MarkedMetadata(**marked)
    return msgspec.structs.replace(metadata, **parts), _NOTHING_MARKED if found == _NOTHING_MARKED else found


def _marked_task(
    template: TaskTemplate, metadata: TaskExecutionMetadata, marks: list[str], environment: list[dict[str, Any]]
) -> PodTask:
    """The task with marks in place of everything that has a slot."""
    of = dict(zip(_SLOTS, marks, strict=False))
    identifier = metadata.task_execution_id.id
    node, task = identifier.node_execution_id, identifier.task_id
    if node is not None and node.execution_id is not None:
        node = NodeExecutionId(node.node_id, ExecutionId(of["project"], of["domain"], of["run"]))
    if task is not None:
        task = TaskId(of["task_project"], of["task_domain"], of["task_name"], of["task_version"])
    # The attempt is a number to those who read it, so its mark is one in name only.
    attempt: Any = of["attempt"]
    marked = msgspec.structs.replace(
        metadata,
        task_execution_id=TaskExecutionId(
            of["container_name"], of["unique_node_id"], TaskExecutionIdentifier(task, node, attempt)
        ),
        console_url=of["console_url"],
        # Who looks at what has no slot will not say of the marked task what it says of the real one.
        owner_id=NamespacedName("", ""),
        owner_reference=_NO_OWNER,
        labels={},
        annotations={},
        max_attempts=0,
        interruptible_failure_threshold=0,
        environment_variables={},
        external_resource_attributes={},
    )
    paths = IOPaths(
        input_prefix=of["input_prefix"],
        output_prefix=of["output_prefix"],
        raw_output_prefix=of["raw_output_prefix"],
        input=of["input"],
        output="",
        error="",
        deck="",
        checkpoint_prefix=of["checkpoint_prefix"],
        previous_checkpoints_prefix=of["previous_checkpoints_prefix"],
        task_template=of["task_template"],
    )
    parameters = TemplateParameters(of["container_name"], of["namespace"], paths)
    return PodTask(template, marked, parameters, of["container_name"], environment)


def _holds_half_a_placeholder(value: Any) -> bool:
    """Whether a string has braces left that could become a placeholder together with a value."""
    if isinstance(value, str):
        return MARK in value and "{{" in _ANY_MARK.sub("", _WHOLE_PLACEHOLDER.sub("", value))
    if isinstance(value, dict):
        return any(_holds_half_a_placeholder(item) for item in value.values())
    return isinstance(value, list) and any(_holds_half_a_placeholder(item) for item in value)
