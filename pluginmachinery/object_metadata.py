"""The metadata that every object of a task gets, whatever its plugin built."""

from __future__ import annotations

from typing import Final

from propfan.pluginmachinery import names
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import TaskExecutionMetadata
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, Properties

OBJECT_FINALIZER: Final = "flyte/flytek8s"
"""Set on objects when ``inject-finalizer`` is on, as the Go executor does."""


def object_name(task: TaskExecutionMetadata, properties: Properties) -> str:
    """The same name for the same attempt, always; a DNS-1123 subdomain.

    Raises:
        DecodeError: ``generated_name_max_length`` is too small even for a hash.
    """
    name = task.task_execution_id.generated_name
    limit = properties.generated_name_max_length
    if limit is not None:
        try:
            name = names.fixed_length_unique_id(name, limit)
        except ValueError as error:
            raise DecodeError(f"generated name '{name}'", str(error)) from error
    return names.dns1123_subdomain(name)


def stamp(own: ObjectMeta, task: TaskExecutionMetadata, config: K8sConfig, properties: Properties) -> ObjectMeta:
    """The object's own labels and annotations between the configured ones and the execution's, and its place.

    Args:
        own: What the plugin wrote; its name and owners are replaced.
    """
    is_owned = not (properties.disable_inject_owner_references or config.disable_inject_owner_references)
    finalizers = tuple(own.finalizers)
    if config.inject_finalizer and not properties.disable_inject_finalizer and OBJECT_FINALIZER not in finalizers:
        finalizers = (*finalizers, OBJECT_FINALIZER)
    return ObjectMeta(
        name=object_name(task, properties),
        namespace=task.namespace,
        labels={**config.default_labels, **own.labels, **task.labels},
        annotations={**config.default_annotations, **own.annotations, **task.annotations},
        owner_references=(task.owner_reference,) if is_owned else own.owner_references,
        finalizers=finalizers,
    )
