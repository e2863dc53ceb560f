"""Templates, literals and objects for tests, from the few values that a test cares about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from flyteidl2.core import identifier_pb2, interface_pb2, literals_pb2, tasks_pb2, types_pb2
from google.protobuf.json_format import ParseDict

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
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""The time of the first round, unless a test says otherwise."""

_RESOURCES: Final = {
    "cpu": tasks_pb2.Resources.CPU,
    "gpu": tasks_pb2.Resources.GPU,
    "memory": tasks_pb2.Resources.MEMORY,
    "ephemeral-storage": tasks_pb2.Resources.EPHEMERAL_STORAGE,
}


def task_template(
    task_type: str,
    *,
    image: str = "",
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    requests: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    custom: Mapping[str, Any] | None = None,
    k8s_pod: Mapping[str, Any] | None = None,
    config: Mapping[str, str] | None = None,
    inputs: Mapping[str, types_pb2.SimpleType] | None = None,
    outputs: Mapping[str, types_pb2.SimpleType] | None = None,
    task_type_version: int = 0,
    name: str = "sample",
) -> tasks_pb2.TaskTemplate:
    """A task as an SDK would register it.

    Args:
        task_type: What the registry resolves.
        image: With it the template has a container, which the five arguments after it describe.
        command: Entry point of the container.
        args: Arguments of the container; may hold placeholders such as ``{{.input}}``.
        env: Environment of the container.
        requests: Of ``cpu``, ``gpu``, ``memory`` and ``ephemeral-storage``, as Kubernetes quantities.
        limits: Likewise.
        custom: The plugin's own message as JSON.
        k8s_pod: ``core.K8sPod`` as JSON, in place of a container.
        config: String settings of the task.
        inputs: Name to type of each declared input, e.g. ``types_pb2.DURATION``.
        outputs: Likewise.
        task_type_version: Version of the plugin's own message.
        name: Of the task.
    """
    template = tasks_pb2.TaskTemplate(
        id=identifier_pb2.Identifier(
            resource_type=identifier_pb2.TASK, project="project", domain="domain", name=name, version="v1"
        ),
        type=task_type,
        task_type_version=task_type_version,
        config=dict(config or {}),
        interface=interface_pb2.TypedInterface(inputs=_variables(inputs), outputs=_variables(outputs)),
    )
    if custom is not None:
        template.custom.update(dict(custom))
    if k8s_pod is not None:
        ParseDict(dict(k8s_pod), template.k8s_pod)
    elif image:
        template.container.CopyFrom(
            tasks_pb2.Container(
                image=image,
                command=command,
                args=args,
                env=[literals_pb2.KeyValuePair(key=key, value=value) for key, value in (env or {}).items()],
                resources=tasks_pb2.Resources(requests=_entries(requests), limits=_entries(limits)),
            )
        )
    return template


def _variables(types: Mapping[str, types_pb2.SimpleType] | None) -> interface_pb2.VariableMap:
    return interface_pb2.VariableMap(
        variables=[
            interface_pb2.VariableEntry(
                key=name, value=interface_pb2.Variable(type=types_pb2.LiteralType(simple=simple))
            )
            for name, simple in (types or {}).items()
        ]
    )


def _entries(quantities: Mapping[str, str] | None) -> list[tasks_pb2.Resources.ResourceEntry]:
    return [
        tasks_pb2.Resources.ResourceEntry(name=_RESOURCES[name], value=value)
        for name, value in (quantities or {}).items()
    ]


def literal_map(**values: bool | float | str | timedelta | datetime) -> literals_pb2.LiteralMap:
    """The inputs of a task, each of the type that its value has."""
    return literals_pb2.LiteralMap(literals={name: _literal(value) for name, value in values.items()})


def _literal(value: bool | float | str | timedelta | datetime) -> literals_pb2.Literal:  # noqa: FBT001 - a value
    primitive = literals_pb2.Primitive()
    match value:
        case bool():
            primitive.boolean = value
        case int():
            primitive.integer = value
        case float():
            primitive.float_value = value
        case str():
            primitive.string_value = value
        case timedelta():
            primitive.duration.FromTimedelta(value)
        case datetime():
            primitive.datetime.FromDatetime(value)
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))


def task_metadata(
    template: tasks_pb2.TaskTemplate, *, generated_name: str = "r1-a0-0", namespace: str = "project-domain"
) -> TaskExecutionMetadata:
    """The first attempt of action ``a0`` of run ``r1``, with what the engine derives from the template."""
    resources = template.container.resources
    overrides = TaskOverrides(
        resources=ResourceRequirements(_quantities(resources.requests), _quantities(resources.limits))
    )
    return TaskExecutionMetadata(
        owner_id=NamespacedName(namespace, "r1-a0"),
        task_execution_id=TaskExecutionId(
            generated_name=generated_name,
            unique_node_id=generated_name,
            id=TaskExecutionIdentifier(
                TaskId("project", "domain", template.id.name, "v1", resource_type="TASK"),
                NodeExecutionId("a0", ExecutionId("project", "domain", "r1")),
            ),
        ),
        namespace=namespace,
        owner_reference=OwnerReference("flyte.org/v1", "TaskAction", "r1-a0", "uid-of-r1-a0", controller=True),
        overrides=overrides if template.HasField("container") else None,
        labels={"project": "project", "domain": "domain", "run": "r1", "action": "a0"},
        environment_variables={"RUN_NAME": "r1", "ACTION_NAME": "a0"},
    )


def _quantities(entries: Sequence[tasks_pb2.Resources.ResourceEntry]) -> dict[str, str]:
    names = {number: name for name, number in _RESOURCES.items()}
    return {names[entry.name]: entry.value for entry in entries if entry.name in names}


def io_paths(root: str = "memory:///r1/a0/1") -> IOPaths:
    """All paths of an attempt below ``root``."""
    return IOPaths(
        input_prefix=f"{root}/in",
        output_prefix=root,
        raw_output_prefix=f"{root}/raw",
        input=f"{root}/in/inputs.pb",
        output=f"{root}/outputs.pb",
        error=f"{root}/error.pb",
        deck=f"{root}/deck.html",
        checkpoint_prefix=f"{root}/raw/_flytecheckpoints",
        task_template=f"{root}/task.pb",
    )


def observed(
    kind: Kind, members: Mapping[str, Any], *, name: str = "r1-a0-0", created_at: datetime = NOW
) -> ObservedObject:
    """An object as the cluster holds it: ``members`` with the type and metadata that it would have."""
    given = members.get("metadata") or {}
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "project-domain",
        "uid": f"uid-of-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": created_at,
        **given,
    }
    whole = {**members, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    return ObservedObject(kind, msgspec.convert(metadata, ObjectMeta), msgspec.json.encode(whole))
