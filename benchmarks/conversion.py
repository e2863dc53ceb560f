"""Tasks to pods and pods to phases, against the same work in Flyte's own back end (Go).

A *cold* build meets its template for the first time; a *warm* one has a plan for it. Each call takes another
one of a few executions, and its template as fresh bytes, as tasks come from a cluster.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
from flyteidl2.core import literals_pb2, tasks_pb2
from google.protobuf import json_format, struct_pb2

from benchmarks import conversion_phase, harness
from benchmarks.harness import Case, Measurement, Report, Table, Target
from propfan._speedups import apitypes, fragments, quantities, requirements, structs
from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.contexts import IOPaths, TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import Properties, RenderedObject
from propfan.pluginmachinery.podspec import schema
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, task_of
from propfan.pluginmachinery.podspec.plan import Plans
from propfan.plugins.pod import build

_EXECUTIONS: Final = 32
_BOUNDED: Final = frozenset({"nvidia.com/gpu", "google.com/tpu", "amd.com/gpu", "ephemeral-storage"})
_QUANTITIES: Final = ("500m", "1Gi", "2", "1500m", "16Gi", "100m", "2000Mi", "1")

_COLD_NOTE: Final = (
    "The least is the floor on this machine: a first build is plain Python, which reads the template's fields one by one "
    "and makes a dict for each variable. Only the first execution of a template pays it."
)

_TWIN_NOTE: Final = "Its time goes into dictionaries, which are C in both twins."

WARM_FACTOR: Final = 6.0
TWIN_FACTOR: Final = 5.0


class Recorded:
    """A recorded build input: a configuration, a template, and executions of it that differ in their names."""

    def __init__(self, name: str) -> None:
        self.case = json.loads((harness.DATA / f"{name}.json").read_bytes())
        self.template_bytes = base64.b64decode(self.case["task_template"])
        self.template = tasks_pb2.TaskTemplate.FromString(self.template_bytes)
        self.k8s = decode_config(K8sConfig, (self.case["config"] or {}).get("k8s"), "plugins.k8s")
        templates = {template["metadata"]["name"]: template for template in self.case.get("pod_templates") or ()}
        self.builder = PodSpecBuilder(self.k8s, Templates(templates))
        self.executions = itertools.cycle([Execution(self, number) for number in range(_EXECUTIONS)])


class Templates:
    """A ``PodTemplateStore`` of one namespace."""

    def __init__(self, templates: dict[str, Any]) -> None:
        self._templates = templates

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self._templates.get(name)


class Execution:
    """As much of a ``TaskContext`` as a build looks at."""

    def __init__(self, recorded: Recorded, number: int) -> None:
        case = recorded.case
        members = {key: value for key, value in case["metadata"].items() if value is not None}
        metadata = msgspec.convert(members, TaskExecutionMetadata, strict=False)
        identity = metadata.task_execution_id
        name = f"{identity.generated_name[:-1]}{number}"
        self.metadata = msgspec.structs.replace(
            metadata, task_execution_id=msgspec.structs.replace(identity, generated_name=name)
        )
        paths = {key: value.replace("/a0/", f"/a0/{number}/") for key, value in case["paths"].items()}
        self.paths = msgspec.convert(paths, IOPaths)
        self.template = recorded.template
        self.template_bytes = recorded.template_bytes
        self.inputs = self

    async def read(self) -> literals_pb2.LiteralMap | None:
        return None


def warm(recorded: Recorded) -> Callable[[], bytes]:
    plans = build.plans(recorded.builder)
    content = memoryview(recorded.template_bytes)

    def call() -> bytes:
        execution: Any = next(recorded.executions)
        execution.template_bytes = bytes(content)
        rendered = plans.render(execution)
        return b"" if rendered is None else rendered.to_json()

    for _ in range(2):
        call()
    if not call():
        raise RuntimeError("there is no plan for the recorded task")
    return call


def created(recorded: Recorded) -> Callable[[], bytes]:
    plans = build.plans(recorded.builder)

    def call() -> bytes:
        execution: Any = next(recorded.executions)
        rendered = plans.render(execution)
        if rendered is None:
            return b""
        metadata = object_metadata.stamp(rendered.metadata, execution.metadata, recorded.k8s, Properties())
        return rendered.to_json(metadata)

    for _ in range(2):
        call()
    return call


def plain(recorded: Recorded) -> Callable[[], RenderedObject]:
    def call() -> RenderedObject:
        execution: Any = next(recorded.executions)
        task = task_of(execution.template, execution.metadata, execution.paths)
        return build.render(build.build_pod(recorded.builder, task))

    return call


def cold(recorded: Recorded) -> Callable[[], bytes]:
    """The engine's own way for a template that it has never seen: parse, look for a plan, convert, encode."""
    plans = build.plans(recorded.builder)
    content = memoryview(recorded.template_bytes)
    coroutine = _finish

    def call() -> bytes:
        plans.forget()
        execution: Any = next(recorded.executions)
        execution.template_bytes = bytes(content)
        execution.template = tasks_pb2.TaskTemplate.FromString(execution.template_bytes)
        return coroutine(plans, execution).to_json()

    return call


def _finish(plans: Plans, execution: Any) -> RenderedObject:
    try:
        plans.build(execution).send(None)
    except StopIteration as stop:
        rendered: RenderedObject = stop.value
        return rendered
    raise RuntimeError("the build waited for something")


def fold(recorded: Recorded) -> Callable[[], RenderedObject | None]:
    """The second execution of a template, which makes the plan."""
    plans = build.plans(recorded.builder)

    def call() -> RenderedObject | None:
        plans.forget()
        execution: Any = next(recorded.executions)
        plans.render(execution)
        return plans.render(execution)

    return call


def spec(recorded: Recorded) -> Callable[[], object]:
    def call() -> object:
        execution: Any = next(recorded.executions)
        return recorded.builder.to_pod_spec(task_of(execution.template, execution.metadata, execution.paths))

    return call


def cases() -> list[Case]:
    small, rich = Recorded("container_small"), Recorded("container_rich")
    body = json.loads(warm(rich)())["spec"]
    message = struct_pb2.Struct()
    json_format.ParseDict(body, message)
    serialised = message.SerializeToString()
    program, values = _program(rich)
    found = []
    for name, recorded in (("small", small), ("rich", rich)):
        marshal, only_spec = f"BuildAndMarshal/pod_container_{name}", f"ToK8sPodSpec/container_{name}"
        found += [
            Case(f"build {name}, warm", "task to Pod JSON, plan known", warm(recorded), marshal),
            Case(f"build {name}, cold", "parse template, task to Pod JSON, first time", cold(recorded), marshal),
            Case(f"create {name}, warm", "the same with the metadata of a created object", created(recorded)),
            Case(f"fold {name}", "make a plan and use it", fold(recorded)),
            Case(f"spec {name}", "pod spec as a dict, no plan", spec(recorded), only_spec),
        ]
    rows = harness.go_figures()["rows"]
    found += [Case(name, rows[name]["what"], call, name) for name, call in conversion_phase.calls(harness.DATA)]
    return [
        *found,
        Case("quantities", "eight printed quantities", _print_quantities, compiled="quantities"),
        Case("struct", "4 kB pod spec from Struct bytes", lambda: structs.to_value(serialised), compiled="structs"),
        Case("struct, json_format", "the same with protobuf's own", lambda: _by_protobuf(serialised)),
        Case(
            "decode",
            "that pod spec to its written form",
            lambda: apitypes.decode(body, schema.POD_SPEC),
            compiled="apitypes",
        ),
        Case("settle", "requests and limits of a container", _settle, compiled="requirements"),
        Case("fill", "4 kB of fragments joined", lambda: fragments.render(program, values), compiled="fragments"),
    ]


def _print_quantities() -> None:
    for text in _QUANTITIES:
        quantities.canonical(text)


def _settle() -> dict[str, Any]:
    requests, limits = {"cpu": "4", "memory": "16Gi"}, {"cpu": "8", "nvidia.com/gpu": "1"}
    return requirements.resolve(requests, limits, {"cpu": "1"}, {"memory": "8Gi"}, _BOUNDED, True)


def _by_protobuf(serialised: bytes) -> dict[str, Any]:
    return json_format.MessageToDict(struct_pb2.Struct.FromString(serialised))


def _program(recorded: Recorded) -> tuple[tuple[bytes | int, ...], list[Any]]:
    """A text of the size of a rich pod with as many slots."""
    environment = dict(recorded.case["metadata"]["environment_variables"])
    texts = list(recorded.case["paths"].values())
    mark = "\ufdd0".encode()
    slots = b",".join(b'"' + mark + b"%d" % (index % 10) + mark + b'"' for index in range(30))
    text = b'{"a":"' + b"x" * 2000 + b'","b":[' + slots + b'],"env":[' + mark + b"10" + mark + b"]}"
    return fragments.cut(text, mark), [*texts[:10], environment]


def run(quick: bool) -> Report:  # noqa: FBT001 - the signature of all suites
    listed = cases()
    compiled = harness.measure_all(listed, quick=quick)
    pure = harness.measure_pure(__name__, quick=quick)
    go = harness.go_figures()
    columns = [
        "case",
        "what",
        "us",
        "spread us",
        "least us",
        "peak bytes",
        "pure us",
        "pure/compiled",
        "Go us",
        "Go/ours",
    ]
    rows = [_row(case, compiled[case.name], pure[case.name], go["rows"]) for case in listed]
    kept = [{"what": name, "bytes": size} for name, size in conversion_phase.memory(harness.DATA).items()]
    return Report(
        "conversion",
        [Table("conversion", columns, rows), Table("memory", ["what", "bytes"], kept)],
        targets(compiled, pure, go["rows"]),
        [
            f"Go: {go['recorded']}. That is another machine than this one.",
            "peak bytes: the most that one call held at once; Go's figures of bytes are totals per call.",
        ],
    )


def _row(case: Case, compiled: Measurement, pure: Measurement, go: dict[str, Any]) -> dict[str, Any]:
    us = harness.microseconds
    reference = go[case.compare]["us_median"] if case.compare else None
    return {
        "case": case.name,
        "what": case.what,
        "us": us(compiled.median_ns),
        "spread us": f"{us(compiled.low_ns)}-{us(compiled.high_ns)}",
        "least us": us(compiled.least_ns),
        "peak bytes": compiled.allocated_bytes,
        "pure us": us(pure.low_ns),
        "pure/compiled": f"{pure.low_ns / compiled.low_ns:.1f}x",
        "Go us": reference,
        "Go/ours": f"{reference * 1000 / compiled.low_ns:.1f}x" if reference else None,
    }


def targets(compiled: dict[str, Measurement], pure: dict[str, Measurement], go: dict[str, Any]) -> list[Target]:
    found = []
    for size in ("small", "rich"):
        reference = go[f"BuildAndMarshal/pod_container_{size}"]["us_median"]
        warm_case, cold_case = compiled[f"build {size}, warm"], compiled[f"build {size}, cold"]
        why = f"{WARM_FACTOR:g}x Go's {reference} us"
        found.append(harness.at_most(f"build {size}, plan warm", reference / WARM_FACTOR, warm_case, why))
        found.append(harness.at_most(f"build {size}, plan cold", reference, cold_case, "as fast as Go", _COLD_NOTE))
    found += conversion_phase.targets(compiled, go, harness.DATA)
    for name in ("quantities", "struct", "decode", "settle", "fill"):
        ratio = pure[name].low_ns / compiled[name].low_ns
        found.append(harness.at_least(f"{name}, compiled over pure", TWIN_FACTOR, ratio, _TWIN_NOTE))
    return found
