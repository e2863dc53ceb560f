"""What a JobSet's status and pods mean for its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.phases import ErrorKind, Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.builders import NOW, observed
from propfan.plugins.clustered import ClusteredPlugin, entry
from tests.unit.plugins.clustered import job_sets
from tests.unit.plugins.clustered.job_sets import condition, pod, status, unpullable

pytestmark = pytest.mark.anyio

RANK_0 = "r1-a0-0-workers-0-0-abcde"
INTERRUPTED = pod(RANK_0, "Failed", reason="Shutdown", message="node is going")
CRASHED = pod(
    RANK_0,
    "Failed",
    containerStatuses=[{"name": "main", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}],
)


def job_set(
    told: Mapping[str, Any], *, max_restarts: int | None = 3, ranks: int = 2, annotation: str = "main"
) -> ObservedObject:
    spec: dict[str, Any] = {"replicatedJobs": [{"name": "workers", "template": {"spec": {"parallelism": ranks}}}]}
    if max_restarts is not None:
        spec["failurePolicy"] = {"maxRestarts": max_restarts}
    metadata = {"annotations": {"flyte.org/primary-container": annotation}}
    return observed(entry.watched, {"metadata": metadata, "spec": spec, "status": told})


async def phase_of(
    resource: ObservedObject,
    *pods: Mapping[str, Any],
    template: tasks_pb2.TaskTemplate = job_sets.TASK,
    state: PluginState | None = None,
    **config: bool,
) -> PhaseInfo:
    sections = {"clustered-task": {name.replace("_", "-"): value for name, value in config.items()}}
    ctx = FakeTaskContext(template, pods=pods, plugin_state=state or PluginState())
    return await ClusteredPlugin(setup_context(sections=sections)).get_task_phase(ctx, resource)


def pods_of_links(info: PhaseInfo) -> Sequence[str]:
    assert info.info is not None
    return [log.uri.split("/pod?")[0].rpartition("/")[2] for log in info.info.logs]


async def test_before_the_first_pod_it_initialises_and_afterwards_never_again() -> None:
    fresh = job_set(status())
    info = await phase_of(fresh)
    assert (info.phase, info.reason) == (Phase.INITIALIZING, "pods scheduling / DNS resolving")
    between = await phase_of(fresh, state=PluginState(Phase.RUNNING, 0, "running (restart attempt 0)"))
    assert between.phase is Phase.RUNNING


async def test_a_restart_is_a_new_version() -> None:
    state = PluginState(Phase.RUNNING, 0, "running (restart attempt 0)")
    info = await phase_of(job_set(status(restarts=1)), state=state)
    assert (info.phase, info.version, info.reason) == (Phase.RUNNING, 1, "running (restart attempt 1)")


async def test_a_suspended_job_set_waits() -> None:
    told = status(condition("Completed", is_true=False), condition("Suspended"), suspended=2)
    info = await phase_of(job_set(told), state=PluginState(Phase.RUNNING, 1, "running (restart attempt 0)"))
    assert (info.phase, info.reason) == (Phase.QUEUED, "JobSet is suspended")


async def test_failures_count_only_when_no_restart_is_left() -> None:
    assert (await phase_of(job_set(status(failed=1, restarts=2)), CRASHED)).phase is Phase.RUNNING
    assert (await phase_of(job_set(status(active=1, restarts=3)), CRASHED)).phase is Phase.RUNNING
    info = await phase_of(job_set(status(failed=1, restarts=3)), CRASHED)
    assert (info.phase, info.error and info.error.kind) == (Phase.RETRYABLE_FAILURE, ErrorKind.USER)


async def test_without_a_policy_the_tasks_own_number_of_restarts_counts() -> None:
    told = status(failed=1, restarts=2)
    assert (await phase_of(job_set(told, max_restarts=None), CRASHED)).phase is Phase.RUNNING
    one = job_sets.task(replicas=1, nprocPerNode=1, failurePolicy={"maxRestarts": 2})
    assert (await phase_of(job_set(told, max_restarts=None), CRASHED, template=one)).phase.is_failure


async def test_a_failure_during_a_restart_does_not_count() -> None:
    told = status(condition("RestartingJobSet"), failed=1, restarts=3)
    info = await phase_of(job_set(told), CRASHED)
    assert (info.phase, info.reason) == (Phase.RUNNING, "restart in progress (attempt 3)")


async def test_rank_0_that_can_not_start_fails_the_task_after_its_grace() -> None:
    resource = job_set(status(active=2))
    info = await phase_of(resource, unpullable(RANK_0, 170.0))
    assert (info.phase, info.recheck_at) == (Phase.RUNNING, NOW + timedelta(seconds=10))
    info = await phase_of(resource, unpullable(RANK_0, 180.0))
    assert (info.phase, info.cleanup_on_failure) == (Phase.RETRYABLE_FAILURE, True)


@pytest.mark.parametrize(("code", "kind"), [("HostMaintenance", ErrorKind.SYSTEM), ("FailedJobs", ErrorKind.USER)])
async def test_the_system_pays_for_host_maintenance_when_the_task_asks_for_it(code: str, kind: ErrorKind) -> None:
    failed = job_set(status(condition("Failed", reason="FailedJobs", message="x"), failed=1))
    task = job_sets.task(
        replicas=2, nprocPerNode=1, failurePolicy={"restartOnHostMaintenance": kind is ErrorKind.SYSTEM}
    )
    info = await phase_of(failed, INTERRUPTED, template=task)
    assert info.error is not None
    assert (info.error.code, info.error.kind) == (code, kind)
    assert info.cleanup_on_failure is (kind is ErrorKind.SYSTEM)


async def test_a_crash_is_no_host_maintenance() -> None:
    failed = job_set(status(condition("Failed", reason="FailedJobs", message="x"), failed=1))
    task = job_sets.task(replicas=2, nprocPerNode=1, failurePolicy={"restartOnHostMaintenance": True})
    info = await phase_of(failed, CRASHED, template=task)
    assert (info.phase, info.error and info.error.code) == (Phase.RETRYABLE_FAILURE, "FailedJobs")


async def test_links_lead_to_the_pods_there_are() -> None:
    old = pod("r1-a0-0-workers-0-1-aaaaa", "Failed", created_at=NOW)
    new = pod("r1-a0-0-workers-0-1-bbbbb", "Running", created_at=NOW - timedelta(minutes=9))
    tenth = pod("r1-a0-0-workers-0-10-ccccc")
    info = await phase_of(job_set(status(active=3), ranks=3), old, new, tenth)
    assert pods_of_links(info) == [
        "r1-a0-0-workers-0-0",
        "r1-a0-0-workers-0-1-bbbbb",
        "r1-a0-0-workers-0-2",
    ]


async def test_links_may_name_what_stays_the_same_after_a_restart() -> None:
    info = await phase_of(job_set(status(active=1), ranks=1), pod(RANK_0), exact_pod_names=False)
    assert pods_of_links(info) == ["r1-a0-0-workers-0-0"]


async def test_rank_0_stands_for_the_task() -> None:
    pods = [pod("r1-a0-0-workers-0-1-zzzzz"), pod(RANK_0), pod("r1-a0-1-workers-0-0-other"), pod("x", "Pending")]
    info = await phase_of(job_set(status(active=2)), *pods)
    assert info.info is not None
    assert info.info.log_context is not None
    assert info.info.log_context.primary_pod_name == RANK_0
    assert [p.pod_name for p in info.info.log_context.pods] == ["r1-a0-0-workers-0-1-zzzzz", RANK_0]
    assert {p.primary_container_name for p in info.info.log_context.pods} == {"main"}


def test_completion_time_is_that_of_the_end() -> None:
    plugin = ClusteredPlugin(setup_context())
    over = job_set(status(condition("Failed", is_true=False), condition("Completed")))
    assert plugin.get_completion_time(over) == job_sets.MINUTE_AGO
    assert plugin.get_completion_time(job_set(status())) == NOW
