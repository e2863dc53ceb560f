"""Tasks, statuses and pods of Kubeflow jobs for tests."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.testing import task_template
from propfan.pluginmachinery.testing.builders import NOW

TEN_SECONDS_AGO: Final = NOW - timedelta(seconds=10)


def text(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def task(task_type: str, custom: dict[str, Any], *, version: int = 1) -> tasks_pb2.TaskTemplate:
    return task_template(
        task_type,
        image="train:1",
        args=["train", "{{.input}}"],
        env={"A": "b"},
        requests={"cpu": "1"},
        custom=custom,
        task_type_version=version,
    )


PYTORCH: Final = task("pytorch", {"workerReplicas": {"replicas": 2}, "masterReplicas": {"replicas": 1}})
ELASTIC: Final = task("pytorch", {"workerReplicas": {"replicas": 2}, "elasticConfig": {"rdzvBackend": "c10d"}})
TENSORFLOW: Final = task(
    "tensorflow",
    {"workerReplicas": {"replicas": 2}, "psReplicas": {"replicas": 1}, "chiefReplicas": {"replicas": 1}},
)
MPI: Final = task("mpi", {"workerReplicas": {"replicas": 2}, "launcherReplicas": {"replicas": 1}, "slots": 2})


def condition(kind: str, *, status: str = "True", at: datetime = TEN_SECONDS_AGO, **texts: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "lastTransitionTime": text(at), "lastUpdateTime": text(at), **texts}


def status(*conditions: dict[str, Any], has_begun: bool = True) -> dict[str, Any]:
    return {"conditions": list(conditions)} | ({"startTime": text(TEN_SECONDS_AGO)} if has_begun else {})


def pod(name: str, phase: str = "Running", *, container: str = "pytorch", **of_status: Any) -> dict[str, Any]:
    state = {"running": {"startedAt": text(TEN_SECONDS_AGO)}} if phase == "Running" else {}
    containers = [{"name": container, "state": state, "ready": True, "restartCount": 0, "image": "i", "imageID": ""}]
    return {
        "metadata": {
            "name": name,
            "namespace": "project-domain",
            "annotations": {"kubectl.kubernetes.io/default-container": container},
        },
        "spec": {"containers": [{"name": container}]},
        "status": {"phase": phase, "containerStatuses": containers, **of_status},
    }


def unpullable(name: str, container: str, since_s: float) -> dict[str, Any]:
    """A pod whose image can not be pulled."""
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    return pod(
        name,
        "Pending",
        container=container,
        conditions=[
            {
                "type": "Ready",
                "status": "False",
                "reason": "ContainersNotReady",
                "message": "m",
                "lastTransitionTime": text(NOW - timedelta(seconds=since_s)),
            }
        ],
        containerStatuses=[{"name": container, "state": {"waiting": waiting}, "ready": False}],
    )
