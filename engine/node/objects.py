"""The Node object and its Lease, as they are written. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan.engine.cluster import Kind, ObservedObject
from propfan.engine.daemon.leases import LEASE, held_by
from propfan.engine.node.config import RUNTIME, RUNTIME_LABEL, TAINT_KEY, NodeConfig
from propfan.engine.processes.scheduler import CPU, Requests
from propfan.pluginmachinery.errors import DecodeError

NODE: Final = Kind("", "v1", "Node", "nodes", namespaced=False)
LEASE_NAMESPACE: Final = "kube-node-lease"
"""Where the node lifecycle controller looks for the Leases of nodes."""

CORDONED_ANNOTATION: Final = "propfan.dev/cordoned"
"""On a node that was made unschedulable by its own drain, which its next start undoes; people's cordons stay."""

Document = Mapping[str, Any]

_TAINT: Final[Document] = {"key": TAINT_KEY, "effect": "NoSchedule"}
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Names that Go, and so Kubernetes, has for what ``uname`` says."""


class _Taint(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    key: str
    effect: str
    value: str = ""
    time_added: str | None = None


class _Spec(msgspec.Struct, frozen=True):
    taints: Sequence[_Taint] | None = None


class _Node(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


class _LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: datetime | None = None


class _Lease(msgspec.Struct, frozen=True):
    spec: _LeaseSpec = _LeaseSpec()


class Machine(msgspec.Struct, frozen=True):
    """What is told of this machine.

    Attributes:
        host: Its name.
        architecture: As ``uname -m`` says.
        kernel: Its release.
        machine_id: From ``/etc/machine-id``; may be empty.
        version: Of this program.
    """

    host: str
    architecture: str
    kernel: str
    boot_id: str
    machine_id: str
    version: str


def labels(config: NodeConfig, machine: Machine) -> Mapping[str, str]:
    return {
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _MACHINES.get(machine.architecture, machine.architecture),
        RUNTIME_LABEL: RUNTIME,
        **config.labels,
    }


def new_node(config: NodeConfig, machine: Machine) -> bytes:
    taints = [_TAINT] if config.is_tainted else []
    metadata = {"name": config.name, "labels": labels(config, machine)}
    return msgspec.json.encode(
        {"apiVersion": NODE.api_version, "kind": NODE.kind, "metadata": metadata, "spec": {"taints": taints}}
    )


def is_ours(node: ObservedObject) -> bool:
    """Whether a process runtime has registered it, and no kubelet."""
    return node.metadata.labels.get(RUNTIME_LABEL) == RUNTIME


def correction(config: NodeConfig, machine: Machine, node: ObservedObject) -> Document:
    """The patch that makes a Node of an earlier start what it shall be; empty when it is.

    Raises:
        DecodeError: it can not be read.
    """
    try:
        present = msgspec.json.decode(node.raw, type=_Node).spec.taints or ()
    except msgspec.DecodeError as error:
        raise DecodeError(str(node), str(error)) from error
    metadata: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    wanted = labels(config, machine)
    if new := {name: value for name, value in wanted.items() if node.metadata.labels.get(name) != value}:
        metadata["labels"] = new
    is_tainted = any(taint.key == TAINT_KEY for taint in present)
    if is_tainted != config.is_tainted:
        others = [taint for taint in present if taint.key != TAINT_KEY]
        spec["taints"] = [*others, *([_TAINT] if config.is_tainted else [])]
    if CORDONED_ANNOTATION in node.metadata.annotations:
        metadata["annotations"] = {CORDONED_ANNOTATION: None}
        spec["unschedulable"] = None
    return {name: members for name, members in (("metadata", metadata), ("spec", spec)) if members}


def cordon() -> Document:
    return {"metadata": {"annotations": {CORDONED_ANNOTATION: "true"}}, "spec": {"unschedulable": True}}


def status(config: NodeConfig, machine: Machine, capacity: Requests, condition: Document) -> Document:
    """The whole status; the condition from ``ready_condition``."""
    resources = {name: quantity(name, nanos) for name, nanos in capacity.items()}
    return {
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [condition],
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": config.name},
            ],
            "nodeInfo": {
                "architecture": _MACHINES.get(machine.architecture, machine.architecture),
                "bootID": machine.boot_id,
                "containerRuntimeVersion": f"propfan://{machine.version}",
                "kernelVersion": machine.kernel,
                "kubeProxyVersion": "",
                "kubeletVersion": f"propfan-{machine.version}",
                "machineID": machine.machine_id,
                "operatingSystem": "linux",
                "osImage": f"processes of {machine.host}",
                "systemUUID": machine.machine_id,
            },
        }
    }


def ready_condition(*, is_ready: bool, since: datetime, now: datetime) -> Document:
    reason, message = (
        ("ProcessRuntimeReady", "pods run as processes") if is_ready else ("Stopped", "propfan node ended")
    )
    return {
        "type": "Ready",
        "status": "True" if is_ready else "False",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now.replace(microsecond=0),
        "lastTransitionTime": since.replace(microsecond=0),
    }


def quantity(resource: str, nanos: int) -> str:
    """Nanos as Kubernetes writes them: thousandths of CPUs where need be, and whole numbers of all else."""
    whole, rest = divmod(nanos, 10**9)
    return f"{nanos // 10**6}m" if resource == CPU and rest else str(whole)


# -- The Lease -------------------------------------------------------------------------------------


def new_lease(config: NodeConfig, holder: str, node_uid: str, now: datetime) -> bytes:
    """It goes when its Node does."""
    owner = {"apiVersion": NODE.api_version, "kind": NODE.kind, "name": config.name, "uid": node_uid}
    return msgspec.json.encode(
        {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": config.name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
            "spec": held_by(holder, config.lease_s, now),
        }
    )


def holder_of(lease: ObservedObject, now: datetime) -> str:
    """Who holds it and has renewed it in time; empty when nobody does, or when it can not be read."""
    try:
        spec = msgspec.json.decode(lease.raw, type=_Lease).spec
    except msgspec.DecodeError:
        return ""
    if spec.renew_time is None or not spec.holder_identity:
        return ""
    age_s = (now - spec.renew_time).total_seconds()
    return spec.holder_identity if age_s < (spec.lease_duration_seconds or 0) else ""
