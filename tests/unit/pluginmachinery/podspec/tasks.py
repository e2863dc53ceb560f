"""Small tasks for tests of the conversion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyteidl2.core import tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.contexts import (
    ExecutionId,
    IOPaths,
    NamespacedName,
    NodeExecutionId,
    OwnerReference,
    ResourceRequirements,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskExecutionMetadata,
    TaskId,
    TaskOverrides,
)

PATHS = IOPaths(
    input_prefix="s3://b/in",
    output_prefix="s3://b/out",
    raw_output_prefix="s3://b/raw",
    input="s3://b/in/inputs.pb",
    output="s3://b/out/outputs.pb",
    error="s3://b/out/error.pb",
    deck="s3://b/out/deck.html",
    checkpoint_prefix="s3://b/raw/_flytecheckpoints",
    task_template="s3://b/in/task.pb",
)


def container_template(**members: Any) -> tasks_pb2.TaskTemplate:
    """A ``python`` task; ``members`` are those of the template, in JSON."""
    template = {
        "type": "python",
        "container": {"image": "img", "args": ["a0", "--inputs", "{{.input}}"]},
        **members,
    }
    return json_format.ParseDict(template, tasks_pb2.TaskTemplate())


def pod_template(spec: Mapping[str, Any], primary: str = "main", **members: Any) -> tasks_pb2.TaskTemplate:
    """A ``python`` task that brings its own pod spec."""
    template = {
        "type": "python",
        "k8sPod": {"podSpec": spec, **members.pop("k8s_pod", {})},
        "config": {"primary_container_name": primary},
        **members,
    }
    return json_format.ParseDict(template, tasks_pb2.TaskTemplate())


def metadata(name: str = "run-a0-0", **members: Any) -> TaskExecutionMetadata:
    defaults: dict[str, Any] = {
        "owner_id": NamespacedName("ns", name),
        "task_execution_id": TaskExecutionId(
            name,
            name,
            TaskExecutionIdentifier(TaskId("p", "d", "t", "v"), NodeExecutionId("a0", ExecutionId("p", "d", "run")), 0),
        ),
        "namespace": "ns",
        "owner_reference": OwnerReference(api_version="flyte.org/v1", kind="TaskAction", name=name, uid="u"),
        "overrides": TaskOverrides(resources=ResourceRequirements()),
    }
    return TaskExecutionMetadata(**{**defaults, **members})


class Templates:
    """A ``PodTemplateStore`` in a dict; the namespace ``flyte`` is the engine's."""

    def __init__(self, **specs: Mapping[str, Any]) -> None:
        self.objects: dict[tuple[str, str], Mapping[str, Any]] = {
            ("flyte", name): {"metadata": {"name": name}, "template": {"spec": spec}} for name, spec in specs.items()
        }

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        own = self.objects.get((namespace, name))
        return own if own is not None else self.objects.get(("flyte", name))
