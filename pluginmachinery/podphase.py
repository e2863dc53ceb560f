"""The phase of a task from the state of its pod.

``PodPhases`` holds the rules for one configuration. They are pure: the same pod, time and last state always give
the same verdict, and ``PhaseInfo.recheck_at`` says how long it holds while the pod does not change.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from propfan._speedups import podphase, pods
from propfan.pluginmachinery.config import Duration, K8sConfig
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionId
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.loglinks import LinkPlan, LogLinks, LogsConfig
from propfan.pluginmachinery.names import dns1123_subdomain
from propfan.pluginmachinery.phases import (
    UNDEFINED,
    ContainerContext,
    ErrorKind,
    ExecutionError,
    LinkType,
    LogContext,
    Phase,
    PhaseInfo,
    PluginState,
    PodLogContext,
    TaskInfo,
)

ObservedPod = pods.ObservedPod

RESULTS: Final = podphase.Results(
    phases=tuple(Phase),
    user=ErrorKind.USER,
    system=ErrorKind.SYSTEM,
    ide=LinkType.IDE,
    phase_info=PhaseInfo,
    execution_error=ExecutionError,
    task_info=TaskInfo,
    log_context=LogContext,
    pod_log_context=PodLogContext,
    container_context=ContainerContext,
)


def decode_pod(raw: bytes, what: str, *, environment: bool = False) -> ObservedPod:
    """The part of a pod that its phase depends on.

    Args:
        raw: The whole pod as JSON.
        what: Names the pod in messages.
        environment: Whether to look for a debugger in its containers, for ``LogLinks.needs_environment``.

    Raises:
        DecodeError: it is no JSON, or a field is not what a Pod has there.
    """
    try:
        return pods.decode(raw, environment=environment)
    except msgspec.DecodeError as problem:
        raise DecodeError(what, str(problem)) from problem


def compact(resource: ObservedObject) -> ObservedObject:
    """The same pod without what its phase and links do not depend on, for keeping many.

    Raises:
        DecodeError: it is no pod.
    """
    pod = decode_pod(resource.raw, str(resource), environment=True)
    return msgspec.structs.replace(resource, raw=pods.encode(pod))


def primary_container_name(pod: ObservedPod) -> str:
    """The container that stands for the task: named by annotation, or like the pod, else the first, else ``""``."""
    return podphase.primary_container_name(pod)


def is_ready(pod: ObservedPod) -> bool:
    """Whether the primary container is ready; without one, whether the pod is."""
    return podphase.is_ready(pod)


def is_terminal(pod: ObservedPod) -> bool:
    return podphase.is_terminal(pod)


def completion_time(pod: ObservedPod) -> datetime | None:
    """The latest end of a container, now or before; else when the pod was deleted, started or created."""
    return podphase.completion_time(pod)


class PodPhases:
    """The rules for one configuration."""

    def __init__(self, k8s: K8sConfig | None = None, logs: LogsConfig | None = None) -> None:
        k8s = k8s or K8sConfig()
        self._links = LogLinks(logs or LogsConfig())
        self._rules = podphase.PodPhases(
            RESULTS,
            podphase.Limits(
                _at_least(k8s.create_container_error_grace_period),
                str(k8s.create_container_error_grace_period),
                _at_least(k8s.create_container_config_error_grace_period),
                str(k8s.create_container_config_error_grace_period),
                _at_least(k8s.image_pull_backoff_grace_period),
                str(k8s.image_pull_backoff_grace_period),
                _at_least(k8s.pod_pending_timeout) if k8s.pod_pending_timeout.nanoseconds > 0 else None,
            ),
            dns1123_subdomain,
        )

    def decode(self, resource: ObservedObject) -> ObservedPod:
        """Raises ``DecodeError``."""
        return decode_pod(resource.raw, str(resource), environment=self._links.needs_environment)

    def phase_of_task(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """The verdict on a task's own pod.

        Raises:
            DecodeError: the object is no pod.
        """
        return self.phase(
            self.decode(resource), self.plan(ctx), ctx.metadata.task_execution_id, ctx.now, ctx.plugin_state
        )

    def plan(self, ctx: TaskContext) -> LinkPlan:
        """The log links of a task's pod."""
        return self._links.plan_for(ctx)

    def phase(
        self,
        pod: ObservedPod,
        plan: LinkPlan,
        task_execution_id: TaskExecutionId | None,
        now: datetime,
        last: PluginState,
    ) -> PhaseInfo:
        """The verdict on a pod that was decoded with the environment, if the plan needs it."""
        logs = self._rules.logs(pod, plan, task_execution_id, now)
        info: PhaseInfo = self._rules.phase_info(pod, logs, now, last.phase, last.phase_version, last.reason)
        return info

    def pod_log_context(self, pod: ObservedPod) -> PodLogContext:
        """The pod and its containers, in the order of their statuses."""
        context: PodLogContext = self._rules.pod_log_context(pod)
        return context

    async def failed_or_pending(
        self, ctx: PluginContext, pod_name: str, primary: str, info: TaskInfo | None = None
    ) -> PhaseInfo:
        """The verdict on one pod of an operator's object, for failing before the operator notices.

        Args:
            pod_name: The pod is looked up among those of the task.
            primary: Name of the container whose kill is the system's fault.
            info: What the verdict on a failed pod carries; that on a pending one only knows since when.

        Returns:
            ``UNDEFINED`` when there is no such pod, or it is neither failed nor pending.

        Raises:
            DecodeError: it is no pod.
            ApiError: it can not be read now.
        """
        raw = await ctx.kubernetes.get_pod(pod_name)
        if raw is None:
            return UNDEFINED
        return self.judge(decode_pod(raw, f"Pod {ctx.metadata.namespace}/{pod_name}"), ctx.now, primary, info)

    def judge(self, pod: ObservedPod, now: datetime, primary: str, info: TaskInfo | None = None) -> PhaseInfo:
        """As ``failed_or_pending``, for a pod that is at hand."""
        status = pod.status
        if status is not None and status.phase == "Failed":
            verdict = self._rules.failed(status, primary)
            info = info or TaskInfo()
            if info.occurred_at is None:
                info = msgspec.structs.replace(info, occurred_at=now)
        elif status is not None and status.phase == "Pending":
            verdict = self._rules.pending(status, now)
            info = TaskInfo(occurred_at=verdict.since or now)
        else:
            return UNDEFINED
        return PhaseInfo(
            Phase(verdict.phase),
            verdict.version,
            verdict.reason,
            self._rules.error(verdict),
            info,
            verdict.cleanup,
            verdict.recheck_at,
        )


def _at_least(duration: Duration) -> timedelta:
    """The shortest time in microseconds, which is how fine times are here, that is not below ``duration``."""
    return timedelta(microseconds=-(-duration.nanoseconds // 1000))
