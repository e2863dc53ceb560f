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


def of_annotations(part: pods.Annotations) -> dict[str, Any]:
    return {"default_container": part.default_container, "primary_container_name": part.primary_container_name}


def of_metadata(part: pods.Metadata) -> dict[str, Any]:
    return {
        "annotations": part.annotations,
        "creation_timestamp": part.creation_timestamp,
        "deletion_timestamp": part.deletion_timestamp,
        "name": part.name,
        "namespace": part.namespace,
        "uid": part.uid,
    }


def of_waiting(part: pods.Waiting) -> dict[str, Any]:
    return {"message": part.message, "reason": part.reason}


def of_running(part: pods.Running) -> dict[str, Any]:
    return {"started_at": part.started_at}


def of_terminated(part: pods.Terminated) -> dict[str, Any]:
    return {
        "exit_code": part.exit_code,
        "finished_at": part.finished_at,
        "message": part.message,
        "reason": part.reason,
        "started_at": part.started_at,
    }


def of_state(part: pods.State) -> dict[str, Any]:
    return {"running": part.running, "terminated": part.terminated, "waiting": part.waiting}


def of_container_status(part: pods.ContainerStatus) -> dict[str, Any]:
    return {
        "container_id": part.container_id,
        "last_state": part.last_state,
        "name": part.name,
        "ready": part.ready,
        "state": part.state,
    }


def of_condition(part: pods.Condition) -> dict[str, Any]:
    return {
        "last_transition_time": part.last_transition_time,
        "message": part.message,
        "reason": part.reason,
        "status": part.status,
        "type": part.type,
    }


def of_status(part: pods.Status) -> dict[str, Any]:
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
    pods.Annotations: of_annotations,
    pods.Metadata: of_metadata,
    pods.Waiting: of_waiting,
    pods.Running: of_running,
    pods.Terminated: of_terminated,
    pods.State: of_state,
    pods.ContainerStatus: of_container_status,
    pods.Condition: of_condition,
    pods.Status: of_status,
}
