"""Tasks, statuses and pods of JobSets for tests."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.testing import task_template
from propfan.pluginmachinery.testing.builders import NOW

MINUTE_AGO: Final = NOW - timedelta(minutes=1)


def text(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def task(**custom: Any) -> tasks_pb2.TaskTemplate:
    return task_template(
        "clustered-task", image="train:1", args=["clustered", "--inputs", "{{.input}}"], env={"A": "b"}, custom=custom
    )


TASK: Final = task(replicas=2, nprocPerNode=4, failurePolicy={"maxRestarts": 3})


def condition(kind: str, *, is_true: bool = True, at: datetime = MINUTE_AGO, **texts: str) -> dict[str, Any]:
    told = {"reason": kind, "message": "", **texts}
    return {"type": kind, "status": str(is_true), "lastTransitionTime": text(at), **told}


def status(*conditions: dict[str, Any], restarts: int = 0, **workers: int) -> dict[str, Any]:
    counts = {"ready": 0, "succeeded": 0, "failed": 0, "active": 0, "suspended": 0, **workers}
    return {
        "conditions": list(conditions),
        "restarts": restarts,
        "replicatedJobsStatus": [{"name": "workers", **counts}],
    }


def pod(name: str, phase: str = "Running", *, created_at: datetime = MINUTE_AGO, **of_status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "project-domain", "creationTimestamp": text(created_at)},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"phase": phase, **of_status},
    }


def unpullable(name: str, since_s: float) -> dict[str, Any]:
    """A pod whose image can not be pulled."""
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "ContainersNotReady",
        "message": "m",
        "lastTransitionTime": text(NOW - timedelta(seconds=since_s)),
    }
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    containers = [{"name": "main", "state": waiting, "ready": False}]
    return pod(name, "Pending", conditions=[ready], containerStatuses=containers)
