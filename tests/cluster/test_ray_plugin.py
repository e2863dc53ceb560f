"""Tasks of the Ray plugin, run by the real KubeRay operator; dashboards are stood in for (``ray_dashboard``)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2
from google.protobuf import duration_pb2

from propfan.pluginmachinery.cluster_jobs import jobs_of
from propfan.pluginmachinery.entries import LoadedClusterPlugin, load
from propfan.pluginmachinery.phases import LinkType, Phase
from propfan.pluginmachinery.testing import setup_context, task_template
from propfan.plugins.ray import entry
from propfan.plugins.ray.build import RAY_JOB
from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.plugin_runs import K8S, PluginRun
from tests.cluster.replicas import Replica, Tasks, until, verdict_of
from tests.peers.sdk_templates.recorded import Recorded, recorded

LINKS = {
    "logs": {"templates": [{"displayName": "Head", "templateUris": ["https://logs/{{.podName}}"]}]},
    "dashboardURLTemplate": {"displayName": "Ray", "templateUris": ["https://ray/{{.rayClusterName}}"]},
}


def ray_run(
    ray: ControlPlane, namespace: str, template: tasks_pb2.TaskTemplate, name: str = "r1-a0-0", **section: Any
) -> PluginRun:
    loaded = load(entry, setup_context(k8s=K8S, sections={"ray": {**LINKS, **section}}))
    assert isinstance(loaded, LoadedClusterPlugin)
    return PluginRun(ray, namespace, template, jobs_of(loaded).plugin, RAY_JOB, name)


def small(**more: Any) -> tasks_pb2.TaskTemplate:
    group = {"groupName": "w", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}
    cluster = {"headGroupSpec": {}, "workerGroupSpec": [group]}
    return task_template("ray", image="ray:1", args=["true"], custom={"rayCluster": cluster, **more})


@pytest.mark.parametrize("mode", ["K8sJobMode", "HTTPMode"])
@pytest.mark.parametrize("task", recorded("ray"), ids=lambda task: task.name)
def test_task_of_an_sdk_succeeds(ray: ControlPlane, namespace: str, task: Recorded, mode: str) -> None:
    run = ray_run(ray, namespace, task.message, submissionMode=mode)
    run.create(outcome="succeeded", run_for="40s")
    run.until(Phase.SUCCESS)
    assert Phase.INITIALIZING in run.phases
    head = [name for name, pod in run.pods().items() if pod["metadata"]["labels"].get("ray.io/node-type") == "head"]
    logs = {log.uri for verdict in run.verdicts for log in (verdict.info.logs if verdict.info else ())}
    assert not head or f"https://logs/{head[0]}" in logs, "links lead to the head by its real name"


def test_dashboard_is_told_once_the_job_runs_and_its_head_is_ready(ray: ControlPlane, namespace: str) -> None:
    run = ray_run(ray, namespace, small(), submissionMode="HTTPMode")
    run.create(outcome="running")
    run.until(Phase.RUNNING)
    ray.api.await_object(run.path, lambda item: "Ray dashboard is ready" in run.look(item).reason, timeout_s=120)
    verdict = run.verdicts[-1]
    assert verdict.info is not None
    [dashboard] = [log for log in verdict.info.logs if log.link_type is LinkType.DASHBOARD]
    assert dashboard.ready
    assert verdict.info.log_context is not None
    assert "-head-" in verdict.info.log_context.primary_pod_name


def test_failed_job_fails_the_task_with_the_words_of_ray(ray: ControlPlane, namespace: str) -> None:
    run = ray_run(ray, namespace, small(), submissionMode="HTTPMode")
    run.create(outcome="failed", run_for="40s", message="as it was")
    verdict = run.until(Phase.PERMANENT_FAILURE)
    assert verdict.error is not None
    assert "[AppFailed]" in verdict.error.message
    assert "as it was" in verdict.error.message


def test_head_that_can_not_be_pulled_fails_the_task_though_never_the_job(ray: ControlPlane, namespace: str) -> None:
    run = ray_run(ray, namespace, small())
    run.create(outcome="image-pull-error")
    verdict = run.until(Phase.RETRYABLE_FAILURE, after=timedelta(hours=1))
    assert verdict.error is not None
    assert "ImagePull" in verdict.error.code


def test_job_that_the_operator_refuses_fails_with_its_words(ray: ControlPlane, namespace: str) -> None:
    run = ray_run(ray, namespace, small(), name="1-is-no-first-letter")
    run.create()
    verdict = run.until(Phase.PERMANENT_FAILURE)
    assert verdict.error is not None
    assert "DNS1035" in verdict.error.message


@pytest.mark.parametrize("section", [{"shutdownAfterJobFinishes": False}, {"submissionMode": "SidecarMode"}], ids=repr)
def test_every_setting_makes_a_job_that_the_operator_takes(ray: ControlPlane, namespace: str, section: Any) -> None:
    run = ray_run(ray, namespace, small(), **section)
    run.create(outcome="running")
    run.until(Phase.INITIALIZING)


# -- Shared clusters -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(ray: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    """An engine whose sweeps come every second, and the namespace that it works in."""
    folder = tmp_path_factory.mktemp("ray")
    namespace = ray.create_namespace("ray-shared")
    settings = {
        "namespaces": [namespace],
        "sharding": {"group": namespace},
        "cluster-sweep-s": 1.0,
        "plugins": {"ray": {"submissionMode": "HTTPMode"}, "k8s": {"default-annotations": {}}},
    }
    replica = Replica("ray", folder, ray.kubeconfig, settings)
    replica.start()
    try:
        replica.await_ready()
        yield Tasks(ray.api, namespace, f"file://{folder}/outputs")
    finally:
        replica.stop()
        ray.delete_namespace(namespace)


def shared(idle_ttl_s: int) -> bytes:
    template = small()
    ttl = duration_pb2.Duration(seconds=idle_ttl_s)
    template.reuse_policy.CopyFrom(tasks_pb2.ReusePolicy(min_replicas=1, max_replicas=1, concurrency=1, idle_ttl=ttl))
    return template.SerializeToString()


def objects(tasks: Tasks, plural: str) -> list[Object]:
    return list(tasks.api.list(f"/apis/ray.io/v1/namespaces/{tasks.namespace}/{plural}"))


def test_tasks_share_a_cluster_that_goes_once_it_is_idle(engine: Tasks) -> None:
    template = shared(5)
    for run in ("one", "two"):
        engine.submit(run, {"run_for": "300s", "outcome": "succeeded"}, type="ray", template=template)
    until(lambda: len(objects(engine, "rayclusters")) == 1, "there is a cluster")
    [cluster] = objects(engine, "rayclusters")
    assert "ownerReferences" not in cluster["metadata"]
    for run in ("one", "two"):
        status = engine.await_over(run)
        assert verdict_of(status) == "Completed", status
    jobs = objects(engine, "rayjobs")
    selected = {job["spec"]["clusterSelector"]["ray.io/cluster"] for job in jobs}
    assert selected == {cluster["metadata"]["name"]}
    assert {job["status"]["rayClusterName"] for job in jobs} == selected
    until(lambda: not objects(engine, "rayclusters"), "the idle cluster is deleted", timeout_s=60)


def test_a_cluster_stays_while_its_job_runs(engine: Tasks) -> None:
    engine.submit("long", {"run_for": "300s", "outcome": "running"}, type="ray", template=shared(1))
    until(lambda: len(objects(engine, "rayclusters")) == 1, "there is a cluster")
    [cluster] = objects(engine, "rayclusters")

    def runs() -> bool:
        found = [job for job in objects(engine, "rayjobs") if job["metadata"]["name"].startswith("long")]
        return bool(found) and found[0].get("status", {}).get("jobStatus") == "RUNNING"

    until(runs, "the job runs", timeout_s=120)
    before = cluster["metadata"]["annotations"]["propfan.org/last-used"]

    def was_kept() -> bool:
        [seen] = objects(engine, "rayclusters")
        assert seen["metadata"]["uid"] == cluster["metadata"]["uid"]
        return bool(seen["metadata"]["annotations"]["propfan.org/last-used"] > before)

    until(was_kept, "it is marked as used")
    [seen] = objects(engine, "rayclusters")
    assert "deletionTimestamp" not in seen["metadata"]
