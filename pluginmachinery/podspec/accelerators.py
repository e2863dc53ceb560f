"""Accelerators: what their resources are called, and which nodes have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan._speedups import quantities
from propfan.pluginmachinery import names
from propfan.pluginmachinery.config import AcceleratorDeviceClass, ApiObject, K8sConfig
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.podspec import scheduling

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import GPUAccelerator, SharedMemory

PARTITION_SLICES_LABEL: Final = "platform.union.ai/gpu-partition-slices"


_CLASS_NAMES: Final = {
    0: "NVIDIA_GPU",
    1: "GOOGLE_TPU",
    2: "AMAZON_NEURON",
    3: "AMD_GPU",
    4: "HABANA_GAUDI",
}
"""``core.GPUAccelerator.DeviceClass``."""


class DeviceClasses(msgspec.Struct, frozen=True):
    """The configured device classes, each completed by the global GPU settings.

    Attributes:
        globals: Also stands for a class that is not configured.
        resource_names: Every resource name that stands for an accelerator.
    """

    globals: AcceleratorDeviceClass
    by_name: Mapping[str, AcceleratorDeviceClass]
    resource_names: frozenset[str]
    devices: Mapping[str, str]

    @classmethod
    def of(cls, k8s: K8sConfig) -> DeviceClasses:
        shared = AcceleratorDeviceClass(
            k8s.gpu_resource_name,
            k8s.gpu_device_node_label,
            k8s.gpu_partition_size_node_label,
            k8s.gpu_unpartitioned_node_selector_requirement,
            k8s.gpu_unpartitioned_toleration,
        )
        fields = AcceleratorDeviceClass.__struct_fields__
        by_name = {
            name.upper(): AcceleratorDeviceClass(*(getattr(own, f) or getattr(shared, f) for f in fields))
            for name, own in k8s.accelerator_device_classes.items()
        }
        own_names = {own.resource_name for own in k8s.accelerator_device_classes.values() if own.resource_name}
        return cls(shared, by_name, frozenset(own_names | {k8s.gpu_resource_name}), k8s.accelerator_devices)

    def find(self, accelerator: GPUAccelerator | None) -> AcceleratorDeviceClass:
        """Settings of the accelerator's class; the global ones when there is none, or none is configured."""
        if accelerator is None:
            return self.globals
        return self.by_name.get(_CLASS_NAMES.get(accelerator.device_class, ""), self.globals)


def select_nodes(
    spec: dict[str, Any], accelerator: GPUAccelerator, device_class: AcceleratorDeviceClass, classes: DeviceClasses
) -> None:
    """Bind a pod that limits an accelerator to nodes that have the wanted device and partition."""
    if not any(
        (container.get("resources") or {}).get("limits", {}).keys() & classes.resource_names
        for container in spec.get("containers") or ()
    ):
        return
    if device := accelerator.device:
        device = classes.devices.get(device.upper(), device)
        _bind(spec, device_class.device_node_label, device)
    partition = accelerator.WhichOneof("partition_size_value")
    label = device_class.partition_size_node_label
    if partition == "partition_size":
        _bind(spec, label, accelerator.partition_size)
    elif partition == "unpartitioned" and accelerator.unpartitioned:
        absent: ApiObject = {"key": label, "operator": "DoesNotExist"}
        scheduling.require(spec, device_class.unpartitioned_node_selector_requirement or absent)
        if device_class.unpartitioned_toleration is not None:
            scheduling.tolerate(spec, device_class.unpartitioned_toleration)


def _bind(spec: dict[str, Any], label: str, value: str) -> None:
    scheduling.require(spec, {"key": label, "operator": "In", "values": [value]})
    toleration = {"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    scheduling.tolerate(spec, {field: text for field, text in toleration.items() if text})


def partition_labels(accelerator: GPUAccelerator) -> dict[str, str]:
    """How many compute slices a MIG partition has, as a label of the pod."""
    slices = names.mig_slices(accelerator.partition_size)
    return {PARTITION_SLICES_LABEL: slices} if slices else {}


def tolerate_extended_resources(spec: dict[str, Any], resources: Iterable[str]) -> None:
    """Tolerate the taints named like the extended resources that some container requests."""
    containers: Sequence[Mapping[str, Any]] = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    requested = {name for c in containers for name in (c.get("resources") or {}).get("requests", ())}
    for name in sorted(requested.intersection(resources)):
        toleration = {"key": name, "operator": "Exists", "effect": "NoSchedule"}
        scheduling.tolerate(spec, {field: text for field, text in toleration.items() if text})


def share_memory(spec: dict[str, Any], shared: SharedMemory, primary: str) -> None:
    """Mount a volume in memory into the primary container.

    Raises:
        BadTaskSpecificationError: name, path or size are missing, taken or malformed.
    """
    if not shared.mount_name:
        raise BadTaskSpecificationError("mount name is not set")
    if not shared.mount_path:
        raise BadTaskSpecificationError("mount path is not set")
    containers = list(spec.get("containers") or ())
    indexes = [index for index, container in enumerate(containers) if container["name"] == primary]
    if not indexes:
        raise BadTaskSpecificationError("Unable to find primary container")
    container = containers[indexes[-1]]
    volumes = list(spec.get("volumes") or ())
    if any(volume["name"] == shared.mount_name for volume in volumes):
        raise BadTaskSpecificationError(f"A volume is already named {shared.mount_name} in pod spec")
    mounts = list(container.get("volumeMounts") or ())
    for mount in mounts:
        if mount["name"] == shared.mount_name:
            raise BadTaskSpecificationError(f"A volume is already named {shared.mount_name} in container")
        if mount["mountPath"] == shared.mount_path:
            raise BadTaskSpecificationError(f"{shared.mount_path} is already mounted in container")
    try:
        size = quantities.canonical(shared.size_limit or "0")
    except quantities.QuantityError as error:
        raise BadTaskSpecificationError(f"Unable to parse size limit: {error}") from None
    spec["volumes"] = [*volumes, {"name": shared.mount_name, "emptyDir": {"medium": "Memory", "sizeLimit": size}}]
    mounts.append({"name": shared.mount_name, "mountPath": shared.mount_path})
    containers[indexes[-1]] = {**container, "volumeMounts": mounts}
    spec["containers"] = containers
