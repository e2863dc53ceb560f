"""Who has to wait, and that it says why: quotas of the engine and of the cluster, scheduler, images, by a real API server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from propfan.pluginmachinery.testing.builders import task_template
from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import Replica, Tasks, until, verdict_of

CLI = (sys.executable, "-c", "from propfan.engine.cli import main; main()")


class Stage:
    """Replicas that share the tasks of one namespace, in which two of project ``p`` may run at once."""

    def __init__(self, cluster: ControlPlane, folder: Path, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        settings = {
            "namespaces": [namespace],
            "sharding": {"group": namespace, "namespace": namespace},
            "plugins": {"k8s": {"image-pull-backoff-grace-period": "10m"}},
            "quotas": {
                "projects": {"few": {"max-running": 2}},
                "queues": {"gpu": {"max-running": 1, "labels": {"kueue.x-k8s.io/queue-name": "gpus"}}},
            },
        }
        self.replicas = [Replica(name, folder, cluster.kubeconfig, settings) for name in ("one", "two")]
        self.tasks = Tasks(cluster.api, namespace, f"file://{folder}/outputs")

    def reason(self, run: str) -> str:
        conditions = self.tasks.get(run).get("status", {}).get("conditions", ())
        return next((str(each["message"]) for each in conditions if each["type"] == "Progressing"), "")

    def explain(self, run: str) -> str:
        """Of the command, in one line."""
        arguments = ("explain", run, "--kubeconfig", str(self.cluster.kubeconfig), "-n", self.namespace)
        told = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == 0, told.stderr
        return " ".join(told.stdout.split())

    def pod(self, run: str) -> Object:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{run}-a0-0"
        return self.tasks.api.await_object(path, lambda _: True)


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    namespace = control_plane.create_namespace("quotas")
    made = Stage(control_plane, tmp_path_factory.mktemp("quotas"), namespace)
    for replica in made.replicas:
        replica.start()
    try:
        for replica in made.replicas:
            replica.await_ready()
        until(lambda: sum(r.metric("propfan_shards_owned") for r in made.replicas) == 16, "all shards are owned")
        yield made
    finally:
        for replica in made.replicas:
            replica.stop()
        control_plane.delete_namespace(namespace)


def test_tasks_over_quota_wait_for_those_of_any_replica_and_all_come_to_their_turn(stage: Stage) -> None:
    tasks, few = stage.tasks, {"project": "few"}
    for run in ("few1", "few2"):
        tasks.submit(run, {"outcome": "running"}, spec=few)
        tasks.await_phase(run, "Running")
    waiting = [f"wait{number}" for number in range(6)]
    for run in waiting:
        tasks.submit(run, spec=few)
    for run in waiting:
        tasks.await_phase(run, "WaitingForResources")
    assert "project few: 2 of 2 in use, place " in stage.reason("wait0")
    assert "project few: 2 of 2 in use" in stage.explain("wait0")
    assert all(tasks.pods(run) == [] for run in waiting)
    for run in ("few1", "few2"):
        tasks.delete(run)
    assert set(tasks.await_all_over(waiting).values()) == {"Completed"}


def test_queue_of_a_task_is_told_to_who_schedules_its_pods(stage: Stage) -> None:
    stage.tasks.submit("queued", {"outcome": "running"})
    assert "kueue.x-k8s.io/queue-name" not in stage.pod("queued")["metadata"]["labels"]
    action = stage.tasks.get("queued")
    stage.tasks.api.create(
        {
            "apiVersion": "flyte.org/v1",
            "kind": "TaskAction",
            "metadata": {"name": "gpu1-a0", "labels": {"flyte.org/queue": "gpu"}},
            "spec": {**action["spec"], "runName": "gpu1"},
        },
        namespace=stage.namespace,
    )
    assert stage.pod("gpu1")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


def test_quota_of_the_namespace_makes_a_task_wait_until_there_is_room(stage: Stage) -> None:
    api, name = stage.tasks.api, "no-more-pods"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": {"pods": "0"}}}
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas/{name}"
    api.create(quota, namespace=stage.namespace)
    api.await_object(path, lambda seen: "pods" in seen.get("status", {}).get("hard", {}))
    stage.tasks.submit("bounded")
    stage.tasks.await_phase("bounded", "WaitingForResources")
    assert f"exceeded quota: {name}" in stage.reason("bounded")
    assert f"exceeded quota: {name}" in stage.explain("bounded")
    api.delete(path)
    status = stage.tasks.await_over("bounded")
    assert (verdict_of(status), status["attempts"], status.get("systemFailures", 0)) == ("Completed", 1, 0)


def test_scheduler_is_quoted(stage: Stage) -> None:
    template = task_template("container", image="busybox", args=["true"], requests={"cpu": "100000"})
    stage.tasks.submit("huge", template=template.SerializeToString())
    until(lambda: "Insufficient cpu" in stage.explain("huge"), "explain knows")
    told = stage.explain("huge")
    assert "waiting for the scheduler: Unschedulable: 0/2 nodes are available" in told
    assert "warning: FailedScheduling" in told
    until(lambda: "Insufficient cpu" in stage.reason("huge"), "the condition says so")


def test_kubelet_is_quoted(stage: Stage) -> None:
    stage.tasks.submit("no-image", {"outcome": "image-pull-error"})
    until(lambda: "ImagePull" in stage.explain("no-image"), "explain knows")
    until(lambda: "ImagePull" in stage.reason("no-image"), "the condition says so")


def test_task_that_nobody_drives_is_told_as_such(stage: Stage, control_plane: ControlPlane) -> None:
    other = control_plane.create_namespace("nobody")
    try:
        Tasks(control_plane.api, other, "file:///nowhere").submit("lonely")
        arguments = ("explain", f"{other}/lonely", "--kubeconfig", str(control_plane.kubeconfig))
        told = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert "an engine: none has looked at it yet" in " ".join(told.stdout.split())
    finally:
        control_plane.delete_namespace(other)


def test_unknown_task_is_refused(stage: Stage) -> None:
    arguments = ("explain", "nothing", "--kubeconfig", str(stage.cluster.kubeconfig), "-n", stage.namespace)
    told = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"Error: TASK: there is no TaskAction 'nothing' in namespace {stage.namespace}\n"
