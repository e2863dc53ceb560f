"""What ``propfan manifests`` prints, on a real API server with RBAC and Pod Security."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import SERVE, Replica, Tasks, verdict_of

DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments/propfan"


def printed(*arguments: str) -> Sequence[dict[str, Any]]:
    command = [sys.executable, *SERVE[:-1], "manifests", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture
def home(control_plane: ControlPlane) -> str:
    """A namespace for the daemon."""
    return f"{control_plane.create_namespace('propfan')}"


def test_the_daemon_does_its_work_with_exactly_the_rights_that_are_printed(
    control_plane: ControlPlane, namespace: str, home: str, tmp_path: Path
) -> None:
    arguments = ("--namespace", home, "--tasks-namespace", namespace, "--plugins", "pod", "--replicas", "2")
    documents = printed(*arguments)
    for document in documents:
        control_plane.api.apply(document)
    token = control_plane.create_token(home, "propfan")
    kubeconfig = control_plane.write_kubeconfig(tmp_path / "account.yaml", token, namespace=home)
    settings = yaml.safe_load(next(d for d in documents if d["kind"] == "ConfigMap")["data"]["config.yaml"])
    replica = Replica("printed", tmp_path, kubeconfig, settings)
    replica.start()
    try:
        replica.await_ready()
        tasks = Tasks(control_plane.api, namespace, f"file://{tmp_path}/out")
        assert verdict_of(tasks.await_over(tasks.submit("by-account"))) == "Completed"
        assert replica.metric("rest_client_requests_total", code="403") == 0
    finally:
        replica.stop()


def test_its_pods_are_admitted_under_the_restricted_profile(control_plane: ControlPlane, home: str) -> None:
    for document in printed("--namespace", home, "--plugins", "pod"):
        control_plane.api.apply(document)
    deployed = control_plane.api.await_object(
        DEPLOYMENTS.format(home), lambda found: found.get("status", {}).get("readyReplicas") == 2
    )
    assert deployed["status"]["replicas"] == 2
    labels = control_plane.api.get(f"/api/v1/namespaces/{home}")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_connector_service_is_admitted_beside_it(control_plane: ControlPlane, home: str) -> None:
    for document in printed("--namespace", home, "--plugins", "connector-service", "--connectors"):
        control_plane.api.apply(document)
    path = f"{DEPLOYMENTS.format(home)}-connectors"
    deployed = control_plane.api.await_object(path, lambda found: found.get("status", {}).get("readyReplicas") == 2)
    assert deployed["status"]["replicas"] == 2


def test_rights_follow_the_plugins() -> None:
    def kinds(plugins: str) -> set[str]:
        roles = [d for d in printed("--plugins", plugins, "--only", "daemon") if d["kind"] == "ClusterRole"]
        return {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}

    assert kinds("pod,ray") - kinds("pod") == {"rayclusters", "rayjobs"}
    assert kinds("spark") - kinds("pod") == {"customresourcedefinitions", "sparkapplications"}
