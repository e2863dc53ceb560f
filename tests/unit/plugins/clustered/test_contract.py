from __future__ import annotations

from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import KubernetesPluginContract, StatusSample
from propfan.plugins.clustered import entry
from tests.unit.plugins.clustered import job_sets
from tests.unit.plugins.clustered.job_sets import condition, status


class TestClustered(KubernetesPluginContract):
    entry = entry
    templates = (job_sets.TASK, job_sets.task(replicas=1, nprocPerNode=1, ttlSecondsAfterFinished=0))
    samples = (
        StatusSample("just made", {"restarts": 0}, Phase.INITIALIZING, age_s=0.0),
        StatusSample("pods wait", status(active=2), Phase.RUNNING),
        StatusSample("restarted", {"restarts": 1}, Phase.RUNNING),
        StatusSample("suspended", status(condition("Suspended")), Phase.QUEUED),
        StatusSample("completed", status(condition("Completed"), succeeded=2), Phase.SUCCESS),
        StatusSample(
            "failed",
            status(condition("Failed", reason="FailedJobs", message="jobset failed due to one or more job failures")),
            Phase.RETRYABLE_FAILURE,
            "FailedJobs",
        ),
        StatusSample(
            "rank 0 has no image",
            status(active=2),
            Phase.RETRYABLE_FAILURE,
            "ContainersNotReady|ImagePullBackOff",
            is_terminal=False,
            pods=(job_sets.unpullable("r1-a0-0-workers-0-0-abcde", 600.0),),
        ),
    )
