"""Whether the parts of a pod lie in memory where compiled modules look for their fields.

``pod_layout.pxd`` says where that is. Cython refuses a part of another size when a module is imported; this refuses
one of the same size whose fields come in another order. In plain Python a field is always where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from propfan._speedups import pods


def check() -> None:
    """Look for each field of each part.

    Raises:
        ImportError: one lies elsewhere; names the part.
    """
    for part, read in _READ.items():
        names = part.__struct_fields__
        if read(part(*names)) != {name: name for name in names}:
            raise ImportError(
                f"{part.__module__}.{part.__name__}: its fields lie elsewhere in memory than where the compiled modules "
                f"of propfan._speedups look for them: build propfan again with the msgspec {msgspec.__version__} and the "
                "Python that are installed, or set PROPFAN_PURE=1"
            )


def annotations(part: pods.Annotations) -> dict[str, Any]:
    return {"default_container": part.default_container, "primary_container_name": part.primary_container_name}


def metadata(part: pods.Metadata) -> dict[str, Any]:
    return {
        "annotations": part.annotations,
        "creation_timestamp": part.creation_timestamp,
        "deletion_timestamp": part.deletion_timestamp,
        "name": part.name,
        "namespace": part.namespace,
        "uid": part.uid,
    }


def waiting(part: pods.Waiting) -> dict[str, Any]:
    return {"message": part.message, "reason": part.reason}


def running(part: pods.Running) -> dict[str, Any]:
    return {"started_at": part.started_at}


def terminated(part: pods.Terminated) -> dict[str, Any]:
    return {
        "exit_code": part.exit_code,
        "finished_at": part.finished_at,
        "message": part.message,
        "reason": part.reason,
        "started_at": part.started_at,
    }


def state(part: pods.State) -> dict[str, Any]:
    return {"running": part.running, "terminated": part.terminated, "waiting": part.waiting}


def container_status(part: pods.ContainerStatus) -> dict[str, Any]:
    return {
        "container_id": part.container_id,
        "last_state": part.last_state,
        "name": part.name,
        "ready": part.ready,
        "state": part.state,
    }


def condition(part: pods.Condition) -> dict[str, Any]:
    return {
        "last_transition_time": part.last_transition_time,
        "message": part.message,
        "reason": part.reason,
        "status": part.status,
        "type": part.type,
    }


def status(part: pods.Status) -> dict[str, Any]:
    return {
        "conditions": part.conditions,
        "container_statuses": part.container_statuses,
        "ephemeral_container_statuses": part.ephemeral_container_statuses,
        "init_container_statuses": part.init_container_statuses,
        "message": part.message,
        "phase": part.phase,
        "reason": part.reason,
        "start_time": part.start_time,
    }


_READ: Final[Mapping[type[msgspec.Struct], Callable[[Any], dict[str, Any]]]] = {
    pods.Annotations: annotations,
    pods.Metadata: metadata,
    pods.Waiting: waiting,
    pods.Running: running,
    pods.Terminated: terminated,
    pods.State: state,
    pods.ContainerStatus: container_status,
    pods.Condition: condition,
    pods.Status: status,
}
