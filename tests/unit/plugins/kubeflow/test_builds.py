"""What tasks of each framework and version of message become."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import entries, objects
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.entries import LoadedKubernetesPlugin
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.kubernetes_plugin import KubernetesPlugin
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.builders import task_metadata
from propfan.plugins.kubeflow import mpi, pytorch, tensorflow
from tests.unit.plugins.kubeflow import jobs

ENTRIES = {plugin.entry.id: plugin.entry for plugin in (mpi, pytorch, tensorflow)}

pytestmark = pytest.mark.anyio


def plugin_of(template: tasks_pb2.TaskTemplate, k8s: K8sConfig | None = None) -> KubernetesPlugin:
    loaded = entries.load(ENTRIES[template.type], setup_context(k8s=k8s))
    assert isinstance(loaded, LoadedKubernetesPlugin)
    return loaded.plugin


async def built(template: tasks_pb2.TaskTemplate, k8s: K8sConfig | None = None) -> dict[str, Any]:
    """The object of the third build, which comes from a plan; the first one is the same."""
    plugin, ctx, kind = plugin_of(template, k8s), FakeTaskContext(template), ENTRIES[template.type].watched
    made = [objects.normalise(await plugin.build_resource(ctx), kind, "", "").to_json() for _ in range(3)]
    assert made[0] == made[2]
    job: dict[str, Any] = msgspec.json.decode(made[2])
    return job


def primary(job: dict[str, Any], specs: str, role: str) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"][specs][role]["template"]["spec"]["containers"][0]
    return found


async def test_the_operator_finds_its_container_whatever_the_task_calls_it() -> None:
    for template, specs, role in (
        (jobs.PYTORCH, "pytorchReplicaSpecs", "Master"),
        (jobs.TENSORFLOW, "tfReplicaSpecs", "PS"),
        (jobs.MPI, "mpiReplicaSpecs", "Launcher"),
    ):
        assert primary(await built(template), specs, role)["name"] == template.type


async def test_pods_have_the_labels_that_tell_whose_they_are() -> None:
    job = await built(jobs.MPI, K8sConfig(default_labels={"team": "a", "run": "of the platform"}))
    template = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]
    assert template["metadata"]["labels"] == {
        "team": "a",
        "project": "project",
        "domain": "domain",
        "run": "r1",
        "action": "a0",
    }


async def test_one_master_whatever_the_task_says() -> None:
    job = await built(jobs.task("pytorch", {"workerReplicas": {"replicas": 3}, "masterReplicas": {"replicas": 7}}))
    counts = {role: spec["replicas"] for role, spec in job["spec"]["pytorchReplicaSpecs"].items()}
    assert counts == {"Master": 1, "Worker": 3}


@pytest.mark.parametrize("version", [0, 1])
async def test_an_elastic_job_has_no_master(version: int) -> None:
    custom = {"workers": 2, "workerReplicas": {"replicas": 2}, "elasticConfig": {"minReplicas": 1, "maxReplicas": 2}}
    job = await built(jobs.task("pytorch", custom, version=version))
    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    assert job["spec"]["elasticPolicy"] == {
        "rdzvBackend": "",
        "minReplicas": 1,
        "maxReplicas": 2,
        "nProcPerNode": 0,
        "maxRestarts": 0,
    }


async def test_what_newer_sdks_say_in_common_counts_all_of_it() -> None:
    group = {
        "replicas": 9,
        "image": "old:1",
        "restartPolicy": "RESTART_POLICY_ALWAYS",
        "common": {"replicas": 2, "restartPolicy": "RESTART_POLICY_ON_FAILURE"},
    }
    job = await built(jobs.task("pytorch", {"workerReplicas": group}))
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (2, "OnFailure")
    assert worker["template"]["spec"]["containers"][0]["image"] == "train:1"


async def test_resources_of_a_role_stand_in_for_those_of_the_execution() -> None:
    asked = {"limits": [{"name": "GPU", "value": "2"}, {"name": "MEMORY", "value": "2Gi"}]}
    group = {"replicas": 1, "common": {"replicas": 1, "resources": asked}}
    job = await built(jobs.task("tensorflow", {"workerReplicas": group, "psReplicas": {"replicas": 1}}))
    assert primary(job, "tfReplicaSpecs", "Worker")["resources"] == {
        "limits": {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "2"},
        "requests": {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "2"},
    }
    assert primary(job, "tfReplicaSpecs", "PS")["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}


async def test_roles_that_nobody_asked_for_are_left_out() -> None:
    job = await built(jobs.TENSORFLOW)
    assert {role: spec["replicas"] for role, spec in job["spec"]["tfReplicaSpecs"].items()} == {
        "Chief": 1,
        "Worker": 2,
        "PS": 1,
    }


async def test_the_slots_of_each_worker_are_the_operators_too() -> None:
    assert (await built(jobs.MPI))["spec"]["slotsPerWorker"] == 2
    assert (await built(jobs.task("mpi", {"workerReplicas": {"replicas": 1}})))["spec"]["slotsPerWorker"] == 1


async def test_a_role_of_an_mpi_job_has_its_own_command() -> None:
    worker = {"replicas": 1, "command": ["/usr/sbin/sshd", "-De"]}
    job = await built(jobs.task("mpi", {"workerReplicas": worker}))
    assert primary(job, "mpiReplicaSpecs", "Worker")["args"] == ["/usr/sbin/sshd", "-De"]
    assert primary(job, "mpiReplicaSpecs", "Launcher")["args"][0] == "train"


async def test_mpi_workers_of_the_first_version_run_what_the_config_says() -> None:
    template = jobs.task("mpi", {"numWorkers": 1, "slots": 1}, version=0)
    assert "args" not in primary(await built(template), "mpiReplicaSpecs", "Worker")
    template.config["worker_spec_command"] = "/usr/sbin/sshd -De  -f"
    assert primary(await built(template), "mpiReplicaSpecs", "Worker")["args"] == ["/usr/sbin/sshd", "-De", "", "-f"]


async def test_run_policy() -> None:
    policy = {"cleanPodPolicy": "CLEANPOD_POLICY_ALL", "ttlSecondsAfterFinished": 60, "backoffLimit": 0}
    job = await built(jobs.task("pytorch", {"workerReplicas": {"replicas": 1}, "runPolicy": policy}))
    assert job["spec"]["runPolicy"] == {"cleanPodPolicy": "All", "ttlSecondsAfterFinished": 60}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            jobs.task("pytorch", {"workerReplicas": {"replicas": 1}}, version=2),
            r"Invalid TaskSpecification, unsupported task template version \[2\] key",
        ),
        (jobs.task("mpi", {"workerReplicas": "x"}), r"invalid TaskSpecification \[.*\], Err: \[custom\.workerReplicas"),
    ],
)
async def test_a_task_that_can_not_be_run_is_refused(template: tasks_pb2.TaskTemplate, message: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=message):
        await built(template)


async def test_the_refusal_of_a_role_tells_which_and_why() -> None:
    group = {"replicas": 1, "common": {"resources": {"limits": [{"name": "CPU", "value": "many"}]}}}
    problem = r"^\[BadTaskSpecification\] Unable to create worker replica spec: \[.*on Resources \[.*many.*\], Err: "
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await built(jobs.task("pytorch", {"workerReplicas": group}))


@pytest.mark.parametrize("task_type", ["pytorch", "tensorflow", "mpi"])
async def test_a_job_needs_workers(task_type: str) -> None:
    with pytest.raises(PermanentError, match="number of workers must be greater than 0"):
        await built(jobs.task(task_type, {"runPolicy": {}}))


async def test_a_store_that_is_down_refuses_no_task() -> None:
    template = jobs.task("pytorch", {"workerReplicas": {"replicas": 1}})
    template.container.args.append("{{.inputs.x}}")
    ctx = FakeTaskContext(template, metadata=task_metadata(template)).with_failing_ports()
    with pytest.raises(TransientError):
        await plugin_of(template).build_resource(ctx)
