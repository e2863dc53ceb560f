"""RayJobs: what the vectors do not hold, or where propfan says more than the backend."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PermanentError
from propfan.pluginmachinery.testing import FakeTaskContext, task_metadata, task_template
from propfan.plugins.ray import RayConfig, entry
from tests.peers.sdk_templates.recorded import Recorded, recorded
from tests.unit.plugins.ray.tasks import document, primary, ray_plugin, ray_task, spec_of

pytestmark = pytest.mark.anyio

SDK = recorded("ray")


def test_both_generations_of_the_sdk_are_recorded() -> None:
    assert {task.name.partition("-")[0] for task in SDK} == {"flyte1", "flyte2"}


@pytest.mark.parametrize("task", SDK, ids=lambda task: task.name)
async def test_what_sdks_serialise_becomes_a_job(task: Recorded) -> None:
    spec = await spec_of(ray_plugin(), task.message)
    assert spec["entrypoint"].partition(" ")[0] in {"a0", "pyflyte-execute"}
    assert spec["submissionMode"] == "K8sJobMode"
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        container = primary(group["template"])
        assert container["image"]
        assert "args" not in container, "the operator says what a node runs"
    assert all(group["replicas"] == int(group["replicas"]) for group in cluster["workerGroupSpecs"])
    assert msgspec.json.decode(msgspec.json.encode(spec)) == spec


@pytest.mark.parametrize("task", [t for t in SDK if t.name.endswith("full")], ids=lambda task: task.name)
async def test_settings_of_the_sdk_arrive(task: Recorded) -> None:
    spec = await spec_of(ray_plugin(), task.message)
    head, workers = spec["rayClusterSpec"]["headGroupSpec"], spec["rayClusterSpec"]["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert spec["runtimeEnvYAML"]
    assert len(workers) > 1


async def test_memory_variables_of_workers_tell_the_memory() -> None:
    spec = await spec_of(ray_plugin(), ray_task({}, {"groupName": "w"}))
    env = {v["name"]: v for v in primary(spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"])["env"]}
    told = {
        name: env[name]["valueFrom"]["resourceFieldRef"]["resource"]
        for name in env
        if name.endswith(("_REQUESTS", "_LIMITS"))
    }
    assert told == {
        "CPU_LIMITS": "limits.cpu", "MEMORY_REQUESTS": "requests.memory", "MEMORY_LIMITS": "limits.memory"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "custom", "shutdown", "ttl_s"),
    [
        ({}, {}, True, 3600),
        ({"ttlSecondsAfterFinished": 60}, {}, True, 60),
        ({"shutdownAfterJobFinishes": False}, {}, None, None),
        (
            {"shutdownAfterJobFinishes": False},
            {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 9},
            True,
            9,
        ),
        ({}, {"shutdownAfterJobFinishes": True}, True, None),
    ],
)
async def test_kuberay_is_told_a_ttl_only_with_a_shutdown(
    section: dict[str, Any], custom: dict[str, Any], *, shutdown: bool | None, ttl_s: int | None
) -> None:
    spec = await spec_of(ray_plugin(**section), ray_task(custom=custom))
    assert (spec.get("shutdownAfterJobFinishes"), spec.get("ttlSecondsAfterFinished")) == (shutdown, ttl_s)


async def test_each_mode_has_its_submitter() -> None:
    for mode, has_template in (("", True), ("K8sJobMode", True), ("HTTPMode", False), ("SidecarMode", False)):
        spec = await spec_of(ray_plugin(submissionMode=mode), ray_task())
        assert ("submitterPodTemplate" in spec) is has_template
        assert spec["submissionMode"] == (mode or "K8sJobMode")


async def test_errors_name_what_is_wrong() -> None:
    plugin = ray_plugin()
    with pytest.raises(BadTaskSpecificationError, match=r"custom\.rayCluster is missing"):
        await spec_of(plugin, task_template("ray", image="i", custom={"other": 1}))
    with pytest.raises(BadTaskSpecificationError, match="nil Struct Object passed"):
        await spec_of(plugin, task_template("ray", image="i"))
    with pytest.raises(BadTaskSpecificationError, match=r"custom\.rayCluster: expected an object, found str"):
        await spec_of(plugin, task_template("ray", image="i", custom={"rayCluster": "x"}))
    with pytest.raises(BadTaskSpecificationError, match=r"Unable to unmarshal pod spec .*containers: a list is needed"):
        await spec_of(plugin, ray_task({"k8sPod": {"podSpec": {"containers": "x"}}}))
    with pytest.raises(BadTaskSpecificationError, match='invalid ray submission mode "Other"'):
        await spec_of(ray_plugin(submissionMode="Other"), ray_task())
    with pytest.raises(PermanentError, match="illegal base64 data at input byte 0"):
        await spec_of(plugin, ray_task(custom={"runtimeEnv": "!"}))


async def test_deprecated_runtime_environment_counts_only_without_the_other() -> None:
    old = base64.b64encode(b'{"pip": ["old"]}').decode()
    spec = await spec_of(ray_plugin(), ray_task(custom={"runtimeEnv": old, "runtimeEnvYaml": "pip: [new]"}))
    assert spec["runtimeEnvYAML"] == "pip: [new]"
    spec = await spec_of(ray_plugin(), ray_task(custom={"runtimeEnv": old}))
    assert spec["runtimeEnvYAML"] == "pip:\n- old\n"


async def test_groups_of_one_task_do_not_share_what_they_change() -> None:
    own = {"podSpec": {"containers": [{"name": "ray-worker", "env": [{"name": "OWN", "value": "1"}]}]}}
    spec = await spec_of(ray_plugin(), ray_task({}, {"groupName": "a", "k8sPod": own}, {"groupName": "b"}))
    a, b = (primary(group["template"]) for group in spec["rayClusterSpec"]["workerGroupSpecs"])
    head = primary(spec["rayClusterSpec"]["headGroupSpec"]["template"])
    assert [sum(v["name"] == "OWN" for v in container["env"]) for container in (a, b, head)] == [1, 0, 0]
    assert "lifecycle" not in head


async def test_a_group_may_have_its_own_accelerator() -> None:
    group = {"groupName": "gpu", "extendedResources": {"gpuAccelerator": {"device": "T4"}}}
    template = ray_task({}, group, {"groupName": "cpu"}, limits={"gpu": "1"})
    spec = await spec_of(ray_plugin(), template)
    gpu, cpu = (group["template"]["spec"] for group in spec["rayClusterSpec"]["workerGroupSpecs"])
    assert "nvidia-tesla-t4" in msgspec.json.encode(gpu).decode()
    assert "nvidia-tesla-t4" not in msgspec.json.encode(cpu).decode()


async def test_logs_of_the_head_are_shared_with_the_sidecar() -> None:
    sidecar = {"name": "logs", "image": "fluent:1"}
    spec = await spec_of(ray_plugin(logsSidecar=sidecar), ray_task({}, {"groupName": "w"}))
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    main, logs = head["containers"]
    assert main["volumeMounts"] == [{"name": "system-ray-state", "mountPath": "/tmp/ray"}]
    assert logs["volumeMounts"] == [{"name": "system-ray-state", "mountPath": "/tmp/ray", "readOnly": True}]
    assert {"name": "system-ray-state", "emptyDir": {}} in head["volumes"]
    assert len(spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]) == 1


async def test_labels_of_queues_reach_the_job_and_all_its_pods() -> None:
    template = ray_task({}, {"groupName": "w"})
    metadata = task_metadata(template)
    queued = msgspec.structs.replace(metadata, labels={**metadata.labels, "kueue.x-k8s.io/queue-name": "gpus"})
    plugin = ray_plugin(k8s=K8sConfig(default_labels={"team": "a"}))
    spec = await spec_of(plugin, template, metadata=queued)
    cluster = spec["rayClusterSpec"]
    for pod in (
        cluster["headGroupSpec"]["template"],
        cluster["workerGroupSpecs"][0]["template"],
        spec["submitterPodTemplate"],
    ):
        assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
        assert pod["metadata"]["labels"]["team"] == "a"


async def test_plans_say_what_the_plain_conversion_says() -> None:
    template = ray_task({}, {"groupName": "w"}, args=["a0", "--out", "{{.outputPrefix}}", "--run", "{{.runName}}"])
    plugin = ray_plugin()
    built = [document(await plugin.build_job_resource(FakeTaskContext(template), "")) for _ in range(3)]
    assert built[0] == built[1] == built[2]


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"remoteClusterConfig": {"enabled": True}}, r"plugins\.ray\.remoteClusterConfig: enabled must be false"),
        ({"serviceTypo": "x"}, r"plugins\.ray\.serviceTypo: no such setting, did you mean serviceType"),
        ({"ttlSecondsAfterFinished": -1}, r"plugins\.ray\.ttlSecondsAfterFinished"),
        ({"defaults": {"headNode": {"startParameters": {"num-cpus": 4}}}}, r"headNode\.startParameters\.num-cpus"),
        ({"logsSidecar": {"name": 3}}, r"plugins\.ray\.logsSidecar\.name"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(section: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        decode_config(RayConfig, section, "plugins.ray")


def test_names_fit_kuberay() -> None:
    assert ray_plugin().get_properties().generated_name_max_length == 47
    assert entry.task_types == ("ray",)
