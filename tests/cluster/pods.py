"""Manifests that tests of the cluster share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.cluster.api import Object


def asked(**wishes: str) -> dict[str, str]:
    """Annotations that ask kwok for what ``stages/pod.yaml`` offers: ``asked(outcome="failed", exit_code="2")``."""
    return {f"kwok.propfan.test/{name.replace('_', '-')}": value for name, value in wishes.items()}


def pod_template(*containers: str, restart_policy: str = "", **wishes: str) -> Object:
    """A pod template with these containers, or one called ``main``."""
    spec: Object = {"containers": [{"name": name, "image": "busybox"} for name in containers or ("main",)]}
    if restart_policy:
        spec["restartPolicy"] = restart_policy
    return {"metadata": {"annotations": asked(**wishes)}, "spec": spec}


def pod(name: str, *containers: str, restart_policy: str = "Never", **wishes: str) -> Object:
    """A pod, as ``pod_template``."""
    template = pod_template(*containers, restart_policy=restart_policy, **wishes)
    template["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", **template}


def in_phase(phase: str) -> Callable[[Mapping[str, Any]], bool]:
    """For ``Api.await_object``."""
    return lambda item: bool(item["status"].get("phase") == phase)
