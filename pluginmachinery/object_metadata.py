"""The metadata that an object is created with and looked up by."""

from __future__ import annotations

from typing import Final

import msgspec

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, Properties
from propfan.pluginmachinery.names import dns1123_subdomain, fixed_length_unique_id

FINALIZER: Final = "flyte/flytek8s"
"""Keeps an object until the engine has seen how it ended; the name that Flyte gives it."""


def object_name(metadata: TaskExecutionMetadata, properties: Properties) -> str:
    """What the attempt's object is called.

    Raises:
        NameTooLongError: not even a hash fits into ``generated_name_max_length``.
    """
    name = metadata.task_execution_id.generated_name
    if properties.generated_name_max_length is not None:
        name = fixed_length_unique_id(name, properties.generated_name_max_length)
    return dns1123_subdomain(name)


def stamp(built: ObjectMeta, metadata: TaskExecutionMetadata, k8s: K8sConfig, properties: Properties) -> ObjectMeta:
    """The built object's metadata, completed for creation.

    Labels and annotations: configured defaults, then the object's own, then the execution's; the last wins.

    Raises:
        NameTooLongError: as `object_name`.
    """
    owners = built.owner_references
    if not (k8s.disable_inject_owner_references or properties.disable_inject_owner_references):
        owners = (metadata.owner_reference,)
    finalizers = tuple(built.finalizers)
    if k8s.inject_finalizer and not properties.disable_inject_finalizer and FINALIZER not in finalizers:
        finalizers = (*finalizers, FINALIZER)
    return msgspec.structs.replace(
        built,
        name=object_name(metadata, properties),
        namespace=metadata.namespace,
        labels={**k8s.default_labels, **built.labels, **metadata.labels},
        annotations={**k8s.default_annotations, **built.annotations, **metadata.annotations},
        owner_references=owners,
        finalizers=finalizers,
    )
