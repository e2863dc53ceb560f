from __future__ import annotations

from typing import Any, ClassVar

from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import KubernetesPluginContract, StatusSample
from propfan.plugins.ray import entry
from tests.unit.plugins.ray.tasks import CLUSTER, job_status, pod, ray_task, shared

OWN_POD: dict[str, Any] = {"podSpec": {"containers": [{"name": "ray-worker", "image": "own:1"}]}}
HEAD = pod(f"{CLUSTER}-head-abcde", "head")


class TestRayPlugin(KubernetesPluginContract):
    entry = entry
    templates = (
        ray_task({"rayStartParams": {"num-cpus": "0"}}, {"groupName": "w", "replicas": 2, "k8sPod": OWN_POD}),
        ray_task(custom={"runtimeEnvYaml": "pip:\n- numpy\n", "shutdownAfterJobFinishes": True}),
        shared(ray_task({}, {"groupName": "w", "replicas": 1})),
    )
    samples = (
        StatusSample("new", {}, Phase.QUEUED),
        StatusSample("initializing", job_status("Initializing"), Phase.INITIALIZING),
        StatusSample("running", job_status(), Phase.RUNNING, pods=(HEAD,)),
        StatusSample("complete", job_status("Complete", jobStatus="SUCCEEDED"), Phase.SUCCESS),
        StatusSample("suspending", job_status("Suspending"), Phase.QUEUED),
        StatusSample("suspended", job_status("Suspended"), Phase.QUEUED),
        StatusSample("retrying", job_status("Retrying"), Phase.INITIALIZING),
        StatusSample("waiting", job_status("Waiting"), Phase.INITIALIZING),
        StatusSample(
            "failed",
            job_status("Failed", reason="AppFailed", message="no"),
            Phase.PERMANENT_FAILURE,
            error_code="TaskFailedWithError",
        ),
        StatusSample(
            "invalid",
            job_status("ValidationFailed", reason="ValidationFailed", message="no"),
            Phase.PERMANENT_FAILURE,
            error_code="TaskFailedWithError",
            is_terminal=False,
        ),
    )
    sections: ClassVar = {
        "ray": {"dashboardURLTemplate": {"displayName": "Ray", "templateUris": ["https://r/{{.rayJobID}}"]}}
    }
