"""Tasks under ``propfan serve`` whose TaskAction is deleted leave nothing of what real operators made for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import pytest

from propfan.pluginmachinery.testing import task_template
from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import Replica, Tasks, until

_RAY_CLUSTER: Final = {
    "headGroupSpec": {},
    "workerGroupSpec": [{"groupName": "w", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}],
}


class Family(msgspec.Struct, frozen=True):
    """Tasks of one type: the operator's fixture, ``custom``, and the collections that something of them is in."""

    operator: str
    custom: Mapping[str, Any]
    collections: Sequence[str]


FAMILIES: Final[Mapping[str, Family]] = {
    "pytorch": Family("kubeflow", {"workerReplicas": {"replicas": 1}}, ["kubeflow.org/v1 pytorchjobs"]),
    "clustered-task": Family(
        "jobset", {"replicas": 2, "nprocPerNode": 1}, ["jobset.x-k8s.io/v1alpha2 jobsets", "batch/v1 jobs"]
    ),
    "dask": Family(
        "dask",
        {"workers": {"numberOfWorkers": 1}},
        ["kubernetes.dask.org/v1 daskjobs", "kubernetes.dask.org/v1 daskclusters"],
    ),
    "ray": Family("ray", {"rayCluster": _RAY_CLUSTER}, ["ray.io/v1 rayjobs", "ray.io/v1 rayclusters", "batch/v1 jobs"]),
    "spark": Family(
        "spark", {"mainApplicationFile": "local:///job.py"}, ["sparkoperator.k8s.io/v1beta2 sparkapplications"]
    ),
}


@pytest.fixture(scope="module")
def tasks(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    folder = tmp_path_factory.mktemp("aborts")
    namespace = control_plane.create_namespace("aborts")
    settings = {
        "namespaces": [namespace],
        "sharding": {"group": namespace},
        "plugins": {"k8s": {"default-annotations": {}}},
    }
    replica = Replica("aborts", folder, control_plane.kubeconfig, settings)
    replica.start()
    try:
        replica.await_ready()
        yield Tasks(control_plane.api, namespace, f"file://{folder}/outputs")
    finally:
        replica.stop()
        control_plane.delete_namespace(namespace)


def left_over(tasks: Tasks, family: Family) -> Sequence[str]:
    roots = [
        f"/apis/{version}/namespaces/{tasks.namespace}/{plural}"
        for version, plural in map(str.split, family.collections)
    ]
    roots.append(f"/api/v1/namespaces/{tasks.namespace}/pods")
    return [f"{root}/{item['metadata']['name']}" for root in roots for item in tasks.api.list(root)]


@pytest.mark.parametrize("when", ["made", "running", "over"])
@pytest.mark.parametrize("task_type", FAMILIES)
def test_a_deleted_task_leaves_nothing(request: pytest.FixtureRequest, tasks: Tasks, task_type: str, when: str) -> None:
    family = FAMILIES[task_type]
    request.getfixturevalue(family.operator)
    template = task_template(task_type, image="busybox", args=["true"], custom=family.custom, task_type_version=1)
    if task_type == "clustered-task":
        template.task_type_version = 0
    run = f"{when}-{task_type}"
    wishes = {"outcome": "succeeded" if when == "over" else "running", "run_for": "30s"}
    tasks.submit(run, wishes, type=task_type, template=template.SerializeToString())
    until(lambda: left_over(tasks, family), "there is an object")
    if when == "running":
        tasks.api.await_object(tasks.path(run), lambda item: _phases(item)[-1:] == ["Executing"], timeout_s=180)
    elif when == "over":
        tasks.await_over(run)
    tasks.delete(run)
    tasks.api.await_gone(tasks.path(run), timeout_s=60)
    until(lambda: not left_over(tasks, family), "nothing is left", timeout_s=120)


def _phases(item: Mapping[str, Any]) -> Sequence[str]:
    return [entry["phase"] for entry in item.get("status", {}).get("phaseHistory") or ()]
