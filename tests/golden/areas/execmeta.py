"""What the engine knows of an attempt from its TaskAction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flyteidl2.core import security_pb2, tasks_pb2
from google.protobuf.json_format import MessageToDict

from propfan._speedups import quantities
from propfan.pluginmachinery.contexts import ResourceRequirements, TaskExecutionIdentifier
from propfan.pluginmachinery.metadata import task_metadata
from propfan.pluginmachinery.names import fixed_length_unique_id
from propfan.pluginmachinery.taskaction import TaskAction

_NAME_LENGTHS = (27, 41, 47, 50, 63)


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    action = msgspec.json.decode(msgspec.json.encode(case["task_action"]), type=TaskAction)
    serialised = action.spec.task_template
    template = tasks_pb2.TaskTemplate.FromString(serialised) if serialised else None
    metadata = task_metadata(action, template, attempt=max(action.status.attempts, 1))
    name = metadata.task_execution_id.generated_name
    security = security_pb2.SecurityContext.FromString(metadata.security_context or b"")
    resources = metadata.overrides.resources if metadata.overrides else None
    return {
        "annotations": dict(metadata.annotations),
        "console_url": metadata.console_url,
        "environment_variables": dict(metadata.environment_variables),
        "generated_name": name,
        "generated_name_with_max_length": {str(n): fixed_length_unique_id(name, n) for n in _NAME_LENGTHS},
        "id": _identifier(metadata.task_execution_id.id),
        "interruptible": metadata.interruptible,
        "interruptible_failure_threshold": metadata.interruptible_failure_threshold,
        "k8s_service_account": metadata.k8s_service_account,
        "labels": dict(metadata.labels),
        "max_attempts": metadata.max_attempts,
        "namespace": metadata.namespace,
        "overrides_resources": _requirements(resources),
        "owner_id": msgspec.to_builtins(metadata.owner_id),
        "owner_reference": msgspec.to_builtins(metadata.owner_reference),
        "platform_resources": _requirements(metadata.platform_resources),
        "security_context": MessageToDict(security, preserving_proto_field_name=True),
        "unique_node_id": metadata.task_execution_id.unique_node_id,
    }


def _requirements(resources: ResourceRequirements | None) -> dict[str, Any] | None:
    """Quantities as they are printed in the end."""
    if resources is None:
        return None
    parts = {"requests": resources.requests, "limits": resources.limits}
    return {part: {k: quantities.canonical(v) for k, v in found.items()} for part, found in parts.items() if found}


def _identifier(identifier: TaskExecutionIdentifier) -> dict[str, Any]:
    """As JSON of the protobuf message: unset messages and default values are left out."""
    task, node = identifier.task_id, identifier.node_execution_id
    found: dict[str, Any] = {}
    if task is not None:
        found["task_id"] = {k: v for k, v in msgspec.structs.asdict(task).items() if v not in ("", "UNSPECIFIED")}
    if node is not None and node.execution_id is not None:
        execution = {k: v for k, v in msgspec.structs.asdict(node.execution_id).items() if v}
        found["node_execution_id"] = {"node_id": node.node_id, "execution_id": execution}
    if identifier.retry_attempt:
        found["retry_attempt"] = identifier.retry_attempt
    return found
