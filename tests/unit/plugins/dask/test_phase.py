"""Phases of DaskJobs: what the vectors do not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.phases import ErrorKind, Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.testing import FakeTaskContext, observed
from propfan.plugins.dask.build import DASK_JOB
from tests.unit.plugins.dask.tasks import JOB, dask_plugin, dask_task, job_status, pod

pytestmark = pytest.mark.anyio

LINKS: dict[str, Any] = {
    "logs": {
        "kubernetes-enabled": False,
        "templates": [
            {"displayName": "Runner", "templateUris": ["https://logs/{{.podName}}"]},
            {"displayName": "Dask", "templateUris": ["https://d/{{.daskSchedulerName}}"], "linkType": "dashboard"},
        ],
    }
}
SCHEDULER = f"{JOB}-scheduler-5d4f"


async def phase_of(
    status: Any, pods: Sequence[Mapping[str, Any]] = (), *, last: PluginState | None = None
) -> PhaseInfo:
    ctx = FakeTaskContext(dask_task(), pods=pods, plugin_state=last or PluginState())
    return await dask_plugin(**LINKS).get_task_phase(ctx, observed(DASK_JOB, {"status": status}, name=JOB))


@pytest.mark.parametrize(
    ("state", "ready", "text"),
    [("Running", True, "ready"), ("Running", False, "not ready"), ("ClusterCreated", True, "not ready")],
)
async def test_dashboard_is_ready_once_the_job_runs_and_its_scheduler_is(state: str, text: str, *, ready: bool) -> None:
    verdict = await phase_of(job_status(state), [pod(SCHEDULER, "scheduler", ready=ready)])
    assert verdict.reason.endswith(f"Dask dashboard is {text}")
    assert verdict.info is not None
    runner, dashboard = verdict.info.logs
    assert runner.uri == f"https://logs/{JOB}-runner"
    assert (dashboard.uri, dashboard.ready) == (f"https://d/{SCHEDULER}", ready)


async def test_a_runner_that_can_not_start_fails_the_task_before_the_operator_notices() -> None:
    condition = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"}
    waiting = {"name": "job-runner", "state": {"waiting": {"reason": "InvalidImageName", "message": "dask:!"}}}
    runner = pod(f"{JOB}-runner", "job-runner", phase="Pending", conditions=[condition], containerStatuses=[waiting])
    verdict = await phase_of(job_status("ClusterCreated"), [runner])
    assert verdict.phase is Phase.PERMANENT_FAILURE
    assert verdict.cleanup_on_failure


async def test_log_context_is_the_runner_s() -> None:
    verdict = await phase_of(job_status("Running"), [pod(SCHEDULER, "scheduler")])
    assert verdict.info is not None
    context = verdict.info.log_context
    assert context is not None
    assert context.primary_pod_name == f"{JOB}-runner"
    assert [each.pod_name for each in context.pods] == [f"{JOB}-runner"]


async def test_pods_of_other_jobs_are_not_this_one_s_scheduler() -> None:
    verdict = await phase_of(job_status("Running"), [pod("r2-a0-0-scheduler-1", "scheduler")])
    assert verdict.reason == "Dask dashboard is not ready"


async def test_a_new_reason_is_a_new_version() -> None:
    last = PluginState(Phase.RUNNING, 0, "Dask dashboard is not ready")
    verdict = await phase_of(job_status("Running"), [pod(SCHEDULER, "scheduler")], last=last)
    assert (verdict.version, verdict.reason) == (1, "Dask dashboard is ready")


@pytest.mark.parametrize("status", [{"jobStatus": 3}, [], "x", {"endTime": "yesterday"}], ids=repr)
async def test_what_is_no_dask_job_is_refused(status: Any) -> None:
    with pytest.raises(DecodeError):
        await phase_of(status)


@pytest.mark.parametrize(("exit_code", "kind"), [(1, ErrorKind.USER), (137, ErrorKind.SYSTEM)])
async def test_a_runner_that_failed_fails_the_task_at_the_expense_of_who_ended_it(
    exit_code: int, kind: ErrorKind
) -> None:
    state = {"name": "job-runner", "state": {"terminated": {"exitCode": exit_code, "reason": "Error"}}}
    runner = pod(f"{JOB}-runner", "job-runner", phase="Failed", containerStatuses=[state])
    verdict = await phase_of(job_status("Running"), [runner])
    assert verdict.phase is Phase.RETRYABLE_FAILURE
    assert verdict.error is not None
    assert verdict.error.kind is kind
    assert (await phase_of(job_status("Successful"), [runner])).phase is Phase.SUCCESS
