from __future__ import annotations

import contextlib
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError as ProtobufDecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from propfan.pluginmachinery.config import (
    AcceleratorDeviceClass,
    CopilotConfig,
    K8sConfig,
    StorageConfig,
    decode_config,
)
from propfan.pluginmachinery.contexts import ResourceRequirements, TaskOverrides
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError, PropfanError
from propfan.pluginmachinery.podspec.build import BuiltPod, PodSpecBuilder, container_name, task_of
from tests.unit.pluginmachinery.podspec import tasks


def pod_of(
    template: tasks_pb2.TaskTemplate, k8s: dict[str, Any] | None = None, store: Any = None, **metadata: Any
) -> BuiltPod:
    builder = PodSpecBuilder(decode_config(K8sConfig, k8s, "plugins.k8s"), store)
    return builder.to_pod_spec(task_of(template, tasks.metadata(**metadata), tasks.PATHS))


def overrides(**members: Any) -> TaskOverrides:
    return TaskOverrides(**{"resources": ResourceRequirements(), **members})


def serialised(kind: Any, value: dict[str, Any]) -> bytes:
    data: bytes = json_format.ParseDict(value, kind()).SerializeToString()
    return data


def test_container_task_becomes_a_pod_with_that_container() -> None:
    pod = pod_of(tasks.container_template())
    (container,) = pod.spec["containers"]
    assert pod.primary_container_name == container["name"] == "run-a0-0"
    assert container["args"] == ["a0", "--inputs", "s3://b/in/inputs.pb"]
    assert container["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }
    assert pod.spec["restartPolicy"] == "Never"
    assert pod.spec["affinity"] == {}
    assert pod.spec["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["Run_1", "a" * 64, "a.b", "", "-a"])
def test_name_that_no_container_may_have_gives_the_same_four_letters_each_time(name: str) -> None:
    assert container_name(name) == container_name(name)
    assert len(container_name(name)) == 4
    assert container_name(name) != container_name(name + "x")


def test_builds_share_nothing_that_the_next_one_could_see() -> None:
    template = tasks.pod_template(
        {"containers": [{"name": "main", "env": [{"name": "A"}]}, {"name": "side"}], "tolerations": [{"key": "t"}]},
        metadata={"podTemplateName": "base"},
    )
    store = tasks.Templates(base={"containers": [{"name": "main", "args": ["x"], "env": [{"name": "B"}]}]})
    builder = PodSpecBuilder(K8sConfig(), store)
    task = task_of(template, tasks.metadata(), tasks.PATHS)
    first = repr(builder.to_pod_spec(task))
    assert repr(builder.to_pod_spec(task)) == first
    assert store.objects["flyte", "base"]["template"]["spec"]["containers"][0]["args"] == ["x"]


@pytest.mark.parametrize(
    ("template", "members", "code", "problem"),
    [
        (tasks_pb2.TaskTemplate(type="x"), {}, "BadTaskSpecification", "unable to determine Pod configuration"),
        (tasks.container_template(), {"overrides": None}, "BadTaskSpecification", "resource requirements not found"),
        (
            tasks.container_template(),
            {"overrides": TaskOverrides()},
            "BadTaskSpecification",
            "resource requirements not found",
        ),
        (
            tasks.container_template(container={"resources": {"limits": [{"name": "CPU", "value": "x"}]}}),
            {},
            "",
            "Failed to parse resource as a valid quantity.: quantities must match",
        ),
        (
            tasks.container_template(container={"resources": {"requests": [{"name": "STORAGE", "value": ""}]}}),
            {},
            "",
            "Failed to parse resource as a valid quantity.: quantities must match",
        ),
        (
            tasks_pb2.TaskTemplate(k8s_pod=tasks_pb2.K8sPod()),
            {},
            "BadTaskSpecification",
            "should specify their target as a K8sPod with a defined pod spec",
        ),
        (
            tasks.pod_template({"containers": "nope"}),
            {},
            "BadTaskSpecification",
            r"Unable to unmarshal task k8s pod .*Err: .containers: a list is needed, found a string",
        ),
        (
            tasks.pod_template({"containers": [{"name": "a"}]}, primary="b"),
            {},
            "BadTaskSpecification",
            r"primary container \[b\] not defined",
        ),
        (
            tasks.pod_template({}, config={"b": "1", "a": "2"}),
            {},
            "BadTaskSpecification",
            r"config missing \[primary_container_name\] key in \[map\[a:2 b:1\]\]",
        ),
        (
            tasks.container_template(metadata={"podTemplateName": "gone"}),
            {},
            "BadTaskSpecification",
            "PodTemplate 'gone' does not exist",
        ),
        (
            tasks.container_template(),
            {"overrides": overrides(resources=ResourceRequirements(limits={"cpu": "1 core"}))},
            "BadTaskSpecification",
            r"overrides.resources.limits\[cpu\] '1 core'",
        ),
        (
            tasks.container_template(),
            {"platform_resources": ResourceRequirements(requests={"memory": "?"})},
            "BadTaskSpecification",
            r"platform_resources.requests\[memory\] '\?'",
        ),
    ],
)
def test_bad_tasks_are_refused_by_name(
    template: tasks_pb2.TaskTemplate, members: dict[str, Any], code: str, problem: str
) -> None:
    with pytest.raises(PermanentError, match=problem) as raised:
        pod_of(template, **members)
    assert raised.value.code == code


@pytest.mark.parametrize("field", ["pod_template", "extended_resources"])
def test_overrides_that_are_no_messages_are_refused(field: str) -> None:
    with pytest.raises(DecodeError, match=f"overrides.{field}: is no "):
        pod_of(tasks.container_template(), overrides=overrides(**{field: b"\xff\xff"}))


def test_override_replaces_the_pod_and_its_primary() -> None:
    pod = {
        "podSpec": {"containers": [{"name": "other", "command": ["{{.outputPrefix}}"]}]},
        "metadata": {"labels": {"a": "override", "b": "1"}},
        "primaryContainerName": "other",
    }
    template = tasks.pod_template(
        {"containers": [{"name": "main"}]}, k8s_pod={"metadata": {"labels": {"a": "task", "c": "2"}}}
    )
    built = pod_of(template, overrides=overrides(pod_template=serialised(tasks_pb2.K8sPod, pod)))
    assert built.primary_container_name == "other"
    assert [c["command"] for c in built.spec["containers"]] == [["s3://b/out"]]
    assert built.metadata["labels"] == {"a": "override", "b": "1", "c": "2"}


def test_override_without_a_pod_spec_changes_nothing() -> None:
    ignored = serialised(tasks_pb2.K8sPod, {"metadata": {"labels": {"a": "1"}}, "primaryContainerName": "other"})
    built = pod_of(tasks.container_template(), overrides=overrides(pod_template=ignored))
    assert built.primary_container_name == "run-a0-0"
    assert built.metadata == {}


def test_override_with_a_broken_pod_spec_is_a_plain_error() -> None:
    broken = serialised(tasks_pb2.K8sPod, {"podSpec": {"containers": 1}})
    with pytest.raises(PermanentError, match=r"overrides.pod_template: containers: a list is needed") as raised:
        pod_of(tasks.container_template(), overrides=overrides(pod_template=broken))
    assert raised.value.code == ""


def test_image_of_the_execution_replaces_the_primary_ones() -> None:
    template = tasks.pod_template({"containers": [{"name": "side", "image": "s"}, {"name": "main", "image": "m"}]})
    built = pod_of(template, overrides=overrides(container_image="new"))
    assert [c["image"] for c in built.spec["containers"]] == ["s", "new"]


def test_environment_comes_in_order_and_platform_values_last() -> None:
    template = tasks.container_template(
        container={"env": [{"key": "OWN", "value": "1"}, {"key": "EMPTY"}]}, config={"link_type": "vscode"}
    )
    builder = PodSpecBuilder(
        K8sConfig(
            default_env_vars={"Z": "1", "A": "2"},
            default_env_vars_from_env={"COPY": "SOURCE", "GONE": "NOT_THERE"},
            default_env_from_secrets=["s"],
            default_env_from_configmaps=["c"],
        ),
        process_env={"SOURCE": "here"},
        workflow_id="p:d:w",
    )
    metadata = tasks.metadata(environment_variables={"Y": "", "B": "x"}, console_url="https://c//")
    (container,) = builder.to_pod_spec(task_of(template, metadata, tasks.PATHS)).spec["containers"]
    assert [variable["name"] for variable in container["env"]] == [
        "OWN",
        "EMPTY",
        "FLYTE_INTERNAL_EXECUTION_WORKFLOW",
        "FLYTE_INTERNAL_EXECUTION_ID",
        "FLYTE_INTERNAL_EXECUTION_PROJECT",
        "FLYTE_INTERNAL_EXECUTION_DOMAIN",
        "_F_PN",
        "FLYTE_ATTEMPT_NUMBER",
        "FLYTE_EXECUTION_URL",
        *(f"FLYTE_INTERNAL_TASK_{name}" for name in ("PROJECT", "DOMAIN", "NAME", "VERSION")),
        *(f"FLYTE_INTERNAL_{name}" for name in ("PROJECT", "DOMAIN", "NAME", "VERSION")),
        "B",
        "Y",
        "A",
        "Z",
        "COPY",
        "GONE",
    ]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert values["COPY"] == "here"
    assert values["GONE"] is values["EMPTY"] is values["Y"] is None
    assert values["FLYTE_EXECUTION_URL"] == "https://c/projects/p/domains/d/executions/run/nodeId/run-a0-0/nodes"
    assert container["envFrom"] == [
        {"secretRef": {"name": "s", "optional": True}},
        {"configMapRef": {"name": "c", "optional": True}},
    ]


def test_base_template_lies_below_the_task() -> None:
    store = tasks.Templates(
        base={
            "containers": [
                {"name": "default", "args": ["--x"], "env": [{"name": "A", "value": "1"}], "image": "default"},
                {"name": "primary", "workingDir": "/w"},
                {"name": "side", "image": "side"},
            ],
            "hostNetwork": True,
        }
    )
    template = tasks.container_template(
        container={"args": ["run"], "env": [{"key": "B", "value": "2"}]}, metadata={"podTemplateName": "base"}
    )
    (container,) = pod_of(template, store=store).spec["containers"]
    assert container["name"] == "run-a0-0"
    assert container["args"] == ["--x", "run"]
    assert [variable["name"] for variable in container["env"]][:2] == ["A", "B"]
    assert (container["image"], container["workingDir"]) == ("default", "/w")


def test_template_of_the_own_namespace_wins() -> None:
    store = tasks.Templates(base={"schedulerName": "engine", "containers": []})
    store.objects["ns", "base"] = {"metadata": {}, "template": {"spec": {"schedulerName": "own", "containers": []}}}
    k8s = {"default-pod-template-name": "base"}
    assert pod_of(tasks.container_template(), k8s, store).spec["schedulerName"] == "own"
    assert pod_of(tasks.container_template(), k8s, store, namespace="x").spec["schedulerName"] == "engine"


def test_device_class_template_lies_between_base_template_and_task() -> None:
    k8s = {
        "default-pod-template-name": "base",
        "accelerator-device-classes": {
            "nvidia_gpu": {
                "resource-name": "nvidia.com/gpu",
                "pod-template": {
                    "template": {
                        "metadata": {"labels": {"dropped": "1"}},
                        "spec": {"containers": [], "schedulerName": "device", "runtimeClassName": "nvidia"},
                    }
                },
            }
        },
    }
    store = tasks.Templates(base={"containers": [], "schedulerName": "base", "priorityClassName": "high"})
    template = tasks.container_template(extendedResources={"gpuAccelerator": {"device": "a100"}})
    pod = pod_of(template, k8s, store)
    assert (pod.spec["schedulerName"], pod.spec["runtimeClassName"]) == ("device", "nvidia")
    assert pod.spec["priorityClassName"] == "high"
    assert "labels" not in pod.metadata


def gpu_task(**accelerator: Any) -> tasks_pb2.TaskTemplate:
    return tasks.container_template(
        container={"resources": {"limits": [{"name": "GPU", "value": "1"}]}},
        extendedResources={"gpuAccelerator": accelerator},
    )


def test_accelerator_binds_the_pod_to_its_nodes() -> None:
    pod = pod_of(gpu_task(device="A100", partitionSize="3g.20gb"))
    (container,) = pod.spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (term,) = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    device, partition = "k8s.amazonaws.com/accelerator", "k8s.amazonaws.com/gpu-partition-size"
    assert term["matchExpressions"] == [
        {"key": device, "operator": "In", "values": ["nvidia-tesla-a100"]},
        {"key": partition, "operator": "In", "values": ["3g.20gb"]},
    ]
    assert [t["key"] for t in pod.spec["tolerations"]] == [device, partition]
    assert pod.metadata["labels"] == {"platform.union.ai/gpu-partition-slices": "3"}


@pytest.mark.parametrize(("unpartitioned", "operators"), [(True, ["In", "DoesNotExist"]), (False, ["In"])])
def test_unpartitioned_devices_have_no_partition_label(unpartitioned: Any, operators: list[str]) -> None:
    pod = pod_of(gpu_task(device="A100", unpartitioned=unpartitioned))
    affinity = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert [e["operator"] for e in affinity["nodeSelectorTerms"][0]["matchExpressions"]] == operators


def test_unpartitioned_rules_of_the_class_beat_the_global_ones() -> None:
    requirement = {"key": "whole", "operator": "Exists"}
    k8s = {
        "gpu-unpartitioned-toleration": {"key": "global"},
        "accelerator-device-classes": {
            "NVIDIA_GPU": {
                "unpartitioned-node-selector-requirement": requirement,
                "unpartitioned-toleration": {"key": "class"},
            }
        },
    }
    pod = pod_of(gpu_task(unpartitioned=True), k8s)
    affinity = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity["nodeSelectorTerms"] == [{"matchExpressions": [requirement]}]
    assert pod.spec["tolerations"] == [{"key": "class"}]


@pytest.mark.parametrize(
    ("shared", "spec", "problem"),
    [
        ({"mountPath": "/m"}, {}, "mount name is not set"),
        ({"mountName": "n"}, {}, "mount path is not set"),
        ({"mountName": "n", "mountPath": "/m", "sizeLimit": "x"}, {}, "Unable to parse size limit: quantities"),
        ({"mountName": "n", "mountPath": "/m"}, {"volumes": [{"name": "n"}]}, "named n in pod spec"),
        (
            {"mountName": "n", "mountPath": "/m"},
            {"containers": [{"name": "main", "volumeMounts": [{"name": "n", "mountPath": "/x"}]}]},
            "named n in container",
        ),
        (
            {"mountName": "n", "mountPath": "/m"},
            {"containers": [{"name": "main", "volumeMounts": [{"name": "x", "mountPath": "/m"}]}]},
            "/m is already mounted in container",
        ),
    ],
)
def test_shared_memory_must_fit(shared: dict[str, str], spec: dict[str, Any], problem: str) -> None:
    template = tasks.pod_template(
        {"containers": [{"name": "main"}], **spec}, extendedResources={"sharedMemory": shared}
    )
    with pytest.raises(BadTaskSpecificationError, match=problem):
        pod_of(template)


def test_shared_memory_of_the_execution_replaces_the_templates() -> None:
    template = tasks.container_template(extendedResources={"sharedMemory": {"mountName": "a", "mountPath": "/a"}})
    over = {"sharedMemory": {"mountName": "b", "mountPath": "/b", "sizeLimit": "1024Mi"}}
    pod = pod_of(template, overrides=overrides(extended_resources=serialised(tasks_pb2.ExtendedResources, over)))
    assert pod.spec["volumes"] == [{"name": "b", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]
    assert pod.spec["containers"][0]["volumeMounts"] == [{"name": "b", "mountPath": "/b"}]


def test_extended_resources_are_tolerated_where_requested() -> None:
    template = tasks.pod_template(
        {
            "containers": [{"name": "main", "resources": {"requests": {"x/b": "1"}}}],
            "initContainers": [{"name": "init", "resources": {"requests": {"x/a": 0}}}],
        }
    )
    pod = pod_of(template, {"add-tolerations-for-extended-resources": ["x/b", "x/a", "x/c"]})
    assert pod.spec["tolerations"] == [
        {"key": "x/a", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "x/b", "operator": "Exists", "effect": "NoSchedule"},
    ]


RAW = {
    "container": {"image": "img", "dataConfig": {"enabled": True, "format": "YAML", "fileInputLayout": "NAMED_DIR"}},
    "interface": {
        "inputs": {"variables": [{"key": "x", "value": {"type": {"simple": "INTEGER"}}}]},
        "outputs": {"variables": [{"key": "y", "value": {"type": {"simple": "STRING"}}}]},
    },
}


def test_copilot_moves_inputs_and_outputs() -> None:
    wanted = ResourceRequirements(requests={"storage": "1Gi"}, limits={"storage": "2048Mi"})
    pod = pod_of(tasks.container_template(**RAW), overrides=overrides(resources=wanted))
    uploader, downloader = pod.spec["initContainers"]
    assert (uploader["name"], uploader["restartPolicy"]) == ("flyte-copilot-uploader", "Always")
    assert (downloader["name"], downloader["args"][:5]) == (
        "flyte-copilot-downloader",
        ["download", "--from-remote", "s3://b/in/inputs.pb", "--to-output-prefix", "s3://b/out"],
    )
    assert downloader["args"][7:11] == ["--format", "YAML", "--file-input-layout", "NAMED_DIR"]
    assert uploader["args"][:3] == ["sidecar", "--timeout", "1h0m0s"]
    assert pod.spec["terminationGracePeriodSeconds"] == 3600
    assert pod.spec["volumes"] == [
        {"name": "flyte-inputs", "emptyDir": {"sizeLimit": "2Gi"}},
        {"name": "flyte-outputs", "emptyDir": {"sizeLimit": "2Gi"}},
    ]
    (primary,) = pod.spec["containers"]
    assert primary["securityContext"] == {"capabilities": {}}
    assert uploader["command"] == [
        "/bin/flyte-copilot",
        "--storage.limits.maxDownloadMBs=0",
        "--logger.level=3",
        "--storage.type=stow",
        "--storage.stow.config",
        "region=us-east-1",
        "--storage.stow.kind=s3",
    ]


def test_copilot_reads_its_storage_from_a_secret() -> None:
    pod = pod_of(tasks.container_template(**RAW), {"co-pilot": {"storage-config-secret-name": "s"}})
    uploader, _ = pod.spec["initContainers"]
    assert uploader["command"][-2:] == ["--config", "/etc/flyte/copilot/*.yaml"]
    assert pod.spec["volumes"][0] == {
        "name": "flyte-copilot-storage-config",
        "projected": {"sources": [{"secret": {"name": "s"}}], "defaultMode": 292},
    }
    assert [mount["name"] for mount in uploader["volumeMounts"]] == ["flyte-outputs", "flyte-copilot-storage-config"]
    assert uploader["volumeMounts"][1]["readOnly"] is True


def test_copilots_own_storage_replaces_the_engines_whole() -> None:
    own = {
        "type": "stow",
        "container": "bucket",
        "enable-multicontainer": True,
        "stow": {"kind": "gcs", "config": {"p": "1"}},
    }
    k8s = {"co-pilot": {"storage-config-secret-name": "s", "storage-config-override": own}}
    uploader, _ = pod_of(tasks.container_template(**RAW), k8s).spec["initContainers"]
    assert uploader["command"][3:] == [
        "--storage.enable-multicontainer",
        "--storage.container=bucket",
        "--storage.type=stow",
        "--config",
        "/etc/flyte/copilot/*.yaml",
        "--storage.stow.config",
        "p=1",
        "--storage.stow.kind=gcs",
    ]


def test_copilot_without_interface_touches_only_the_primary() -> None:
    pod = pod_of(tasks.container_template(container=RAW["container"]))
    assert pod.spec["containers"][0]["securityContext"] == {"capabilities": {}}
    assert "initContainers" not in pod.spec
    assert "volumes" not in pod.spec


@pytest.mark.parametrize(
    ("config", "storage", "problem"),
    [
        (CopilotConfig(cpu="x"), StorageConfig(), "^quantities must match"),
        (CopilotConfig(memory="1Kx"), StorageConfig(), "^quantities must match"),
        (CopilotConfig(), StorageConfig(type="stow"), "^no stow.config or stow.kind specified"),
    ],
)
def test_copilot_that_can_not_be_configured_is_a_plain_error(
    config: CopilotConfig, storage: StorageConfig, problem: str
) -> None:
    builder = PodSpecBuilder(K8sConfig(co_pilot=config), storage=storage)
    with pytest.raises(PermanentError, match=problem) as raised:
        builder.to_pod_spec(task_of(tasks.container_template(**RAW), tasks.metadata(), tasks.PATHS))
    assert raised.value.code == ""


def test_container_alone_has_no_execution_pod_around_it() -> None:
    builder = PodSpecBuilder(K8sConfig(default_security_context={"runAsUser": 1}))
    template = tasks.container_template(config={"link_type": "vscode"})
    container = builder.to_container(task_of(template, tasks.metadata(console_url="https://c"), tasks.PATHS))
    assert "FLYTE_EXECUTION_URL" not in {variable["name"] for variable in container["env"]}
    assert container["securityContext"] == {"runAsUser": 1}
    assert container["args"][-1] == "s3://b/in/inputs.pb"


def test_attempt_without_storage_can_not_render_its_command() -> None:
    task = task_of(tasks.container_template(), tasks.metadata(), None)
    with pytest.raises(PropfanError, match="input reader and output path cannot be nil"):
        PodSpecBuilder(K8sConfig()).to_pod_spec(task)


def test_class_without_own_settings_takes_the_global_ones() -> None:
    k8s = K8sConfig(gpu_device_node_label="label", accelerator_device_classes={"amd_gpu": AcceleratorDeviceClass()})
    template = gpu_task(device="MI100", deviceClass="AMD_GPU")
    pod = PodSpecBuilder(k8s).to_pod_spec(task_of(template, tasks.metadata(), tasks.PATHS))
    assert pod.spec["tolerations"][0] == {
        "key": "label",
        "operator": "Equal",
        "value": "amd-mi100",
        "effect": "NoSchedule",
    }
    assert pod.spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_error_about_a_large_pod_spec_is_short() -> None:
    template = tasks.pod_template({"containers": [{"name": "x" * 100_000}], "nodeName": 5})
    with pytest.raises(BadTaskSpecificationError) as raised:
        pod_of(template)
    assert str(raised.value) == (
        "[BadTaskSpecification] Unable to unmarshal task k8s pod [100073 bytes], "
        "Err: [nodeName: a string is needed, found a number]"
    )


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 255))
def test_any_template_becomes_a_pod_or_an_error_of_ours(noise: bytes, position: int, byte: int) -> None:
    content = bytearray(gpu_task(device="A100", partitionSize="1g.5gb").SerializeToString())
    content[position % len(content)] = byte
    for data in (bytes(content), bytes(content) + noise, noise):
        try:
            template = tasks_pb2.TaskTemplate.FromString(data)
        except ProtobufDecodeError:
            continue
        with contextlib.suppress(PropfanError):
            pod_of(template)
