"""What a job's status and pods mean for its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import entries
from propfan.pluginmachinery.entries import KubernetesPluginEntry, LoadedKubernetesPlugin
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import KubernetesPlugin
from propfan.pluginmachinery.phases import ErrorKind, Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.builders import NOW, observed
from propfan.plugins.kubeflow import mpi, pytorch, tensorflow
from tests.unit.plugins.kubeflow import jobs
from tests.unit.plugins.kubeflow.jobs import condition, pod, status, text, unpullable

pytestmark = pytest.mark.anyio

RUNNING = status(condition("Running"))


def loaded(entry: KubernetesPluginEntry) -> KubernetesPlugin:
    found = entries.load(entry, setup_context())
    assert isinstance(found, LoadedKubernetesPlugin)
    return found.plugin


async def phase_of(
    entry: KubernetesPluginEntry,
    template: tasks_pb2.TaskTemplate,
    job_status: Mapping[str, Any],
    *,
    spec: Mapping[str, Any] | None = None,
    pods: Sequence[Mapping[str, Any]] = (),
    age_s: float = 60.0,
    state: PluginState | None = None,
) -> PhaseInfo:
    resource = observed(
        entry.watched, {"spec": spec or {}, "status": job_status}, created_at=NOW - timedelta(seconds=age_s)
    )
    ctx = FakeTaskContext(template, pods=pods, plugin_state=state or PluginState())
    return await loaded(entry).get_task_phase(ctx, resource)


async def test_a_job_that_its_operator_leaves_alone_is_asked_for_again_in_time() -> None:
    info = await phase_of(pytorch.entry, jobs.PYTORCH, {}, age_s=60.0)
    assert (info.phase, info.reason) == (Phase.QUEUED, "JobCreated")
    assert info.recheck_at == NOW + timedelta.resolution


async def test_a_job_that_its_operator_leaves_alone_too_long_is_a_fault() -> None:
    said = (
        "kubeflow operator hasn't updated the mpi custom resource since creation time 2026-01-02 03:03:04 \\+0000 UTC"
    )
    with pytest.raises(PermanentError, match=said):
        await phase_of(mpi.entry, jobs.MPI, {}, age_s=61.0)


async def test_a_suspended_job_may_wait_as_long_as_it_takes() -> None:
    waiting = status(condition("Created"), condition("Suspended", message="by Kueue"), has_begun=False)
    info = await phase_of(pytorch.entry, jobs.PYTORCH, waiting, age_s=86400.0)
    assert (info.phase, info.reason, info.recheck_at) == (Phase.QUEUED, "JobSuspended", None)


async def test_a_job_in_no_state_is_a_fault_that_tells_its_conditions() -> None:
    with pytest.raises(PermanentError, match=r"no current condition. Conditions: \[\{Type:Running Status:False "):
        await phase_of(mpi.entry, jobs.MPI, status(condition("Running", status="False")))


async def test_the_newest_true_condition_counts() -> None:
    later = NOW - timedelta(seconds=1)
    told = status(condition("Running"), condition("Restarting", at=later), condition("Failed", status="False", at=NOW))
    info = await phase_of(pytorch.entry, jobs.PYTORCH, told)
    assert info.phase is Phase.RUNNING
    assert info.info is not None
    assert info.info.custom_info is not None
    assert [c["type"] for c in info.info.custom_info["conditions"]] == ["Failed", "Restarting", "Running"]


async def test_a_failed_job_tells_the_operators_words() -> None:
    failed = status(condition("Failed", reason="BackoffLimitExceeded", message="4 times"))
    info = await phase_of(tensorflow.entry, jobs.TENSORFLOW, failed)
    assert info.error is not None
    assert (info.error.code, info.error.kind) == ("DownstreamSystemError", ErrorKind.USER)
    assert info.error.message == "Job failed:\n\tBackoffLimitExceeded - 4 times"


async def test_links_lead_to_the_pods_that_the_operator_makes() -> None:
    specs = {"Worker": {"replicas": 2}, "PS": {"replicas": 1}, "Chief": {"replicas": 1}, "Evaluator": {"replicas": 1}}
    info = await phase_of(tensorflow.entry, jobs.TENSORFLOW, RUNNING, spec={"tfReplicaSpecs": specs})
    assert info.info is not None
    pods = [log.uri.split("/pod?")[0].rpartition("/")[2] for log in info.info.logs]
    assert pods == [f"r1-a0-0-{name}" for name in ("worker-0", "worker-1", "ps-0", "chief-0", "evaluator-0")]


async def test_the_launcher_has_a_link_by_the_name_that_it_has() -> None:
    for name in ("r1-a0-0-launcher", "r1-a0-0-launcher-x7k2p"):
        spec = {"mpiReplicaSpecs": {"Worker": {"replicas": 1}}}
        info = await phase_of(mpi.entry, jobs.MPI, RUNNING, spec=spec, pods=[pod(name), pod("r1-a0-0-worker-0")])
        assert info.info is not None
        links = [(log.name, log.uri.split("/pod?")[0].rpartition("/")[2]) for log in info.info.logs]
        assert links == [("Kubernetes Logslauncher", name), ("Kubernetes Logs", "r1-a0-0-worker-0")]


async def test_the_pod_that_stands_for_the_task_is_named() -> None:
    workers = [pod("r1-a0-0-worker-0"), pod("r1-a0-0-worker-1")]
    for entry, template, others, expected in (
        (pytorch.entry, jobs.PYTORCH, [pod("r1-a0-0-master-0")], "r1-a0-0-worker-0"),
        (tensorflow.entry, jobs.TENSORFLOW, [], "r1-a0-0-worker-0"),
        (tensorflow.entry, jobs.TENSORFLOW, [pod("r1-a0-0-chief-0")], "r1-a0-0-chief-0"),
        (mpi.entry, jobs.MPI, [pod("r1-a0-0-launcher")], "r1-a0-0-launcher"),
    ):
        info = await phase_of(entry, template, RUNNING, pods=[*workers, *others])
        assert info.info is not None
        assert info.info.log_context is not None
        assert info.info.log_context.primary_pod_name == expected
        assert len(info.info.log_context.pods) == 2 + len(others)


async def test_pods_of_an_earlier_attempt_and_pods_that_wait_have_no_logs_here() -> None:
    pods = [pod("r1-a0-1-worker-0"), pod("r1-a0-0-worker-0", "Pending"), pod("r1-a0-0-worker-1")]
    info = await phase_of(mpi.entry, jobs.MPI, RUNNING, pods=pods)
    assert info.info is not None
    assert info.info.log_context is not None
    assert [context.pod_name for context in info.info.log_context.pods] == ["r1-a0-0-worker-1"]


@pytest.mark.parametrize(
    ("entry", "template", "name"),
    [
        (pytorch.entry, jobs.PYTORCH, "worker-0"),
        (tensorflow.entry, jobs.TENSORFLOW, "ps-0"),
        (mpi.entry, jobs.MPI, "launcher"),
    ],
)
async def test_a_pod_that_can_not_start_fails_the_task_after_its_grace(
    entry: KubernetesPluginEntry, template: tasks_pb2.TaskTemplate, name: str
) -> None:
    waiting = unpullable(f"r1-a0-0-{name}", template.type, 170.0)
    info = await phase_of(entry, template, RUNNING, pods=[waiting])
    assert (info.phase, info.recheck_at) == (Phase.RUNNING, NOW + timedelta(seconds=10))
    waiting = unpullable(f"r1-a0-0-{name}", template.type, 180.0)
    info = await phase_of(entry, template, RUNNING, pods=[waiting])
    assert info.phase is Phase.RETRYABLE_FAILURE
    assert info.cleanup_on_failure
    assert info.recheck_at is None


async def test_what_becomes_of_pods_after_the_end_changes_nothing() -> None:
    over = status(condition("Succeeded"))
    for entry, template in ((tensorflow.entry, jobs.TENSORFLOW), (mpi.entry, jobs.MPI)):
        waiting = unpullable("r1-a0-0-worker-0", template.type, 600.0)
        assert (await phase_of(entry, template, over, pods=[waiting])).phase is Phase.SUCCESS


async def test_a_failed_worker_fails_a_pytorch_task_before_its_operator_does() -> None:
    lost = pod("r1-a0-0-worker-0", "Failed", reason="Shutdown", message="node")
    info = await phase_of(pytorch.entry, jobs.PYTORCH, RUNNING, pods=[lost])
    assert info.phase is Phase.RETRYABLE_FAILURE
    assert info.error is not None
    assert (info.error.code, info.error.kind) == ("Interrupted", ErrorKind.SYSTEM)


async def test_a_worker_that_fails_by_itself_is_the_users_failure() -> None:
    ended = {"name": "pytorch", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    crashed = pod("r1-a0-0-worker-0", "Failed", containerStatuses=[ended])
    info = await phase_of(pytorch.entry, jobs.PYTORCH, RUNNING, pods=[crashed])
    assert info.error is not None
    assert (info.error.code, info.error.kind) == ("Error", ErrorKind.USER)


async def test_a_worker_that_is_stopped_after_the_masters_success_fails_nothing() -> None:
    stopped = pod("r1-a0-0-worker-0", "Failed")
    succeeded = status(condition("Succeeded"))
    assert (await phase_of(pytorch.entry, jobs.PYTORCH, succeeded, pods=[stopped])).phase is Phase.SUCCESS


async def test_a_new_reason_is_a_new_version() -> None:
    state = PluginState(Phase.QUEUED, 3, "JobSuspended")
    info = await phase_of(mpi.entry, jobs.MPI, status(condition("Created")), state=state)
    assert (info.phase, info.version, info.reason) == (Phase.QUEUED, 4, "JobCreated")


@pytest.mark.parametrize(
    ("job_status", "expected"),
    [
        ({"completionTime": text(NOW), "startTime": text(jobs.TEN_SECONDS_AGO)}, NOW),
        (status(condition("Failed", status="False", at=NOW)), NOW),
        (status(condition("Running", at=NOW)), jobs.TEN_SECONDS_AGO),
        ({}, NOW - timedelta(hours=1)),
    ],
)
def test_completion_time_is_the_best_that_is_known(job_status: dict[str, Any], expected: object) -> None:
    resource = observed(mpi.entry.watched, {"status": job_status}, created_at=NOW - timedelta(hours=1))
    assert loaded(mpi.entry).get_completion_time(resource) == expected
