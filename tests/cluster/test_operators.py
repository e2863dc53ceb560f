"""The operators beside the cluster do what they do anywhere: a job is accepted, its pods come, it ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.api import ApiError, Object, is_condition_true
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import asked, pod_template

TOLERATION = {"key": "reserved", "operator": "Exists"}


def kubeflow_job(kind: str, field: str, /, *, replicas: dict[str, tuple[int, Object]], **spec: Any) -> Object:
    specs = {
        role: {"replicas": number, "restartPolicy": "Never", "template": template}
        for role, (number, template) in replicas.items()
    }
    return {"apiVersion": "kubeflow.org/v1", "kind": kind, "metadata": {"name": "job"}, "spec": {field: specs, **spec}}


def pytorch_job(**wishes: str) -> Object:
    template = pod_template("pytorch", **wishes)
    return kubeflow_job(
        "PyTorchJob", "pytorchReplicaSpecs", replicas={"Master": (1, template), "Worker": (2, template)}
    )


def pod_phases(cluster: ControlPlane, namespace: str) -> dict[str, str]:
    pods = cluster.api.list(f"/api/v1/namespaces/{namespace}/pods")
    return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods}


def test_a_pytorch_job_succeeds(kubeflow: ControlPlane, namespace: str) -> None:
    kubeflow.api.create(pytorch_job(), namespace=namespace)
    path = f"/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs/job"
    kubeflow.api.await_object(path, lambda job: is_condition_true(job, "Succeeded"))
    assert set(pod_phases(kubeflow, namespace)) == {"job-master-0", "job-worker-0", "job-worker-1"}


def test_a_pytorch_job_whose_pods_fail_fails(kubeflow: ControlPlane, namespace: str) -> None:
    kubeflow.api.create(pytorch_job(outcome="failed"), namespace=namespace)
    path = f"/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs/job"
    kubeflow.api.await_object(path, lambda job: is_condition_true(job, "Failed"))


def test_a_tensorflow_job_succeeds(kubeflow: ControlPlane, namespace: str) -> None:
    ends, serves = pod_template("tensorflow"), pod_template("tensorflow", outcome="running")
    replicas = {"Chief": (1, ends), "PS": (1, serves), "Worker": (2, ends)}
    kubeflow.api.create(kubeflow_job("TFJob", "tfReplicaSpecs", replicas=replicas), namespace=namespace)
    path = f"/apis/kubeflow.org/v1/namespaces/{namespace}/tfjobs/job"
    kubeflow.api.await_object(path, lambda job: is_condition_true(job, "Succeeded"))
    assert set(pod_phases(kubeflow, namespace)) == {"job-chief-0", "job-ps-0", "job-worker-0", "job-worker-1"}


def test_an_mpi_job_succeeds_when_its_launcher_does(kubeflow: ControlPlane, namespace: str) -> None:
    replicas = {"Launcher": (1, pod_template("mpi")), "Worker": (2, pod_template("mpi", outcome="running"))}
    kubeflow.api.create(
        kubeflow_job("MPIJob", "mpiReplicaSpecs", replicas=replicas, slotsPerWorker=2), namespace=namespace
    )
    path = f"/apis/kubeflow.org/v1/namespaces/{namespace}/mpijobs/job"
    kubeflow.api.await_object(path, lambda job: is_condition_true(job, "Succeeded"))
    phases = {"job-launcher": "Succeeded", "job-worker-0": "Running", "job-worker-1": "Running"}
    assert pod_phases(kubeflow, namespace) == phases


def test_kubeflow_refuses_a_job_without_its_container(kubeflow: ControlPlane, namespace: str) -> None:
    job = kubeflow_job("PyTorchJob", "pytorchReplicaSpecs", replicas={"Master": (1, pod_template("another"))})
    with pytest.raises(ApiError, match="at least one container with name pytorch") as refused:
        kubeflow.api.create(job, namespace=namespace)
    assert refused.value.status == 403


def job_set(**wishes: str) -> Object:
    job = {
        "parallelism": 2,
        "completions": 2,
        "backoffLimit": 0,
        "template": pod_template(restart_policy="Never", **wishes),
    }
    workers = {"name": "workers", "replicas": 1, "template": {"spec": job}}
    spec = {"failurePolicy": {"maxRestarts": 1}, "replicatedJobs": [workers]}
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "set"}, "spec": spec}


def test_a_job_set_gets_its_defaults_and_completes(jobset: ControlPlane, namespace: str) -> None:
    created = jobset.api.create(job_set(), namespace=namespace)
    assert created["spec"]["replicatedJobs"][0]["template"]["spec"]["completionMode"] == "Indexed"
    path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets/set"
    jobset.api.await_object(path, lambda item: is_condition_true(item, "Completed"))
    assert {name.rpartition("-")[0] for name in pod_phases(jobset, namespace)} == {"set-workers-0-0", "set-workers-0-1"}


def test_a_job_set_restarts_before_it_fails(jobset: ControlPlane, namespace: str) -> None:
    jobset.api.create(job_set(outcome="failed"), namespace=namespace)
    path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets/set"
    failed = jobset.api.await_object(path, lambda item: is_condition_true(item, "Failed"))
    assert failed["status"]["restarts"] == 1


def ray_job(**wishes: str) -> Object:
    workers = {
        "groupName": "workers",
        "replicas": 2,
        "minReplicas": 2,
        "maxReplicas": 2,
        "rayStartParams": {},
        "template": pod_template("ray-worker"),
    }
    head = {"rayStartParams": {}, "template": pod_template("ray-head")}
    ray_cluster = {"rayVersion": "2.46.0", "headGroupSpec": head, "workerGroupSpecs": [workers]}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "job", "annotations": asked(**wishes)},
        "spec": {"entrypoint": "python job.py", "shutdownAfterJobFinishes": True, "rayClusterSpec": ray_cluster},
    }


@pytest.mark.parametrize(
    ("outcome", "job_status", "deployment_status"),
    [("succeeded", "SUCCEEDED", "Complete"), ("failed", "FAILED", "Failed")],
)
def test_a_ray_job_brings_its_cluster_up_ends_and_takes_it_down(
    ray: ControlPlane, namespace: str, outcome: str, job_status: str, deployment_status: str
) -> None:
    ray.api.create(ray_job(outcome=outcome, message="as it was"), namespace=namespace)
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs/job"
    ended = ray.api.await_object(
        path, lambda job: job.get("status", {}).get("jobDeploymentStatus") == deployment_status, timeout_s=120
    )
    assert (ended["status"]["jobStatus"], ended["status"]["message"]) == (job_status, "as it was")
    assert ended["status"]["rayClusterStatus"]["readyWorkerReplicas"] == 2
    ray.api.await_objects(f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters", lambda found: not found)


def spark_application(**wishes: str) -> Object:
    resources = {"cores": 1, "memory": "512m"}
    driver = {"serviceAccount": "default", "annotations": asked(**wishes), "tolerations": [TOLERATION]}
    spec = {
        "type": "Python",
        "mode": "cluster",
        "sparkVersion": "4.0.4",
        "image": "spark",
        "mainApplicationFile": "local:///job.py",
        "restartPolicy": {"type": "Never"},
        "driver": resources | driver,
        "executor": resources | {"instances": 2},
    }
    metadata = {"name": "app"}
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": metadata,
        "spec": spec,
    }


@pytest.mark.parametrize(("outcome", "state"), [("succeeded", "COMPLETED"), ("failed", "FAILED")])
def test_a_spark_application_ends_as_its_driver_does(
    spark: ControlPlane, namespace: str, outcome: str, state: str
) -> None:
    spark.api.create(spark_application(outcome=outcome), namespace=namespace)
    path = f"/apis/sparkoperator.k8s.io/v1beta2/namespaces/{namespace}/sparkapplications/app"
    ended = spark.api.await_object(
        path, lambda app: app.get("status", {}).get("applicationState", {}).get("state") == state, timeout_s=180
    )
    assert ended["status"]["driverInfo"]["podName"] == "app-driver"
    driver = spark.api.get(f"/api/v1/namespaces/{namespace}/pods/app-driver")
    assert TOLERATION in driver["spec"]["tolerations"], "the webhook did not see the pod"


def dask_job(**wishes: str) -> Object:
    port = {"name": "tcp-comm", "port": 8786, "targetPort": "tcp-comm"}
    selector = {"dask.org/cluster-name": "job", "dask.org/component": "scheduler"}
    service = {"type": "ClusterIP", "selector": selector, "ports": [port]}
    scheduler = {"spec": pod_template("scheduler")["spec"], "service": service}
    workers = {"replicas": 2, "spec": pod_template("worker")["spec"]}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskJob",
        "metadata": {"name": "job", "annotations": asked(**wishes)},
        "spec": {
            "job": {"spec": pod_template("runner", restart_policy="Never")["spec"]},
            "cluster": {"spec": {"worker": workers, "scheduler": scheduler}},
        },
    }


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", "Successful"), ("failed", "Failed")])
def test_a_dask_job_ends_as_its_runner_does(dask: ControlPlane, namespace: str, outcome: str, status: str) -> None:
    dask.api.create(dask_job(outcome=outcome, run_for="3s"), namespace=namespace)
    path = f"/apis/kubernetes.dask.org/v1/namespaces/{namespace}/daskjobs/job"
    dask.api.await_object(path, lambda job: job.get("status", {}).get("jobStatus") == "Running")
    assert len(dask.api.list(f"/apis/kubernetes.dask.org/v1/namespaces/{namespace}/daskclusters")) == 1
    ended = dask.api.await_object(path, lambda job: job.get("status", {}).get("jobStatus") == status)
    assert ended["status"]["jobRunnerPodName"] == "job-runner"
