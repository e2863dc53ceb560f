"""The phase of a task from its RayJob, the pods of its cluster and the error that the task may have left."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.exit_codes import charge
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.loglinks import NO_LOGS, LogLinks
from propfan.pluginmachinery.operators import job_links, job_objects
from propfan.pluginmachinery.phases import LogContext, Phase, PhaseInfo, TaskInfo, TaskLog
from propfan.pluginmachinery.podphase import PodPhases, is_ready
from propfan.pluginmachinery.podspec.debugger import asks_for_debugger
from propfan.plugins.ray import observed
from propfan.plugins.ray.config import RayConfig
from propfan.plugins.ray.nodes import HEAD
from propfan.plugins.ray.observed import NO_STATUS, RayJob, RayJobWithSpec, Status

TASK_FAILED: Final = "TaskFailedWithError"

_OVER: Final = ("Complete", "Failed")
"""A job that did not pass validation may yet be changed."""

_OPERATOR_GAVE_UP: Final = "JobDeploymentStatusTransitionGracePeriodExceeded"
"""Reason of a job whose end KubeRay could not learn in time: nothing is known against the task."""

_STATUS: Final = job_objects.StatusDecoder(Status)
_FULL: Final = msgspec.json.Decoder(RayJobWithSpec)


class RayPhases:
    """The rules for one configuration."""

    def __init__(self, k8s: K8sConfig, config: RayConfig) -> None:
        self._pods = PodPhases(k8s, config.logs)
        self._links = LogLinks(config.logs)
        template = config.dashboard_url_template
        self._dashboard = None
        if template is not None:
            as_dashboard = msgspec.structs.replace(template, link_type="dashboard")
            self._dashboard = LogLinks(msgspec.structs.replace(NO_LOGS, templates=(as_dashboard,))).plan(None)

    async def phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """The verdict on a task's RayJob.

        Raises:
            DecodeError: the object is no RayJob, or what the operator made for it are no pods.
            TaskError: the operator says something that is not known here; without a code.
        """
        needs_spec = self._links.needs_environment
        job = job_objects.decode(_FULL, resource) if needs_spec else RayJob(_STATUS.decode(resource))
        status = job.status or NO_STATUS
        cluster = status.ray_cluster_name or ""
        pods = observed.pods_of(await ctx.kubernetes.list_pods())
        head = observed.head_pod(pods, cluster)
        logs = self._logs(ctx, job, status, f"{cluster}-head" if head is None else head.name)
        started = [pod for pod in pods if not pod.is_pending]
        heads = [pod for pod in started if pod.is_head_of(resource.metadata.name, cluster)]
        info = TaskInfo(
            occurred_at=ctx.now,
            logs=logs,
            log_context=LogContext(
                tuple(self._pods.pod_log_context(pod.pod) for pod in started), heads[-1].name if heads else ""
            ),
        )
        state = status.job_deployment_status
        if not state:
            return phases.queued(ctx.now, 0, "Scheduling", info)
        if head is not None and state != "Complete":  # a job that has succeeded is not failed by a head that goes
            verdict = charge(self._pods.judge(head.pod, ctx.now, HEAD, info), head.pod)
            if verdict.phase.is_failure:
                return verdict
        if state == "Suspending":
            return phases.queued(ctx.now, 0, "cluster is about to be suspended", info)
        if state == "Suspended":
            return phases.queued(ctx.now, 0, "cluster is suspended", info)
        verdict = await _of_state(ctx, resource, status, info)
        if len(heads) <= 1:
            verdict = _announced(verdict, logs, ready=bool(heads) and is_ready(heads[0].pod))
        return phases.bump_version_on_new_reason(verdict, ctx.plugin_state)

    def _logs(self, ctx: PluginContext, job: RayJob, status: Status, head: str) -> tuple[TaskLog, ...]:
        variables = []
        if status.job_id:
            variables.append(("rayJobID", status.job_id))
        if status.ray_cluster_name:
            variables.append(("rayClusterName", status.ray_cluster_name))
        debugged = isinstance(job, RayJobWithSpec) and asks_for_debugger(
            {"name": variable.name, "value": variable.value} for variable in job.head_environment()
        )
        given = job_links.log_input(ctx, head, variables=tuple(variables), enable_vscode=debugged)
        logs = self._links.plan_for(ctx, uses_config=False).render(given)
        if self._dashboard is not None and status.job_status == "RUNNING" and status.dashboard_url:
            logs += self._dashboard.render(given)
        return logs


async def _of_state(ctx: PluginContext, resource: ObservedObject, status: Status, info: TaskInfo) -> PhaseInfo:
    match status.job_deployment_status:
        case "Initializing":
            return phases.initializing(ctx.now, 0, "cluster is creating", info)
        case "Retrying":
            return phases.initializing(ctx.now, 0, "job is retried with another cluster", info)
        case "Waiting":
            return phases.initializing(ctx.now, 0, "cluster waits for a job to be submitted", info)
        case "Running":
            return phases.running(ctx.now, 0, info)
        case "Complete":
            return phases.success(ctx.now, info)
        case "Failed":
            return await _failure(ctx, resource, status, info)
        case "ValidationFailed":
            return phases.failure(TASK_FAILED, _message(resource, status), ctx.now, info, cleanup=True)
        case state:
            raise TaskError("", f"unknown job deployment status: {state}")


async def _failure(ctx: PluginContext, resource: ObservedObject, status: Status, info: TaskInfo) -> PhaseInfo:
    """What the task says of its own error decides whether it is worth another attempt."""
    message = _message(resource, status)
    document = await ctx.outputs.read_error()
    if document is not None and document.is_recoverable:
        return phases.retryable_failure(TASK_FAILED, message, ctx.now, info)
    if document is None and status.reason == _OPERATOR_GAVE_UP:
        return phases.system_retryable_failure(TASK_FAILED, message, ctx.now, info, cleanup=True)
    return phases.failure(TASK_FAILED, message, ctx.now, info)


def _message(resource: ObservedObject, status: Status) -> str:
    name = resource.metadata.name
    return f"Failed to run Ray job {name} with error: [{status.reason or ''}] {status.message or ''}"


def _announced(verdict: PhaseInfo, logs: tuple[TaskLog, ...], *, ready: bool) -> PhaseInfo:
    """The verdict with links flagged as ready or not, and that said in its reason."""
    if not logs:
        return verdict
    info = verdict.info or TaskInfo()
    verdict = msgspec.structs.replace(
        verdict, info=msgspec.structs.replace(info, logs=job_links.flagged(logs, ready=ready))
    )
    is_up = ready and verdict.phase >= Phase.RUNNING
    is_editing = ready and verdict.phase is Phase.RUNNING
    return job_links.announce(
        verdict,
        logs,
        dashboard="Ray dashboard is ready" if is_up else "Ray dashboard is not ready",
        editor=job_links.EDITOR_READY if is_editing else job_links.EDITOR_NOT_READY,
    )


def is_terminal(resource: ObservedObject) -> bool:
    """Raises ``DecodeError`` for an object that is no RayJob."""
    return _status(resource).job_deployment_status in _OVER


def completion_time(resource: ObservedObject) -> datetime | None:
    """When the job ended, else began, else was created. Raises ``DecodeError``."""
    status = _status(resource)
    return status.end_time or status.start_time or resource.metadata.creation_timestamp


def _status(resource: ObservedObject) -> Status:
    return _STATUS.decode(resource) or NO_STATUS
