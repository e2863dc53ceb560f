"""Tasks to operators' objects and these to phases, against the same work in Flyte's own back end (Go).

A build has a plan for its template, and gets another execution and fresh bytes of the template each time. A phase is
that of an object as caches hand it to a plugin: its metadata decoded, the whole as JSON; no pod is listed.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

import anyio
import msgspec

from benchmarks import harness
from benchmarks.harness import Case, Measurement, Report, Table, Target
from propfan.pluginmachinery.entries import KubernetesPluginEntry
from propfan.pluginmachinery.kubernetes_plugin import KubernetesPlugin, ObjectMeta, ObservedObject, RenderedObject
from propfan.pluginmachinery.phases import Phase, PhaseInfo
from tests.golden import inputs
from tests.golden.areas import jobs
from tests.peers.sdk_templates.recorded import recorded

_EXECUTIONS: Final = 32
_STARTED: Final = "2026-03-14T15:00:00Z"

RECORDED: Final = ("spark", "ray", "dask", "pytorch")
"""Task types whose build input is in ``data``, as the Go rows had it."""

FROM_SDK: Final = ("tensorflow", "mpi", "clustered-task")
"""Those that have no Go row: the richest template that an SDK serialised, run like the Spark task."""

BUILD_FACTOR: Final = 5.0
PHASE_FACTOR: Final = 10.0
STAND_INS: Final[Mapping[str, str]] = {
    "build tensorflow": "BuildAndMarshal/pytorch",
    "build mpi": "BuildAndMarshal/pytorch",
    "build clustered-task": "BuildAndMarshal/pytorch",
    "phase dask": "CRPhase/ray_from_json",
    "phase pytorch": "CRPhase/spark_from_json",
    "phase tensorflow": "CRPhase/ray_from_json",
    "phase mpi": "CRPhase/spark_from_json",
    "phase clustered-task": "CRPhase/spark_from_json",
}
"""The Go rows whose class the others are to be in: of a conversion that is alike, of an object of about that size."""

_NOTES: Final[Mapping[str, str]] = dict.fromkeys(
    ("phase pytorch", "phase tensorflow", "phase mpi", "phase clustered-task"),
    "It has links to the logs of each replica, and tells the operator's whole status; the Go rows have one link or none.",
)

_RUNNING: Final = {
    "conditions": [
        {
            "type": "Created",
            "status": "True",
            "reason": "JobCreated",
            "message": "made",
            "lastTransitionTime": _STARTED,
        },
        {
            "type": "Running",
            "status": "True",
            "reason": "JobRunning",
            "message": "runs",
            "lastTransitionTime": _STARTED,
        },
    ],
    "replicaStatuses": {"Worker": {"active": 2}},
    "startTime": _STARTED,
}
STATUSES: Final[Mapping[str, Mapping[str, Any]]] = {
    "dask": {"jobStatus": "Running", "clusterName": "c", "jobRunnerPodName": "c-runner", "startTime": _STARTED},
    "pytorch": _RUNNING,
    "tensorflow": _RUNNING,
    "mpi": _RUNNING,
    "clustered-task": {
        "restarts": 0,
        "replicatedJobsStatus": [
            {"name": "workers", "ready": 1, "active": 1, "succeeded": 0, "failed": 0, "suspended": 0}
        ],
    },
}
"""Of running objects; those of Spark and Ray are in ``data``."""


class Task:
    """A template and executions of it that differ in their names, with the plugin that runs them."""

    def __init__(self, entry: KubernetesPluginEntry, case: Mapping[str, Any]) -> None:
        self.entry = entry
        self.plugin: KubernetesPlugin = jobs.plugin(entry, case)
        self.template_bytes = base64.b64decode(case["task_template"])
        self.executions = itertools.cycle([inputs.Context(_execution(case, number)) for number in range(_EXECUTIONS)])


def _execution(case: Mapping[str, Any], number: int) -> dict[str, Any]:
    identity = case["metadata"]["task_execution_id"]
    name = f"{identity['generated_name'][:-1]}{number}"
    metadata = {**case["metadata"], "task_execution_id": {**identity, "generated_name": name}}
    paths = {key: value.replace("/a0/", f"/a0/{number}/") for key, value in case["paths"].items()}
    return {**case, "config": case["config"] or {}, "metadata": metadata, "paths": paths}


def tasks() -> Iterator[tuple[str, Task]]:
    """By task type, those that an installed plugin runs."""
    found = {
        task_type: entry
        for point in entry_points(group="propfan.plugins")
        if isinstance(entry := point.load(), KubernetesPluginEntry)
        for task_type in entry.task_types
    }
    given = {name: json.loads((harness.DATA / f"{name}.json").read_bytes()) for name in RECORDED}
    for name in FROM_SDK:
        template = max((one.template for one in recorded(name)), key=len)
        given[name] = {**given["spark"], "task_template": base64.b64encode(template).decode()}
    for name, case in given.items():
        if name in found:
            yield name, Task(found[name], case)


def build(task: Task) -> Callable[[], bytes]:
    content = memoryview(task.template_bytes)

    def call() -> bytes:
        execution = next(task.executions)
        execution.template_bytes = bytes(content)
        rendered = inputs.finish(task.plugin.build_resource(execution))
        assert isinstance(rendered, RenderedObject)
        return rendered.to_json()

    async def warm_up() -> None:
        for _ in range(3):  # what the plugin asks of its cluster, the first sight of a template, its plan
            await task.plugin.build_resource(next(task.executions))

    anyio.run(warm_up)
    return call


def running_object(name: str, task: Task) -> bytes:
    """A running object as an API server writes it: without spaces, its members by name."""
    file = harness.DATA / f"{name}_running.json"
    if file.exists():
        content = json.loads(file.read_bytes())
    else:
        execution = next(task.executions)
        content = json.loads(build(task)())
        made = {"name": execution.metadata.task_execution_id.generated_name, "namespace": execution.metadata.namespace}
        seen = {"creationTimestamp": _STARTED, "uid": "0f0e0d0c-1111-2222-3333-444455556666", "generation": 1}
        content["metadata"] = {**content["metadata"], **made, **seen}
        content["status"] = STATUSES[name]
    return msgspec.json.encode(content, order="sorted")


class _Partial(msgspec.Struct):
    metadata: ObjectMeta


_PARTIAL: Final = msgspec.json.Decoder(_Partial)


def phase(task: Task, raw: bytes) -> Callable[[], PhaseInfo]:
    execution = next(task.executions)
    metadata = _PARTIAL.decode(raw).metadata

    def call() -> PhaseInfo:
        resource = ObservedObject(task.entry.watched, metadata, raw)
        return inputs.finish(task.plugin.get_task_phase(execution, resource))

    if (verdict := call()).phase is not Phase.RUNNING:
        raise RuntimeError(f"the running {task.entry.watched.kind} is {verdict}")
    return call


def cases() -> list[Case]:
    found = []
    rows = harness.go_figures()["rows"]
    for name, task in tasks():
        row = f"BuildAndMarshal/{name}"
        kind = task.entry.watched.kind
        found.append(Case(f"build {name}", f"task to {kind} JSON, plan known", build(task), row if row in rows else ""))
    for name, task in tasks():
        raw = running_object(name, task)
        row = f"CRPhase/{name}_from_json"
        what = f"{task.entry.watched.kind} JSON ({len(raw) / 1000:.1f} kB) to phase"
        found.append(Case(f"phase {name}", what, phase(task, raw), row if row in rows else ""))
        found.append(Case(f"metadata {name}", "what caches decode of it beforehand", _decode_metadata(raw)))
    return found


def _decode_metadata(raw: bytes) -> Callable[[], object]:
    return lambda: _PARTIAL.decode(raw)


def run(quick: bool) -> Report:  # noqa: FBT001 - the signature of all suites
    listed = cases()
    compiled = harness.measure_all(listed, quick=quick)
    pure = harness.measure_pure(__name__, quick=quick)
    go = harness.go_figures()
    columns = ["case", "what", "us", "spread us", "least us", "peak bytes", "pure us", "Go us", "Go/ours"]
    rows = [_row(case, compiled[case.name], pure[case.name], go["rows"]) for case in listed]
    return Report(
        "compute",
        [Table("compute", columns, rows)],
        targets(compiled, go["rows"]),
        [
            f"Go: {go['recorded']}. That is another machine than this one.",
            "A Go phase decodes the whole object, metadata too; here caches do that once, whoever asks later.",
        ],
    )


def _row(case: Case, compiled: Measurement, pure: Measurement, go: Mapping[str, Any]) -> dict[str, Any]:
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
        "Go us": reference,
        "Go/ours": f"{reference * 1000 / compiled.low_ns:.1f}x" if reference else None,
    }


def targets(compiled: Mapping[str, Measurement], go: Mapping[str, Any]) -> list[Target]:
    found = []
    for case in cases():
        row = case.compare or STAND_INS.get(case.name)
        if row is None:
            continue
        factor = BUILD_FACTOR if case.name.startswith("build ") else PHASE_FACTOR
        reference = go[row]["us_median"]
        why = f"{factor:g}x Go's {reference} us{'' if case.compare else f' of {row}'}"
        found.append(
            harness.at_most(case.name, reference / factor, compiled[case.name], why, _NOTES.get(case.name, ""))
        )
    return found
