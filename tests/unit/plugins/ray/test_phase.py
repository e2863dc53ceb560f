"""Phases of RayJobs: what the vectors do not hold, or where propfan knows more than the backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from propfan.pluginmachinery.contexts import ExecutionErrorDocument
from propfan.pluginmachinery.errors import DecodeError, TaskError
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, LinkType, Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.testing import FakeTaskContext, observed
from propfan.plugins.ray.build import RAY_JOB
from tests.unit.plugins.ray.tasks import CLUSTER, JOB, job_status, pod, ray_plugin, ray_task

pytestmark = pytest.mark.anyio

LINKS: dict[str, Any] = {
    "logs": {"templates": [{"displayName": "Head", "templateUris": ["https://logs/{{.podName}}"]}]},
    "dashboardURLTemplate": {
        "displayName": "Dashboard",
        "templateUris": ["https://ray/{{.rayClusterName}}/{{.rayJobID}}"],
    },
}
HEAD = pod(f"{CLUSTER}-head-abcde", "head")


async def phase_of(
    status: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]] = (),
    *,
    document: ExecutionErrorDocument | None = None,
    last: PluginState | None = None,
    **section: Any,
) -> PhaseInfo:
    ctx = FakeTaskContext(ray_task(), pods=pods, plugin_state=last or PluginState())
    if document is not None:
        await ctx.output_writer.put_error(document)
    return await ray_plugin(**section).get_job_phase(ctx, observed(RAY_JOB, {"status": status}, name=JOB))


def image_pull_error(message: str = "no such image") -> dict[str, Any]:
    waiting = {"name": "ray-head", "state": {"waiting": {"reason": "InvalidImageName", "message": message}}}
    condition = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "not ready"}
    return {"phase": "Pending", "conditions": [condition], "containerStatuses": [waiting]}


@pytest.mark.parametrize("name", [f"{CLUSTER}-head", f"{CLUSTER}-head-abcde"], ids=["deterministic", "random"])
async def test_a_head_that_can_not_start_fails_the_task(name: str) -> None:
    node_type = "" if name.endswith("head") else "head"
    verdict = await phase_of(job_status("Initializing"), [pod(name, node_type, **image_pull_error())])
    assert verdict.phase is Phase.PERMANENT_FAILURE
    assert verdict.error is not None
    assert verdict.error.code == "ContainersNotReady|InvalidImageName"
    assert verdict.cleanup_on_failure


async def test_workers_and_heads_of_other_clusters_are_no_heads_of_this_one() -> None:
    others = [
        pod(f"{CLUSTER}-w-worker-abcde", "worker", **image_pull_error()),
        pod("r1-a0-0-other-head-abcde", "head", cluster="r1-a0-0-other", **image_pull_error()),
    ]
    verdict = await phase_of(job_status(), others, **LINKS)
    assert verdict.phase is Phase.RUNNING
    assert "Ray dashboard is not ready" in verdict.reason


async def test_links_lead_to_the_real_head_and_tell_whether_it_is_ready() -> None:
    for ready in (True, False):
        verdict = await phase_of(job_status(), [pod(f"{CLUSTER}-head-abcde", "head", ready=ready)], **LINKS)
        assert verdict.info is not None
        logs, dashboard = verdict.info.logs
        assert logs.uri == f"https://logs/{CLUSTER}-head-abcde"
        assert (dashboard.uri, dashboard.link_type) == (f"https://ray/{CLUSTER}/job-1", LinkType.DASHBOARD)
        assert dashboard.ready is ready
        assert verdict.reason == f"Ray dashboard is {'' if ready else 'not '}ready"


async def test_the_latest_head_counts_when_one_was_replaced() -> None:
    old, new = (pod(f"{CLUSTER}-head-{name}", "head") for name in ("old", "new"))
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    new["metadata"]["creationTimestamp"] = "2026-01-01T00:05:00Z"
    for pods in ([old, new], [new, old]):
        verdict = await phase_of(job_status(), pods, **LINKS)
        assert verdict.info is not None
        assert verdict.info.logs[0].uri.endswith("-head-new")


@pytest.mark.parametrize(
    "changes", [{"jobStatus": "PENDING"}, {"jobStatus": None}, {"dashboardURL": ""}, {"dashboardURL": None}], ids=repr
)
async def test_no_dashboard_before_the_job_runs(changes: dict[str, Any]) -> None:
    verdict = await phase_of(job_status(**changes), [HEAD], **LINKS)
    assert verdict.info is not None
    assert [log.name for log in verdict.info.logs] == ["Head"]


async def test_pods_of_the_cluster_are_in_the_log_context_once_they_have_started() -> None:
    pods = [HEAD, pod(f"{CLUSTER}-w-worker-a", "worker"), pod(f"{CLUSTER}-w-worker-b", "worker", phase="Pending")]
    verdict = await phase_of(job_status(), pods)
    assert verdict.info is not None
    context = verdict.info.log_context
    assert context is not None
    assert context.primary_pod_name == f"{CLUSTER}-head-abcde"
    assert [each.pod_name for each in context.pods] == [f"{CLUSTER}-head-abcde", f"{CLUSTER}-w-worker-a"]


@pytest.mark.parametrize("state", ["Retrying", "Waiting"])
async def test_states_of_newer_operators_are_shown(state: str) -> None:
    verdict = await phase_of(job_status(state))
    assert verdict.phase is Phase.INITIALIZING
    assert verdict.reason


async def test_a_job_that_the_operator_refuses_fails_with_its_words() -> None:
    status = job_status("ValidationFailed", reason="ValidationFailed", message="name should be a valid DNS1035 label")
    verdict = await phase_of(status)
    assert verdict.phase is Phase.PERMANENT_FAILURE
    assert verdict.error is not None
    assert verdict.error.message.endswith("with error: [ValidationFailed] name should be a valid DNS1035 label")
    assert verdict.cleanup_on_failure, "it would be there for ever"


async def test_a_state_that_nobody_knows_is_an_error_with_its_name() -> None:
    with pytest.raises(TaskError, match=r"^unknown job deployment status: Dreaming$"):
        await phase_of(job_status("Dreaming"))


@pytest.mark.parametrize(
    ("document", "reason", "phase", "kind"),
    [
        (None, "AppFailed", Phase.PERMANENT_FAILURE, ErrorKind.USER),
        (False, "AppFailed", Phase.PERMANENT_FAILURE, ErrorKind.USER),
        (True, "AppFailed", Phase.RETRYABLE_FAILURE, ErrorKind.USER),
        (None, "JobDeploymentStatusTransitionGracePeriodExceeded", Phase.RETRYABLE_FAILURE, ErrorKind.SYSTEM),
        (False, "JobDeploymentStatusTransitionGracePeriodExceeded", Phase.PERMANENT_FAILURE, ErrorKind.USER),
    ],
)
async def test_what_the_task_left_decides_on_retries(
    reason: str, phase: Phase, kind: ErrorKind, *, document: bool | None
) -> None:
    left = None
    if document is not None:
        left = ExecutionErrorDocument(ExecutionError("ValueError", "x"), is_recoverable=document)
    verdict = await phase_of(job_status("Failed", reason=reason, message="m"), document=left)
    assert verdict.error is not None
    assert (verdict.phase, verdict.error.kind) == (phase, kind)
    assert verdict.error.message == f"Failed to run Ray job {JOB} with error: [{reason}] m"


async def test_a_new_reason_is_a_new_version() -> None:
    last = PluginState(Phase.RUNNING, 0, "Ray dashboard is not ready")
    verdict = await phase_of(job_status(), [HEAD], last=last, **LINKS)
    assert (verdict.version, verdict.reason) == (1, "Ray dashboard is ready")


@pytest.mark.parametrize("status", [{"jobDeploymentStatus": 3}, [], "x", {"startTime": "yesterday"}])
async def test_what_is_no_ray_job_is_refused(status: Any) -> None:
    with pytest.raises(DecodeError):
        await phase_of(status)


async def test_what_is_no_pod_is_refused() -> None:
    with pytest.raises(DecodeError):
        await phase_of(job_status(), [{"metadata": {"name": "x", "labels": {"ray.io/node-type": 3}}}])


def ended(exit_code: int) -> dict[str, Any]:
    terminated = {"exitCode": exit_code, "reason": "Error"}
    return {"phase": "Failed", "containerStatuses": [{"name": "ray-head", "state": {"terminated": terminated}}]}


@pytest.mark.parametrize(("exit_code", "kind"), [(1, ErrorKind.USER), (137, ErrorKind.SYSTEM)])
async def test_a_head_that_failed_fails_the_task_at_the_expense_of_who_ended_it(
    exit_code: int, kind: ErrorKind
) -> None:
    verdict = await phase_of(job_status(), [pod(f"{CLUSTER}-head-abcde", "head", **ended(exit_code))])
    assert verdict.phase is Phase.RETRYABLE_FAILURE
    assert verdict.error is not None
    assert verdict.error.kind is kind


async def test_a_job_that_has_succeeded_is_not_failed_by_its_head() -> None:
    verdict = await phase_of(job_status("Complete"), [pod(f"{CLUSTER}-head-abcde", "head", **ended(137))])
    assert verdict.phase is Phase.SUCCESS
