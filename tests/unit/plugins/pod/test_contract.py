from __future__ import annotations

from typing import Any

from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import KubernetesPluginContract, StatusSample, task_template
from propfan.plugins.pod import entry

SIDECAR = {"podSpec": {"containers": [{"name": "main", "image": "busybox"}, {"name": "proxy", "image": "envoy"}]}}
START = "2026-01-02T03:04:05Z"


def pod(phase: str, **state: dict[str, Any]) -> dict[str, Any]:
    """A pod's status with that of its one container."""
    container = {"name": "r1-a0-0", "state": state, "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
    return {"phase": phase, "containerStatuses": [container]}


def ended(exit_code: int) -> dict[str, Any]:
    return {"exitCode": exit_code, "reason": "Ended", "startedAt": START, "finishedAt": START}


class TestPodPlugin(KubernetesPluginContract):
    entry = entry
    templates = (
        task_template("python", image="busybox", args=["a0", "{{.input}}"], env={"A": "b"}, requests={"cpu": "1"}),
        task_template("raw-container", image="busybox", command=["true"]),
        task_template("sidecar", k8s_pod=SIDECAR, config={"primary_container_name": "main"}, task_type_version=2),
    )
    samples = (
        StatusSample("pending", {"phase": "Pending"}, Phase.QUEUED),
        StatusSample("running", pod("Running", running={"startedAt": START}), Phase.RUNNING),
        StatusSample("succeeded", pod("Succeeded", terminated=ended(0)), Phase.SUCCESS),
        StatusSample("failed", pod("Failed", terminated=ended(1)), Phase.RETRYABLE_FAILURE),
    )
