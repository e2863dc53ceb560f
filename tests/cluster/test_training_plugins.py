"""Tasks of the Kubeflow and clustered plugins, run by the real operators: what they accept, name and tell."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import entries
from propfan.pluginmachinery.entries import KubernetesPluginEntry, LoadedKubernetesPlugin
from propfan.pluginmachinery.phases import ErrorKind, Phase
from propfan.pluginmachinery.testing import setup_context, task_template
from propfan.plugins.clustered import entry as clustered
from propfan.plugins.kubeflow import mpi_entry, pytorch_entry, tensorflow_entry
from tests.cluster.control_plane import ControlPlane
from tests.cluster.plugin_runs import PluginRun
from tests.peers.sdk_templates.recorded import Recorded, recorded

LATER: Final = timedelta(hours=1)


def task(task_type: str, custom: Mapping[str, Any], *, version: int = 1) -> tasks_pb2.TaskTemplate:
    return task_template(
        task_type, image="busybox", args=["train"], requests={"cpu": "1"}, custom=custom, task_type_version=version
    )


PYTORCH: Final = task("pytorch", {"workerReplicas": {"replicas": 2}, "masterReplicas": {"replicas": 1}})
ELASTIC: Final = task(
    "pytorch",
    {
        "workerReplicas": {"replicas": 2},
        "elasticConfig": {"rdzvBackend": "c10d", "minReplicas": 1, "maxReplicas": 2, "nprocPerNode": 4},
        "runPolicy": {"cleanPodPolicy": "CLEANPOD_POLICY_ALL", "backoffLimit": 1},
    },
)
OLD_PYTORCH: Final = task("pytorch", {"workers": 1}, version=0)
TENSORFLOW: Final = task(
    "tensorflow",
    {
        "chiefReplicas": {"replicas": 1},
        "workerReplicas": {"replicas": 2},
        "psReplicas": {"replicas": 1},
        "evaluatorReplicas": {"replicas": 1},
    },
)
OLD_TENSORFLOW: Final = task("tensorflow", {"workers": 1}, version=0)
MPI: Final = task("mpi", {"workerReplicas": {"replicas": 2}, "launcherReplicas": {"replicas": 1}, "slots": 2})
OLD_MPI: Final = task("mpi", {"numWorkers": 1, "slots": 1}, version=0)
CLUSTERED: Final = task("clustered-task", {"replicas": 2, "nprocPerNode": 4, "failurePolicy": {"maxRestarts": 1}})


class Run(PluginRun):
    def __init__(
        self, cluster: ControlPlane, namespace: str, entry: KubernetesPluginEntry, template: tasks_pb2.TaskTemplate
    ) -> None:
        loaded = entries.load(entry, setup_context())
        assert isinstance(loaded, LoadedKubernetesPlugin)
        super().__init__(cluster, namespace, template, loaded.plugin, entry.watched)

    @property
    def linked_pods(self) -> set[str]:
        """The pods that the links of the last verdict lead to."""
        info = self.verdicts[-1].info
        assert info is not None
        return {link.uri.split("/pod?")[0].rpartition("/")[2] for link in info.logs}

    def until_links_lead_to_all_pods(self) -> None:
        self.cluster.api.await_objects(
            f"/api/v1/namespaces/{self.namespace}/pods",
            lambda _: self.look(self.cluster.api.get(self.path)) is not None and self.linked_pods == {*self.pods()},
        )


def run_to(
    phase: Phase,
    cluster: ControlPlane,
    namespace: str,
    entry: KubernetesPluginEntry,
    template: tasks_pb2.TaskTemplate,
    **wishes: str,
) -> Run:
    run = Run(cluster, namespace, entry, template)
    run.create(**wishes)
    run.until(phase)
    return run


def named(value: object) -> str:
    return f"{value.type}-{value.task_type_version}" if isinstance(value, tasks_pb2.TaskTemplate) else ""


EACH: Final = pytest.mark.parametrize(
    ("entry", "template"),
    [(pytorch_entry, PYTORCH), (tensorflow_entry, TENSORFLOW), (mpi_entry, MPI)],
    ids=named,
)


@pytest.mark.parametrize(
    ("entry", "template"),
    [
        (pytorch_entry, PYTORCH),
        (pytorch_entry, ELASTIC),
        (pytorch_entry, OLD_PYTORCH),
        (tensorflow_entry, TENSORFLOW),
        (tensorflow_entry, OLD_TENSORFLOW),
        (mpi_entry, MPI),
        (mpi_entry, OLD_MPI),
    ],
    ids=named,
)
def test_a_kubeflow_task_succeeds(
    kubeflow: ControlPlane, namespace: str, entry: KubernetesPluginEntry, template: tasks_pb2.TaskTemplate
) -> None:
    run = run_to(Phase.SUCCESS, kubeflow, namespace, entry, template, outcome="succeeded", run_for="2s")
    assert run.phases == [Phase.QUEUED, Phase.RUNNING, Phase.SUCCESS]


@EACH
def test_links_lead_to_the_pods_that_there_are(
    kubeflow: ControlPlane, namespace: str, entry: KubernetesPluginEntry, template: tasks_pb2.TaskTemplate
) -> None:
    run = run_to(Phase.RUNNING, kubeflow, namespace, entry, template, outcome="running")
    run.until_links_lead_to_all_pods()


def test_elastic_workers_are_told_where_to_meet(kubeflow: ControlPlane, namespace: str) -> None:
    run = run_to(Phase.RUNNING, kubeflow, namespace, pytorch_entry, ELASTIC, outcome="running")
    (container,) = run.pods()["r1-a0-0-worker-0"]["spec"]["containers"]
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert told["PET_RDZV_ENDPOINT"].startswith("r1-a0-0-worker-0:")
    assert (told["PET_NNODES"], told["PET_NPROC_PER_NODE"], told["PET_RDZV_BACKEND"]) == ("1:2", "4", "c10d")


def test_mpirun_finds_a_slot_for_each_of_its_processes(kubeflow: ControlPlane, namespace: str) -> None:
    run_to(Phase.RUNNING, kubeflow, namespace, mpi_entry, MPI, outcome="running")
    config = kubeflow.api.get(f"/api/v1/namespaces/{namespace}/configmaps/r1-a0-0-config")
    hosts = config["data"]["hostfile"].split("\n")
    assert [host for host in hosts if host] == ["r1-a0-0-worker-0 slots=2", "r1-a0-0-worker-1 slots=2"]


@EACH
def test_a_failed_job_fails_its_task(
    kubeflow: ControlPlane, namespace: str, entry: KubernetesPluginEntry, template: tasks_pb2.TaskTemplate
) -> None:
    run = run_to(Phase.RETRYABLE_FAILURE, kubeflow, namespace, entry, template, outcome="failed", run_for="1s")
    error = run.verdicts[-1].error
    assert error is not None
    assert error.kind is ErrorKind.USER


@EACH
def test_an_image_that_can_not_be_pulled_fails_the_task_though_never_the_job(
    kubeflow: ControlPlane, namespace: str, entry: KubernetesPluginEntry, template: tasks_pb2.TaskTemplate
) -> None:
    run = Run(kubeflow, namespace, entry, template)
    run.create(outcome="image-pull-error")
    job = kubeflow.api.await_object(run.path, lambda item: "startTime" in item.get("status", {}))
    kubeflow.api.await_objects(
        f"/api/v1/namespaces/{namespace}/pods", lambda _: run.look(job, after=LATER).phase.is_failure
    )
    error = run.verdicts[-1].error
    assert error is not None
    assert error.code == "ContainersNotReady|ImagePullBackOff"


KUBEFLOW: Final = {entry.id: entry for entry in (pytorch_entry, tensorflow_entry, mpi_entry)}


@pytest.mark.parametrize("one", recorded(*KUBEFLOW), ids=lambda one: one.name)
def test_the_operator_takes_what_the_sdks_make(kubeflow: ControlPlane, namespace: str, one: Recorded) -> None:
    template = one.message
    run_to(Phase.QUEUED, kubeflow, namespace, KUBEFLOW[template.type], template)


@pytest.mark.parametrize("one", recorded("clustered-task"), ids=lambda one: one.name)
def test_the_jobset_controller_takes_what_the_sdk_makes(jobset: ControlPlane, namespace: str, one: Recorded) -> None:
    run_to(Phase.RUNNING, jobset, namespace, clustered, one.message, outcome="running")


def test_a_suspended_kubeflow_job_waits_and_goes_on(kubeflow: ControlPlane, namespace: str) -> None:
    run = run_to(Phase.RUNNING, kubeflow, namespace, pytorch_entry, PYTORCH, outcome="running")
    kubeflow.api.patch(run.path, {"spec": {"runPolicy": {"suspend": True}}})
    assert run.until(Phase.QUEUED).reason == "JobSuspended"
    kubeflow.api.patch(run.path, {"spec": {"runPolicy": {"suspend": False}}})
    run.until(Phase.RUNNING)


def test_a_clustered_task_succeeds(jobset: ControlPlane, namespace: str) -> None:
    run = run_to(Phase.RUNNING, jobset, namespace, clustered, CLUSTERED, outcome="succeeded", run_for="4s")
    run.until_links_lead_to_all_pods()
    run.until(Phase.SUCCESS)
    assert run.phases == [Phase.INITIALIZING, Phase.RUNNING, Phase.SUCCESS]


def test_a_clustered_task_is_restarted_before_it_fails(jobset: ControlPlane, namespace: str) -> None:
    run = run_to(Phase.RETRYABLE_FAILURE, jobset, namespace, clustered, CLUSTERED, outcome="failed", run_for="1s")
    assert "running (restart attempt 0)" in [verdict.reason for verdict in run.verdicts]
    assert "running (restart attempt 1)" in [verdict.reason for verdict in run.verdicts]
    error = run.verdicts[-1].error
    assert error is not None
    assert error.kind is ErrorKind.USER


def test_a_suspended_job_set_waits_and_goes_on(jobset: ControlPlane, namespace: str) -> None:
    run = run_to(Phase.RUNNING, jobset, namespace, clustered, CLUSTERED, outcome="running")
    jobset.api.patch(run.path, {"spec": {"suspend": True}})
    assert run.until(Phase.QUEUED).reason == "JobSet is suspended"
    jobset.api.patch(run.path, {"spec": {"suspend": False}})
    run.until(Phase.RUNNING)
