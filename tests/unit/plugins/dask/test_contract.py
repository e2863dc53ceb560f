from __future__ import annotations

from typing import ClassVar

from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import KubernetesPluginContract, StatusSample
from propfan.plugins.dask import entry
from tests.unit.plugins.dask.tasks import JOB, dask_task, job_status, pod

DASHBOARD = {
    "displayName": "Dask",
    "templateUris": ["https://d/{{.daskSchedulerName}}/status"],
    "linkType": "dashboard",
}


class TestDaskPlugin(KubernetesPluginContract):
    entry = entry
    templates = (
        dask_task(),
        dask_task({"scheduler": {"image": "own:1", "resources": {"limits": [{"name": "CPU", "value": "1"}]}}}),
    )
    samples = (
        StatusSample("new", {}, Phase.INITIALIZING),
        StatusSample("created", job_status("JobCreated"), Phase.INITIALIZING),
        StatusSample("with a cluster", job_status("ClusterCreated"), Phase.INITIALIZING),
        StatusSample("running", job_status("Running"), Phase.RUNNING, pods=(pod(f"{JOB}-scheduler-1", "scheduler"),)),
        StatusSample("of a state that nobody knows yet", job_status("Dreaming"), Phase.RUNNING),
        StatusSample("successful", job_status("Successful"), Phase.SUCCESS),
        StatusSample("failed", job_status("Failed"), Phase.RETRYABLE_FAILURE, error_code="DownstreamSystemError"),
    )
    sections: ClassVar = {"dask": {"logs": {"templates": [DASHBOARD]}}}
