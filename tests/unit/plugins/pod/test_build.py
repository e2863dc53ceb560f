from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flyteidl2.core import security_pb2, tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import ResourceRequirements
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, task_of
from propfan.plugins.pod import PodPlugin, build, entry
from tests.unit.pluginmachinery.podspec import tasks


def pod_of(template: tasks_pb2.TaskTemplate, k8s: K8sConfig | None = None, **metadata: Any) -> dict[str, Any]:
    builder = PodSpecBuilder(k8s or K8sConfig())
    pod = build.build_pod(builder, task_of(template, tasks.metadata(**metadata), tasks.PATHS))
    rendered: dict[str, Any] = msgspec.json.decode(build.render(pod).to_json())
    return rendered


def sidecar(version: int, custom: Any, **members: Any) -> tasks_pb2.TaskTemplate:
    template = {"type": "sidecar", "taskTypeVersion": version, "custom": custom, **members}
    if custom is None:
        del template["custom"]
    return json_format.ParseDict(template, tasks_pb2.TaskTemplate())


def test_single_container_is_named_in_an_annotation_except_for_raw_ones() -> None:
    pod = pod_of(tasks.container_template())
    assert (pod["apiVersion"], pod["kind"], pod["status"]) == ("v1", "Pod", {})
    assert pod["metadata"] == {"annotations": {"primary_container_name": "run-a0-0"}}
    assert pod_of(tasks.container_template(type="raw-container"))["metadata"] == {}
    two = tasks.pod_template({"containers": [{"name": "main"}, {"name": "side"}]})
    assert pod_of(two)["metadata"] == {}


def test_run_as_account_is_used_only_where_none_is_set() -> None:
    run_as = security_pb2.SecurityContext(run_as=security_pb2.Identity(k8s_service_account="runner"))
    security = run_as.SerializeToString()
    template = tasks.container_template()
    assert pod_of(template, security_context=security)["spec"]["serviceAccountName"] == "runner"
    pod = pod_of(template, security_context=security, k8s_service_account="default")
    assert pod["spec"]["serviceAccountName"] == "default"


def test_first_sidecars_hold_the_pod_spec_in_any_case() -> None:
    custom = {
        "podSpec": {"containers": [{"name": "a"}, {"name": "b"}]},
        "PRIMARYCONTAINERNAME": "b",
        "Annotations": {"x": "1"},
        "labels": {"y": "2"},
    }
    pod = pod_of(sidecar(0, custom))
    assert pod["metadata"] == {"annotations": {"x": "1", "primary_container_name": "b"}, "labels": {"y": "2"}}
    assert "enableServiceLinks" not in pod["spec"]


def test_second_sidecars_are_the_pod_spec() -> None:
    config = {"primary_container_name": "a"}
    pod = pod_of(sidecar(1, {"containers": [{"name": "a"}]}, config=config))
    assert pod["metadata"]["annotations"] == {"primary_container_name": "a"}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (sidecar(0, None), r"^\[BadTaskSpecification\] invalid TaskSpecification \[\], Err: \[custom: is missing\]"),
        (sidecar(0, {}), r"invalid TaskSpecification, nil PodSpec \[\]"),
        (sidecar(0, {"podSpec": 1}), r"Err: \[podSpec: an object is needed for PodSpec, found a number\]"),
        (sidecar(1, None), r"Unable to unmarshal task custom \[\], Err: \[custom: is missing\]"),
        (sidecar(1, {"containers": 1}), r"Err: \[containers: a list is needed, found a number\]"),
        (sidecar(1, {}), r"config needs to be non-empty and include missing \[primary_container_name\] key"),
        (sidecar(1, {}, config={"a": "b"}), r"config missing \[primary_container_name\] key in \[map\[a:b\]\]"),
        (sidecar(2, {}), "unable to determine Pod configuration"),
    ],
)
def test_bad_sidecars_are_refused(template: tasks_pb2.TaskTemplate, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        pod_of(template)


@pytest.mark.parametrize(
    ("environment", "port"),
    [
        ({"_F_E_VS": "true", "ACTION_NAME": "a0"}, 6060),
        ({"_F_E_VS": "T"}, 8080),
        ({"_F_E_VS": "yes"}, None),
        ({"_F_E_VS": ""}, None),
        ({}, None),
    ],
)
def test_debugger_is_probed_where_it_listens(environment: dict[str, str], port: int | None) -> None:
    (container,) = pod_of(tasks.container_template(), environment_variables=environment)["spec"]["containers"]
    if port is None:
        assert "readinessProbe" not in container
    else:
        assert container["readinessProbe"] == {
            "httpGet": {"port": port},
            "initialDelaySeconds": 15,
            "periodSeconds": 5,
            "failureThreshold": 50,
        }


def test_only_the_primary_of_several_containers_is_probed() -> None:
    template = tasks.pod_template({"containers": [{"name": "side"}, {"name": "main"}]})
    containers = pod_of(template, environment_variables={"_F_E_VS": "1"})["spec"]["containers"]
    assert ["readinessProbe" in container for container in containers] == [False, True]


def test_of_containers_of_one_name_those_up_to_the_first_without_debugger_are_probed() -> None:
    asks, asks_not = {"name": "_F_E_VS", "value": "t"}, {"name": "_F_E_VS", "value": "f"}
    named = [{"name": "main", "env": [variable]} for variable in (asks, asks, asks_not, asks)]
    containers = pod_of(tasks.pod_template({"containers": named}))["spec"]["containers"]
    assert ["readinessProbe" in container for container in containers] == [True, True, False, False]


def test_security_context_that_is_none_is_refused() -> None:
    with pytest.raises(DecodeError, match="security_context: is no SecurityContext"):
        pod_of(tasks.container_template(), security_context=b"\xff")


class Context:
    """As much of a ``TaskContext`` as a build looks at."""

    def __init__(self, template: tasks_pb2.TaskTemplate) -> None:
        self.template = template
        self.template_bytes = template.SerializeToString()
        self.metadata = tasks.metadata(platform_resources=ResourceRequirements(limits={"cpu": "2"}))
        self.paths = tasks.PATHS


@pytest.mark.anyio
async def test_plugin_builds_the_same_pod_each_time() -> None:
    plugin = PodPlugin(K8sConfig(), LogsConfig())
    ctx: Any = Context(tasks.container_template())
    built = [(await plugin.build_resource(ctx)).to_json() for _ in range(3)]
    assert msgspec.json.decode(built[0]) == msgspec.json.decode(built[1]) == msgspec.json.decode(built[2])


def test_identity_is_no_more_than_a_kind() -> None:
    identity = PodPlugin(K8sConfig(), LogsConfig()).build_identity_resource(tasks.metadata())
    assert msgspec.json.decode(identity.to_json()) == {"apiVersion": "v1", "kind": "Pod", "metadata": {}}


def test_entry_serves_the_types_of_the_sdk() -> None:
    assert entry.watched == POD
    assert {"container", "python", "raw-container", "sidecar"} <= set(entry.task_types)
