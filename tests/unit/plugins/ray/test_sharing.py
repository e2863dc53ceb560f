"""Clusters that Ray tasks share: who shares, what they are made of, when they are ready and when they may go."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import yaml
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.contexts import ExecutionId, NodeExecutionId, TaskExecutionMetadata
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, LAST_USED_ANNOTATION, ObservedObject
from propfan.pluginmachinery.testing import NOW, FakeTaskContext, observed, problems_of_object, task_metadata
from propfan.plugins.ray.sharing import IDLE_TTL_ANNOTATION, RAY_CLUSTER
from tests.unit.plugins.ray.tasks import document, pod, primary, ray_plugin, ray_task, shared

pytestmark = pytest.mark.anyio


def task(**more: Any) -> tasks_pb2.TaskTemplate:
    return ray_task({}, {"groupName": "w", "replicas": 2}, **more)


def execution(
    template: tasks_pb2.TaskTemplate, run: str = "r1", action: str = "a0", **labels: str
) -> TaskExecutionMetadata:
    """Of another run and action, as the engine tells it."""
    made = task_metadata(template, generated_name=f"{run}-{action}-0")
    own = {
        "run": run, "action": action, "attempt": "1", "task-name": action, "propfan.org/shard": run[-1],
        "flyte.org/managed": "true", **labels,
    }  # fmt: skip
    identifier = msgspec.structs.replace(
        made.task_execution_id.id, node_execution_id=NodeExecutionId(action, ExecutionId("project", "domain", run))
    )
    return msgspec.structs.replace(
        made,
        labels={**made.labels, **own},
        annotations={"propfan.dev/abort": run},
        environment_variables={"RUN_NAME": run, "ACTION_NAME": action, "_U_RUN_BASE": f"s3://b/{run}"},
        task_execution_id=msgspec.structs.replace(made.task_execution_id, id=identifier),
    )


def name_of(template: tasks_pb2.TaskTemplate, metadata: TaskExecutionMetadata | None = None, **section: Any) -> str:
    return ray_plugin(**section).get_cluster_name(FakeTaskContext(template, metadata=metadata))


async def cluster_of(template: tasks_pb2.TaskTemplate, metadata: TaskExecutionMetadata | None = None) -> dict[str, Any]:
    return document(await ray_plugin().build_cluster_resource(FakeTaskContext(template, metadata=metadata)))


def test_tasks_without_a_reuse_policy_share_nothing() -> None:
    assert name_of(task()) == ""


def test_executions_of_all_runs_share_a_cluster() -> None:
    template = shared(task())
    names = {name_of(template, execution(template, run, action)) for run in ("r1", "r2") for action in ("a0", "b1")}
    assert len(names) == 1
    assert names.pop().startswith("ray-")


def test_other_commands_share_other_pods_do_not() -> None:
    name = name_of(shared(task()))
    assert name_of(shared(task(args=["a0", "--other", "{{.inputs.x}}"]))) == name
    assert name_of(shared(task(image="ray:2"))) != name
    assert name_of(shared(task(limits={"cpu": "3"}))) != name
    assert name_of(shared(ray_task({}, {"groupName": "w", "replicas": 3}))) != name
    assert name_of(shared(task(), idle_ttl_s=60)) != name
    assert name_of(shared(task()), serviceType="ClusterIP") != name


def test_a_policy_of_the_runs_scope_shares_within_the_run() -> None:
    template = shared(task(), of_run=True)
    names = [name_of(template, execution(template, run, action)) for run in ("r1", "r2") for action in ("a0", "b1")]
    assert names[0] == names[1] != names[2] == names[3]


def test_labels_of_queues_are_a_part_of_what_a_cluster_is() -> None:
    template = shared(task())
    name = name_of(template, execution(template))
    assert name_of(template, execution(template, **{"kueue.x-k8s.io/queue-name": "gpus"})) != name


async def test_cluster_is_of_nobody() -> None:
    template = shared(task())
    made = await cluster_of(template, execution(template, "r7", "b2"))
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayCluster")
    text = msgspec.json.encode(made).decode()
    assert "r7" not in text
    assert "b2" not in text
    assert problems_of_object(made, max_name_length=53) == ()
    name = name_of(template)
    for group in (made["spec"]["headGroupSpec"], *made["spec"]["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"][CLUSTER_LABEL] == name
        assert group["template"]["metadata"]["labels"]["flyte.org/managed"] == "true"
    assert made["metadata"]["annotations"][IDLE_TTL_ANNOTATION] == "300"
    assert "ownerReferences" not in made["metadata"]


async def test_secrets_of_the_task_are_asked_for_by_the_cluster() -> None:
    template = shared(task())
    metadata = msgspec.structs.replace(
        execution(template, **{"inject-flyte-secrets": "true"}), annotations={"flyte.secrets/s0": "abc"}
    )
    made = await cluster_of(template, metadata)
    head = made["spec"]["headGroupSpec"]["template"]["metadata"]
    assert head["annotations"]["flyte.secrets/s0"] == "abc"
    assert head["labels"]["inject-flyte-secrets"] == "true"


async def job_on(template: tasks_pb2.TaskTemplate, **section: Any) -> dict[str, Any]:
    ctx = FakeTaskContext(template, metadata=execution(template, "r7", "b2"))
    return document(await ray_plugin(**section).build_job_resource(ctx, "ray-1"))


async def test_job_selects_the_cluster_and_brings_what_is_its_own() -> None:
    job = await job_on(
        shared(task(custom={"runtimeEnvYaml": "pip: [numpy]\nenv_vars: {MINE: '1', RUN_NAME: other}\n"}))
    )
    spec = job["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "ray-1"}
    assert spec["entrypoint"] == "a0 --inputs memory:///r1/a0/1/in/inputs.pb"
    assert spec["submitterPodTemplate"]["metadata"]["labels"]["run"] == "r7"
    assert {"rayClusterSpec", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}.isdisjoint(spec), (
        "KubeRay refuses them beside a selector"
    )
    environment = yaml.safe_load(spec["runtimeEnvYAML"])
    assert environment["pip"] == ["numpy"]
    assert environment["env_vars"]["ACTION_NAME"] == "b2"
    assert environment["env_vars"]["_U_RUN_BASE"] == "s3://b/r7"
    assert environment["env_vars"]["FLYTE_INTERNAL_EXECUTION_ID"] == "r7"
    assert environment["env_vars"]["MINE"] == "1"
    assert environment["env_vars"]["RUN_NAME"] == "other", "the user has the last word"
    assert "_F_PN" not in environment["env_vars"], "the job has no pod of its own"


@pytest.mark.parametrize(
    ("mode", "used"), [("", "K8sJobMode"), ("HTTPMode", "HTTPMode"), ("SidecarMode", "K8sJobMode")]
)
async def test_no_sidecar_of_a_head_that_is_there_already(mode: str, used: str) -> None:
    job = await job_on(shared(task()), submissionMode=mode)
    assert job["spec"]["submissionMode"] == used


async def test_a_runtime_environment_that_can_not_be_completed_is_refused() -> None:
    with pytest.raises(BadTaskSpecificationError, match="the runtime environment is no YAML"):
        await job_on(shared(task(custom={"runtimeEnvYaml": "a: ["})))


def cluster(status: Mapping[str, Any], **annotations: str) -> ObservedObject:
    return observed(RAY_CLUSTER, {"status": status, "metadata": {"annotations": annotations}}, name="ray-1")


def condition(kind: str, *, holds: bool, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": str(holds), "reason": "R", "message": message}


@pytest.mark.parametrize(
    ("status", "is_ready"),
    [
        ({}, False),
        ({"state": "ready"}, True),
        ({"state": "failed"}, False),
        ({"conditions": [condition("HeadPodReady", holds=True)]}, False),
        ({"conditions": [condition("HeadPodReady", holds=True), condition("RayClusterProvisioned", holds=True)]}, True),
        ({"conditions": [condition("HeadPodReady", holds=False), condition("RayClusterProvisioned", holds=True)]}, False),
        ({"state": "ready", "conditions": [condition("HeadPodReady", holds=False)]}, False),
        ({"state": "suspended"}, False),
    ],
)  # fmt: skip
def test_a_cluster_is_ready_once_it_has_all_its_pods_and_a_head(status: dict[str, Any], *, is_ready: bool) -> None:
    assert ray_plugin().is_cluster_ready(cluster(status)) is is_ready


async def why(status: Mapping[str, Any], *pods: Mapping[str, Any]) -> str:
    return await ray_plugin().check_cluster(FakeTaskContext(shared(task()), pods=pods), cluster(status))


async def test_what_keeps_a_cluster_is_told() -> None:
    assert await why({}) == "its pods are not ready"
    assert await why({"conditions": [condition("HeadPodReady", holds=False, message="no node")]}) == "no node"
    assert await why({"reason": "quota is used up"}) == "quota is used up"
    pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    head = pod("ray-1-head-x", "head", cluster="ray-1", phase="Pending", conditions=[pending], containerStatuses=[])
    assert await why({}, head) == "its head: Unschedulable:0/3 nodes"


async def test_a_cluster_whose_head_can_never_start_says_so() -> None:
    ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"}
    waiting = {"name": "ray-head", "state": {"waiting": {"reason": "InvalidImageName", "message": "ray:!"}}}
    head = pod(
        "ray-1-head-x", "head", cluster="ray-1", phase="Pending", conditions=[ready], containerStatuses=[waiting]
    )
    with pytest.raises(PermanentError, match=r"the head of RayCluster .*ray-1 can not start: .*ray:!") as caught:
        await why({}, head)
    assert caught.value.code == "ContainersNotReady|InvalidImageName"
    interrupted = pod("ray-1-head-x", "head", cluster="ray-1", phase="Failed", reason="Shutdown", containerStatuses=[])
    assert (await why({}, interrupted)).startswith("its head failed: "), "the operator makes another one"


@pytest.mark.parametrize(
    ("ttl", "idle_s", "is_idle"),
    [("60", 59, False), ("60", 60, True), ("", 299, False), ("", 300, True), ("soon", 299, False), ("-1", 300, True)],
)
def test_a_cluster_may_go_once_its_time_has_passed(ttl: str, idle_s: int, *, is_idle: bool) -> None:
    used = msgspec.to_builtins(NOW - timedelta(seconds=idle_s))
    seen = cluster({}, **{LAST_USED_ANNOTATION: used, IDLE_TTL_ANNOTATION: ttl})
    assert ray_plugin().is_idle(seen, NOW) is is_idle


async def test_only_tasks_that_share_have_a_shared_cluster() -> None:
    with pytest.raises(ValueError, match="no reuse policy"):
        await cluster_of(task())


async def test_pods_of_the_shared_cluster_serve_the_job() -> None:
    template = shared(task())
    made = await cluster_of(template)
    head = primary(made["spec"]["headGroupSpec"]["template"])
    assert head["image"] == "ray:1"
    assert head["name"] == "ray-head"
