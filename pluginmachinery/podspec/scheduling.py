"""Where a pod may run: tolerations, node selectors and affinity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from propfan.pluginmachinery.config import ApiObject, K8sConfig

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def require(spec: dict[str, Any], requirement: ApiObject) -> None:
    """Add a requirement to every term of the required node affinity; terms are alternatives."""
    affinity = spec.get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    terms = (node_affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    selector = {"nodeSelectorTerms": [_extend(term, requirement) for term in terms]}
    spec["affinity"] = {**affinity, "nodeAffinity": {**node_affinity, _REQUIRED: selector}}


def _extend(term: Mapping[str, Any], requirement: ApiObject) -> Mapping[str, Any]:
    expressions = term.get("matchExpressions") or []
    # Requirements have no other fields than the three that make them the same.
    return term if requirement in expressions else {**term, "matchExpressions": [*expressions, requirement]}


def prefer(spec: dict[str, Any], weight: int, requirements: Iterable[ApiObject]) -> None:
    """Add a preference for nodes that meet all requirements."""
    affinity = spec.get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    preference = {"weight": weight, "preference": {"matchExpressions": list(requirements)}}
    preferred = [*(node_affinity.get(_PREFERRED) or ()), preference]
    spec["affinity"] = {**affinity, "nodeAffinity": {**node_affinity, _PREFERRED: preferred}}


def tolerate(spec: dict[str, Any], toleration: ApiObject) -> None:
    """Add a toleration unless one with the same key, effect, operator and value is there."""
    present = spec.get("tolerations") or []
    identity = _identity(toleration)
    for old in present:
        if _identity(old) == identity:
            return
    spec["tolerations"] = [*present, toleration]


def _identity(toleration: ApiObject) -> tuple[Any, ...]:
    return (toleration.get("key"), toleration.get("effect"), toleration.get("operator"), toleration.get("value"))


def apply_defaults(
    spec: dict[str, Any], k8s: K8sConfig, *, interruptible: bool, service_account: str, resources: Iterable[str]
) -> None:
    """Fill in what configuration says about every pod.

    Args:
        spec: Changed in place, at its top level only.
        resources: Names that the task's own containers request or limit.
    """
    spec.setdefault("restartPolicy", "Never")
    tolerations: list[ApiObject] = []
    if k8s.resource_tolerations:
        for name in sorted(resources):
            tolerations += k8s.resource_tolerations.get(name, ())
    if interruptible:
        tolerations += k8s.interruptible_tolerations
    tolerations += k8s.default_tolerations
    if tolerations:
        spec["tolerations"] = tolerations + (spec.get("tolerations") or [])
    if service_account:
        spec.setdefault("serviceAccountName", service_account)
    if k8s.scheduler_name:
        spec.setdefault("schedulerName", k8s.scheduler_name)
    selector = {**k8s.default_node_selector, **(spec.get("nodeSelector") or {})}
    if interruptible:
        selector.update(k8s.interruptible_node_selector)
    if selector:
        spec["nodeSelector"] = selector
    for field, default in (
        ("affinity", k8s.default_affinity),
        ("securityContext", k8s.default_pod_security_context),
        ("dnsConfig", k8s.default_pod_dns_config),
    ):
        if default is not None:
            spec.setdefault(field, default)
    if k8s.enable_host_networking_pod:
        spec["hostNetwork"] = True
    elif k8s.enable_host_networking_pod is not None:
        spec.pop("hostNetwork", None)
    spec.setdefault("affinity", {})
    require_interruptibility(spec, k8s, interruptible=interruptible)


def require_interruptibility(spec: dict[str, Any], k8s: K8sConfig, *, interruptible: bool) -> None:
    """Bind the pod to the nodes for interruptible tasks, or to the others."""
    requirement = (
        k8s.interruptible_node_selector_requirement
        if interruptible
        else k8s.non_interruptible_node_selector_requirement
    )
    if requirement is not None:
        require(spec, requirement)


def apply_platform_constraints(spec: dict[str, Any], k8s: K8sConfig, *, interruptible: bool) -> None:
    """Enforce the platform's own rules again on a spec that a user's was merged into; idempotent."""
    node_affinity = (k8s.default_affinity or {}).get("nodeAffinity") or {}
    for term in (node_affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ():
        for requirement in term.get("matchExpressions") or ():
            require(spec, requirement)
    require_interruptibility(spec, k8s, interruptible=interruptible)
    if interruptible:
        if k8s.interruptible_node_selector:
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **k8s.interruptible_node_selector}
        for toleration in k8s.interruptible_tolerations:
            tolerate(spec, toleration)
