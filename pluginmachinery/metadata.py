"""Who runs an attempt, where and with what, as it follows from its ``TaskAction`` and template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from flyteidl2.core import identifier_pb2, tasks_pb2

from propfan.pluginmachinery import secrets
from propfan.pluginmachinery.contexts import (
    ExecutionId,
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
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.names import sanitize_label_value
from propfan.pluginmachinery.podspec import resources
from propfan.pluginmachinery.taskaction import MANAGED_LABEL, TaskAction

API_VERSION: Final = "flyte.org/v1"
KIND: Final = "TaskAction"

LABEL_ORGANIZATION: Final = "flyte"
"""Flyte 2 has no organisations; this stands where one would."""

ENVIRONMENT_ORGANIZATION: Final = "local"
"""The same for the Flyte SDK, whose entry point wants one that is not empty."""

_RESOURCE_TYPES: Final = {number: name for name, number in identifier_pb2.ResourceType.items()}


def generated_name(action_name: str, attempt: int) -> str:
    """What the attempt's objects are called. ``action_name`` is that of the TaskAction; attempts count from 1."""
    return f"{action_name}-{attempt - 1}"


def task_metadata(
    action: TaskAction,
    template: tasks_pb2.TaskTemplate | None,
    *,
    attempt: int,
    default_service_account: str = "",
    facts: TemplateFacts | None = None,
) -> TaskExecutionMetadata:
    """What the executor knows of one attempt.

    Args:
        template: Of the task; ``None`` when the action has none.
        attempt: From 1.
        default_service_account: For tasks that name none themselves.
        facts: Those of the template, where they are known; they are most of the work.

    Raises:
        PermanentError: a secret of the template can not be asked for; without a code.
    """
    meta, spec = action.metadata, action.spec
    name = generated_name(meta.name, attempt)
    facts = facts or facts_of(template)
    return TaskExecutionMetadata(
        owner_id=NamespacedName(meta.namespace, meta.name),
        task_execution_id=TaskExecutionId(
            name,
            name,
            TaskExecutionIdentifier(
                facts.task_id,
                NodeExecutionId(spec.action_name, ExecutionId(spec.project, spec.domain, spec.run_name)),
                attempt - 1,
            ),
        ),
        namespace=meta.namespace,
        owner_reference=OwnerReference(API_VERSION, KIND, meta.name, meta.uid, controller=True),
        overrides=TaskOverrides(resources=facts.resources),
        labels=_labels(action, facts, attempt),
        annotations={**meta.annotations, **facts.secret_annotations},
        max_attempts=facts.max_attempts,
        k8s_service_account=facts.service_account or default_service_account,
        security_context=facts.security_context,
        interruptible=bool(spec.interruptible),
        platform_resources=_NOTHING,
        environment_variables={
            **spec.env_vars,
            "ACTION_NAME": spec.action_name,
            "RUN_NAME": spec.run_name,
            "_U_RUN_BASE": spec.run_output_base,
            "_U_ORG_NAME": ENVIRONMENT_ORGANIZATION,
        },
    )


class TemplateFacts(msgspec.Struct, frozen=True):
    """What all tasks of one template have in common."""

    task_id: TaskId | None = None
    task_name_label: str = ""
    max_attempts: int = 1
    resources: ResourceRequirements | None = None
    secret_annotations: Mapping[str, str] = {}
    service_account: str = ""
    security_context: bytes = b""


_NOTHING: Final = ResourceRequirements()
_NO_FACTS: Final = TemplateFacts()


def facts_of(template: tasks_pb2.TaskTemplate | None) -> TemplateFacts:
    """Raises as ``task_metadata``."""
    if template is None:
        return _NO_FACTS
    security = template.security_context
    return TemplateFacts(
        task_id=_task_id(template.id) if template.HasField("id") else None,
        task_name_label=sanitize_label_value(template.id.name),
        max_attempts=template.metadata.retries.retries + 1,
        resources=_resources(template.container) if template.HasField("container") else None,
        secret_annotations=secrets.to_annotations(security.secrets),
        service_account=security.run_as.k8s_service_account,
        security_context=security.SerializeToString(),
    )


def _task_id(identifier: identifier_pb2.Identifier) -> TaskId:
    return TaskId(
        identifier.project,
        identifier.domain,
        identifier.name,
        identifier.version,
        identifier.org,
        _RESOURCE_TYPES.get(identifier.resource_type, "UNSPECIFIED"),
    )


def _resources(container: tasks_pb2.Container) -> ResourceRequirements | None:
    """``None`` when a quantity is malformed: the conversion, which reads the template too, says what is wrong."""
    try:
        found = resources.of_template(container.resources)
    except PermanentError:
        return None
    return ResourceRequirements(
        {name: resources.printed(quantity) for name, quantity in found.requests.items()},
        {name: resources.printed(quantity) for name, quantity in found.limits.items()},
    )


def _labels(action: TaskAction, facts: TemplateFacts, attempt: int) -> dict[str, str]:
    spec = action.spec
    labels = {
        **action.metadata.labels,
        "organization": LABEL_ORGANIZATION,
        "project": spec.project,
        "domain": spec.domain,
        MANAGED_LABEL: "true",
        "attempt": str(attempt),
    }
    if facts.secret_annotations:
        labels[secrets.INJECT_LABEL] = "true"
    if run := sanitize_label_value(spec.run_name):
        labels["run"] = run
    if action_name := sanitize_label_value(spec.action_name):
        labels["action"] = action_name
    if facts.task_name_label:
        labels["task-name"] = facts.task_name_label
    return labels
