"""Turns a case's input into what propfan's own code is given: contexts, paths, metadata, readers."""

from __future__ import annotations

import base64
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from flyteidl2.core import execution_pb2, literals_pb2, tasks_pb2
from google.protobuf.message import Message

from propfan.pluginmachinery.contexts import (
    ExecutionErrorDocument,
    ExecutionId,
    IOPaths,
    NamespacedName,
    NodeExecutionId,
    OwnerReference,
    ResourceConstraints,
    ResourceRequirements,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskExecutionMetadata,
    TaskId,
    TaskOverrides,
)
from propfan.pluginmachinery.errors import ObjectNotFoundError, PermanentError, StorageError, TaskError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase, PluginState

T = TypeVar("T")

DEFAULTS: Final = Path(__file__).parent / "data" / "defaults.json"


@cache
def defaults() -> dict[str, Any]:
    """``defaults.json``; callers do not change it."""
    loaded: dict[str, Any] = msgspec.json.decode(DEFAULTS.read_bytes())
    return loaded


def section(case_input: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One configuration section: each key that the case lists replaces the whole default of that key."""
    return {**defaults()["config"].get(name, {}), **(case_input.get("config") or {}).get(name, {})}


def binary(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def instant(text: str | None) -> datetime | None:
    """An RFC 3339 time; ``None`` stays ``None``."""
    return None if text is None else msgspec.convert(text, datetime).astimezone(UTC)


def time_text(when: datetime | None) -> str | None:
    """RFC 3339 in UTC as Go prints it: with as many digits of a second's fraction as needed."""
    if when is None:
        return None
    text = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{text}.{when.microsecond:06d}".rstrip("0") + "Z" if when.microsecond else f"{text}Z"


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as none does on the readers and stores of this module."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine waited for something")


def error_output(error: Exception) -> dict[str, Any]:
    """An error in the vectors' form."""
    if isinstance(error, TaskError):
        return {"code": error.code, "message": error.message}
    return {"code": "", "message": str(error)}


def task_execution_id(value: Mapping[str, Any]) -> TaskExecutionId:
    return TaskExecutionId(value["generated_name"], value["unique_node_id"], _identifier(value.get("id") or {}))


def _identifier(value: Mapping[str, Any]) -> TaskExecutionIdentifier:
    task, node = value.get("task_id"), value.get("node_execution_id")
    execution = None if node is None else node.get("execution_id")
    return TaskExecutionIdentifier(
        task_id=None if task is None else TaskId(**task),
        node_execution_id=None
        if node is None
        else NodeExecutionId(node.get("node_id", ""), None if execution is None else ExecutionId(**execution)),
        retry_attempt=value.get("retry_attempt", 0),
    )


def _requirements(value: Mapping[str, Any] | None) -> ResourceRequirements | None:
    if value is None:
        return None
    return ResourceRequirements(requests=value.get("requests") or {}, limits=value.get("limits") or {})


def _overrides(value: Mapping[str, Any] | None) -> TaskOverrides | None:
    if value is None:
        return None
    return TaskOverrides(
        resources=_requirements(value["resources"]),
        extended_resources=binary(value["extended_resources"]),
        container_image=value["container_image"] or "",
        pod_template=binary(value["pod_template"]),
        config=value["config"],
    )


def metadata(case_input: Mapping[str, Any]) -> TaskExecutionMetadata:
    value = case_input["metadata"]
    return TaskExecutionMetadata(
        owner_id=NamespacedName(value["owner_id"]["namespace"], value["owner_id"]["name"]),
        task_execution_id=task_execution_id(value["task_execution_id"]),
        namespace=value["namespace"],
        owner_reference=msgspec.convert(value["owner_reference"], OwnerReference),
        overrides=_overrides(value["overrides"]),
        labels=value["labels"] or {},
        annotations=value["annotations"] or {},
        max_attempts=value["max_attempts"],
        k8s_service_account=value["k8s_service_account"],
        security_context=binary(value["security_context"]),
        interruptible=value["interruptible"],
        interruptible_failure_threshold=value["interruptible_failure_threshold"],
        platform_resources=_requirements(value["platform_resources"]),
        environment_variables=value["environment_variables"] or {},
        console_url=value["console_url"],
    )


def paths(case_input: Mapping[str, Any]) -> IOPaths:
    return IOPaths(**case_input["paths"])


class Inputs:
    """An ``InputReader`` with fixed literals, or one that fails."""

    def __init__(self, case_input: Mapping[str, Any]) -> None:
        self._literals = binary(case_input.get("inputs"))
        self._error = case_input.get("inputs_error")
        self._path = (case_input.get("paths") or {}).get("input", "")

    async def read(self) -> literals_pb2.LiteralMap | None:
        if self._error is not None:
            raise FailedReadError(self._path, self._error)
        return None if self._literals is None else literals_pb2.LiteralMap.FromString(self._literals)


class FailedReadError(StorageError):
    """A read that fails with exactly the text that a case asks for."""

    def __str__(self) -> str:
        return self.problem


class Outputs:
    """An ``OutputReader`` over the error document of a case. No outputs exist."""

    def __init__(self, case_input: Mapping[str, Any]) -> None:
        self._document = binary(case_input.get("task_error_document"))
        self._path = (case_input.get("paths") or {}).get("output", "")

    async def read_error(self) -> ExecutionErrorDocument | None:
        if self._document is None:
            return None
        error = execution_pb2.ErrorDocument.FromString(self._document).error
        kind = execution_pb2.ExecutionError.ErrorKind.Name(error.origin)
        return ExecutionErrorDocument(
            ExecutionError(error.code, error.message, ErrorKind(kind)),
            error.kind == execution_pb2.ContainerError.Kind.RECOVERABLE,
        )

    async def exists(self) -> bool:
        return False

    async def read(self) -> bytes:
        raise ObjectNotFoundError(self._path)


class RecordingOutputWriter:
    """An ``OutputWriter`` that remembers what it was given."""

    def __init__(self) -> None:
        self.outputs: list[Message] = []
        self.errors: list[ExecutionErrorDocument] = []

    async def put(self, outputs: Message) -> None:
        self.outputs.append(outputs)

    async def put_error(self, document: ExecutionErrorDocument) -> None:
        self.errors.append(document)


class MemoryStore:
    """A ``DataStore`` in a dict; holds the error document of a case."""

    def __init__(self, case_input: Mapping[str, Any]) -> None:
        document = binary(case_input.get("task_error_document"))
        self.objects: dict[str, bytes] = {} if document is None else {case_input["paths"]["error"]: document}

    async def get(self, path: str, *, limit_bytes: int | None = None) -> bytes:
        if path not in self.objects:
            raise ObjectNotFoundError(path)
        return self.objects[path]

    async def put(self, path: str, content: bytes) -> None:
        self.objects[path] = content

    async def size(self, path: str) -> int | None:
        return len(self.objects[path]) if path in self.objects else None


class NoSecrets:
    async def get(self, key: str, group: str = "", group_version: str = "") -> str:
        raise PermanentError("", f"no secret {group}/{key}")


class NoResources:
    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> Any:
        raise NotImplementedError

    async def release(self, namespace: str, token: str) -> None:
        raise NotImplementedError


class PodTemplates:
    """A ``PodTemplateStore`` over the templates of a case, which fall back to the engine's namespace."""

    def __init__(self, case_input: Mapping[str, Any]) -> None:
        self._templates = {
            (t["metadata"].get("namespace", ""), t["metadata"]["name"]): t
            for t in case_input.get("pod_templates") or ()
        }

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        own = self._templates.get((namespace, name))
        return own if own is not None else self._templates.get((defaults()["default_pod_template_namespace"], name))


class Pods:
    """A ``KubernetesReader`` over the pods of a case, in their order."""

    def __init__(self, case_input: Mapping[str, Any]) -> None:
        self._namespace = case_input["metadata"]["namespace"]
        self._pods = case_input.get("pods") or ()

    async def get_pod(self, name: str) -> bytes | None:
        for pod in self._pods:
            if pod["metadata"].get("name") == name and pod["metadata"].get("namespace", "") == self._namespace:
                return msgspec.json.encode(pod)
        return None

    async def list_pods(self) -> Sequence[bytes]:
        return [msgspec.json.encode(pod) for pod in self._pods]


class Context:
    """A ``PluginContext`` made of one case."""

    def __init__(self, case_input: Mapping[str, Any]) -> None:
        self.template_bytes = base64.b64decode(case_input["task_template"])
        self.template = tasks_pb2.TaskTemplate.FromString(self.template_bytes)
        self.metadata = metadata(case_input)
        self.paths = paths(case_input)
        self.inputs = Inputs(case_input)
        self.outputs = Outputs(case_input)
        self.output_writer = RecordingOutputWriter()
        self.data_store = MemoryStore(case_input)
        self.secrets = NoSecrets()
        self.resources = NoResources()
        self.now = msgspec.convert(case_input["now"], datetime).astimezone(UTC)
        self.plugin_state = plugin_state(case_input.get("plugin_state"))
        self.kubernetes = Pods(case_input)


def plugin_state(value: Mapping[str, Any] | None) -> PluginState:
    if value is None:
        return PluginState()
    return PluginState(Phase.from_wire_name(value["phase"]), value["phase_version"], value["reason"])


def observed(kind: Kind, resource: Mapping[str, Any]) -> ObservedObject:
    """An object as the cluster would hand it to a plugin."""
    return ObservedObject(
        kind, msgspec.convert(resource.get("metadata") or {}, ObjectMeta), msgspec.json.encode(resource)
    )
