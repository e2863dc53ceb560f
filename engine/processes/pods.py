"""The part of a Pod that the process runtime reads (``core/v1`` of Kubernetes 1.34)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from propfan.engine.processes.statuses import PodStatus
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, ObservedObject

DEFAULT_GRACE_PERIOD_S: Final = 30
"""``terminationGracePeriodSeconds`` where a pod says none."""


class ObjectFieldSelector(msgspec.Struct, frozen=True, rename="camel"):
    field_path: str


class ResourceFieldSelector(msgspec.Struct, frozen=True, rename="camel"):
    resource: str
    container_name: str = ""
    divisor: str = "0"


class KeySelector(msgspec.Struct, frozen=True):
    """Of a Secret or a ConfigMap."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class EnvVarSource(msgspec.Struct, frozen=True, rename="camel"):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    secret_key_ref: KeySelector | None = None
    config_map_key_ref: KeySelector | None = None


class EnvVar(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


class EnvFromSource(msgspec.Struct, frozen=True, rename="camel"):
    prefix: str = ""
    secret_ref: KeySelector | None = None
    config_map_ref: KeySelector | None = None


class Resources(msgspec.Struct, frozen=True):
    """Names to quantities. ``effective_requests`` has the limit where a request is missing, as the API server."""

    requests: Mapping[str, str | int | float] | None = None
    limits: Mapping[str, str | int | float] | None = None

    @property
    def effective_requests(self) -> Mapping[str, str]:
        return {name: str(value) for name, value in {**(self.limits or {}), **(self.requests or {})}.items()}

    @property
    def effective_limits(self) -> Mapping[str, str]:
        return {name: str(value) for name, value in (self.limits or {}).items()}


class VolumeMount(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    mount_path: str
    sub_path: str = ""
    sub_path_expr: str = ""


class Volume(msgspec.Struct, frozen=True, rename="camel"):
    """Only whether it is an emptyDir matters; other sources are not provided."""

    name: str
    empty_dir: Mapping[str, Any] | None = None


class Container(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    image: str = ""
    command: Sequence[str] | None = None
    args: Sequence[str] | None = None
    working_dir: str = ""
    env: Sequence[EnvVar] | None = None
    env_from: Sequence[EnvFromSource] | None = None
    resources: Resources = Resources()
    volume_mounts: Sequence[VolumeMount] | None = None
    restart_policy: str = ""
    termination_message_policy: str = "File"
    liveness_probe: Mapping[str, Any] | None = None
    readiness_probe: Mapping[str, Any] | None = None
    startup_probe: Mapping[str, Any] | None = None
    lifecycle: Mapping[str, Any] | None = None

    @property
    def is_sidecar(self) -> bool:
        """Of an init container: it runs beside the others and does not hold them up."""
        return self.restart_policy == "Always"


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: Sequence[Container]
    init_containers: Sequence[Container] | None = None
    node_name: str = ""
    restart_policy: str = "Always"
    service_account_name: str = ""
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    overhead: Mapping[str, str | int | float] | None = None
    scheduling_gates: Sequence[Mapping[str, Any]] | None = None
    volumes: Sequence[Volume] | None = None

    @property
    def grace_period_s(self) -> int:
        seconds = self.termination_grace_period_seconds
        return DEFAULT_GRACE_PERIOD_S if seconds is None else seconds


class _Body(msgspec.Struct, frozen=True):
    spec: PodSpec
    status: PodStatus = PodStatus()


class Pod(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    spec: PodSpec
    status: PodStatus

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def is_deleted(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def init_containers(self) -> Sequence[Container]:
        return self.spec.init_containers or ()

    @property
    def all_containers(self) -> Sequence[Container]:
        return (*self.init_containers, *self.spec.containers)

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"


_decoder = msgspec.json.Decoder(_Body)


def decode(observed: ObservedObject) -> Pod:
    """Raises ``DecodeError`` when it is no pod, or one whose names can not be names of files."""
    try:
        body = _decoder.decode(observed.raw)
    except msgspec.DecodeError as error:
        raise DecodeError(str(observed), str(error)) from error
    pod = Pod(observed.metadata, body.spec, body.status)
    names = [pod.metadata.namespace, pod.metadata.name, pod.uid, *(c.name for c in pod.all_containers)]
    names += [volume.name for volume in body.spec.volumes or ()]
    for name in names:
        if not name or "/" in name or "\0" in name or name in (".", "..") or len(name) > 253:
            raise DecodeError(str(observed), f"{name!r} is no name of a pod, container or volume")
    containers = [c.name for c in pod.all_containers]
    if not pod.spec.containers or len(set(containers)) != len(containers):
        raise DecodeError(str(observed), f"spec.containers: none, or two of one name: {', '.join(containers)}")
    return pod
