from __future__ import annotations

import copy
from typing import Any

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.podspec import pod_templates, scheduling

SPOT = {"key": "spot", "operator": "In", "values": ["true"]}
TEAM = {"key": "team", "operator": "Exists"}


def terms(spec: dict[str, Any]) -> list[Any]:
    affinity = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    found: list[Any] = affinity["nodeSelectorTerms"]
    return found


def defaults(spec: dict[str, Any], k8s: K8sConfig, **options: Any) -> dict[str, Any]:
    options = {"interruptible": False, "service_account": "", "resources": (), **options}
    scheduling.apply_defaults(spec, k8s, **options)
    return spec


def test_requirement_is_added_to_every_alternative_once() -> None:
    spec: dict[str, Any] = {}
    scheduling.require(spec, SPOT)
    assert terms(spec) == [{"matchExpressions": [SPOT]}]
    terms(spec).append({"matchExpressions": [TEAM]})
    for _ in range(2):
        scheduling.require(spec, SPOT)
    assert terms(spec) == [{"matchExpressions": [SPOT]}, {"matchExpressions": [TEAM, SPOT]}]


def test_preference_is_appended_beside_requirements() -> None:
    spec: dict[str, Any] = {}
    scheduling.require(spec, TEAM)
    scheduling.prefer(spec, 5, [SPOT])
    assert terms(spec) == [{"matchExpressions": [TEAM]}]
    assert spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == [
        {"weight": 5, "preference": {"matchExpressions": [SPOT]}}
    ]


def test_toleration_is_the_same_whatever_its_seconds() -> None:
    spec: dict[str, Any] = {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}
    scheduling.tolerate(spec, {"key": "a"})
    scheduling.tolerate(spec, {"key": "a", "operator": "Equal"})
    assert len(spec["tolerations"]) == 2


def test_tolerations_of_resources_come_before_interruptible_default_and_own_ones() -> None:
    k8s = K8sConfig(
        resource_tolerations={"gpu": [{"key": "gpu"}], "cpu": [{"key": "cpu"}], "other": [{"key": "other"}]},
        interruptible_tolerations=[{"key": "spot"}],
        default_tolerations=[{"key": "default"}],
    )
    spec = defaults({"tolerations": [{"key": "own"}]}, k8s, interruptible=True, resources={"gpu", "cpu"})
    assert [t["key"] for t in spec["tolerations"]] == ["cpu", "gpu", "spot", "default", "own"]


def test_configuration_wins_over_the_node_selector_only_for_interruptible_pods() -> None:
    k8s = K8sConfig(default_node_selector={"a": "1", "b": "1"}, interruptible_node_selector={"b": "3"})
    assert defaults({"nodeSelector": {"b": "2"}}, k8s)["nodeSelector"] == {"a": "1", "b": "2"}
    assert defaults({"nodeSelector": {"b": "2"}}, k8s, interruptible=True)["nodeSelector"] == {"a": "1", "b": "3"}


def test_host_networking_is_overwritten_only_when_configured() -> None:
    assert defaults({"hostNetwork": True}, K8sConfig())["hostNetwork"] is True
    assert "hostNetwork" not in defaults({"hostNetwork": True}, K8sConfig(enable_host_networking_pod=False))
    assert defaults({}, K8sConfig(enable_host_networking_pod=True))["hostNetwork"] is True


def test_defaults_fill_only_what_is_missing() -> None:
    k8s = K8sConfig(
        default_affinity={"podAffinity": {}}, default_pod_dns_config={"searches": ["x"]}, scheduler_name="s"
    )
    spec = defaults({"affinity": {}, "schedulerName": "own"}, k8s, service_account="account")
    assert spec == {
        "affinity": {},
        "dnsConfig": {"searches": ["x"]},
        "schedulerName": "own",
        "restartPolicy": "Never",
        "serviceAccountName": "account",
    }


def test_platform_constraints_are_enforced_idempotently() -> None:
    required = {"nodeSelectorTerms": [{"matchExpressions": [TEAM]}, {"matchExpressions": [SPOT]}]}
    k8s = K8sConfig(
        default_affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        interruptible_node_selector_requirement=SPOT,
        interruptible_node_selector={"spot": "true"},
        interruptible_tolerations=[{"key": "spot"}],
    )
    spec: dict[str, Any] = {}
    scheduling.apply_platform_constraints(spec, k8s, interruptible=True)
    once = copy.deepcopy(spec)
    scheduling.apply_platform_constraints(spec, k8s, interruptible=True)
    assert spec == once
    assert terms(spec) == [{"matchExpressions": [TEAM, SPOT]}]
    assert spec["nodeSelector"] == {"spot": "true"}
    assert spec["tolerations"] == [{"key": "spot"}]


def test_overlay_changes_only_containers_of_the_base() -> None:
    base = {"containers": [{"name": "a", "image": "1", "resources": {}}], "initContainers": [{"name": "i"}]}
    custom = {
        "containers": [{"name": "a", "image": "2", "resources": {}}, {"name": "b", "resources": {}}],
        "hostNetwork": True,
    }
    merged = pod_templates.merge_overlay_pod_spec(base, custom)
    assert merged == {
        "containers": [{"name": "a", "image": "2", "resources": {}}],
        "initContainers": [{"name": "i"}],
        "hostNetwork": True,
    }
