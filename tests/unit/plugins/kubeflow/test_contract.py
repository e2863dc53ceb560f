from __future__ import annotations

from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import KubernetesPluginContract, StatusSample
from propfan.plugins.kubeflow import mpi, pytorch, tensorflow
from tests.unit.plugins.kubeflow import jobs
from tests.unit.plugins.kubeflow.jobs import condition, status

FAILED = condition("Failed", reason="PyTorchJobFailed", message="a replica failed")

SAMPLES = (
    StatusSample("just made", {}, Phase.QUEUED, age_s=0.0),
    StatusSample("created", status(condition("Created"), has_begun=False), Phase.QUEUED, age_s=1.0),
    StatusSample("suspended", status(condition("Suspended"), has_begun=False), Phase.QUEUED, age_s=3600.0),
    StatusSample("running within a second", status(condition("Created"), condition("Running")), Phase.RUNNING),
    StatusSample("restarting", status(condition("Restarting")), Phase.RUNNING),
    StatusSample("succeeded", status(condition("Succeeded")), Phase.SUCCESS),
    StatusSample("failed", status(FAILED), Phase.RETRYABLE_FAILURE, "DownstreamSystemError"),
    StatusSample("unknown to this version", status(condition("Levitating")), Phase.UNDEFINED),
)


class TestPyTorch(KubernetesPluginContract):
    entry = pytorch.entry
    templates = (jobs.PYTORCH, jobs.ELASTIC, jobs.task("pytorch", {"workers": 1}, version=0))
    samples = (
        *SAMPLES,
        StatusSample("pods", status(condition("Running")), Phase.RUNNING, pods=(jobs.pod("r1-a0-0-worker-0"),)),
        StatusSample(
            "first worker has no image",
            status(condition("Running")),
            Phase.RETRYABLE_FAILURE,
            "ContainersNotReady|ImagePullBackOff",
            is_terminal=False,
            pods=(jobs.unpullable("r1-a0-0-worker-0", "pytorch", 600),),
        ),
    )


class TestTensorflow(KubernetesPluginContract):
    entry = tensorflow.entry
    templates = (jobs.TENSORFLOW, jobs.task("tensorflow", {"workers": 1, "psReplicas": 1}, version=0))
    samples = SAMPLES


class TestMpi(KubernetesPluginContract):
    entry = mpi.entry
    templates = (jobs.MPI, jobs.task("mpi", {"numWorkers": 1, "slots": 1}, version=0))
    samples = SAMPLES
