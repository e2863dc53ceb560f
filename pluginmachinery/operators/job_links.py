"""The links of an operator's job, and how far what they lead to is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan._speedups import links
from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.loglinks import LinkPlan, LogInput
from propfan.pluginmachinery.names import dns1123_subdomain
from propfan.pluginmachinery.phases import LinkType, PhaseInfo, TaskLog

_TIMES: Final = 0b1111 << links.START_TIME
"""The slots that hold times, as bits."""

EDITOR_READY: Final = "Vscode server is ready"
EDITOR_NOT_READY: Final = "Vscode server is not ready"


def log_input(
    ctx: TaskContext, pod_name: str, *, variables: tuple[tuple[str, str], ...] = (), enable_vscode: bool = False
) -> LogInput:
    """What is known of the pod that stands for a job: neither its times nor its containers.

    Args:
        variables: The plugin's own, by the names that its templates use.
        enable_vscode: Whether a debugger runs in the pod.
    """
    return LogInput(
        pod_name=pod_name,
        namespace=ctx.metadata.namespace,
        task_execution_id=ctx.metadata.task_execution_id,
        extra_template_vars=variables,
        enable_vscode=enable_vscode,
    )


def link_values(ctx: TaskContext, pod_name: str, used: int) -> list[str]:
    """As ``log_input(ctx, pod_name).values()``, for plans that need the slots in ``used``."""
    values = [""] * links.COUNT
    metadata = ctx.metadata
    values[links.POD_NAME] = pod_name
    values[links.NAMESPACE] = metadata.namespace
    links.add_identity(values, used, metadata.task_execution_id, dns1123_subdomain)
    values[links.UNIX_START_TIME] = values[links.UNIX_FINISH_TIME] = "0"
    if "{" in "".join(values):  # it may bring a placeholder of any other value with it
        links.add_identity(values, links.ALL, metadata.task_execution_id, dns1123_subdomain)
    return values


class PodLinks:
    """The links of the pods of jobs, of which nothing but their names is known; their times are those of the job.

    Links without times are rendered once for the same pods of a job.

    Args:
        plan_for: The links of a task, e.g. ``PodPhases.plan``.
    """

    _KEPT: Final = 1024
    _PODS_KEPT: Final = 64

    def __init__(self, plan_for: Callable[[TaskContext], LinkPlan]) -> None:
        self._plan_for = plan_for
        self._known: dict[tuple[Any, ...], tuple[TaskLog, ...]] = {}

    def render(
        self, ctx: TaskContext, job: ObjectMeta, container: str, pods: tuple[tuple[str, str], ...]
    ) -> tuple[TaskLog, ...]:
        """The links, pod by pod.

        Args:
            container: Its name in each of the pods.
            pods: Name of each, and of its log.
        """
        plan = self._plan_for(ctx)
        if plan.used & _TIMES or not job.uid or len(pods) > self._PODS_KEPT:
            return _rendered(plan, ctx, job, container, pods)
        key = (job.uid, container, pods)
        found = self._known.get(key)
        if found is None:
            found = _rendered(plan, ctx, job, container, pods)
            if len(self._known) >= self._KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return found


def _rendered(
    plan: LinkPlan, ctx: TaskContext, job: ObjectMeta, container: str, pods: Iterable[tuple[str, str]]
) -> tuple[TaskLog, ...]:
    created_at = job.creation_timestamp
    values = [""] * links.COUNT
    values[links.NAMESPACE] = ctx.metadata.namespace
    values[links.CONTAINER_NAME] = container
    links.add_identity(values, plan.used, ctx.metadata.task_execution_id, dns1123_subdomain)
    if plan.used & _TIMES:
        _add_times(values, created_at, ctx.now)
    if "{" in "".join(values):  # it may bring a placeholder of any other value with it
        links.add_identity(values, links.ALL, ctx.metadata.task_execution_id, dns1123_subdomain)
        _add_times(values, created_at, ctx.now)
    found: list[TaskLog] = []
    for pod_name, log_name in pods:
        values[links.POD_NAME] = pod_name
        values[links.LOG_NAME] = log_name
        found += plan.render_values(values)
    return tuple(found)


def _add_times(values: list[str], created_at: datetime | None, now: datetime) -> None:
    values[links.START_TIME] = links.rfc3339(created_at)
    values[links.FINISH_TIME] = links.rfc3339(now)
    values[links.UNIX_START_TIME] = str(links.unix_seconds(created_at))
    values[links.UNIX_FINISH_TIME] = str(links.unix_seconds(now))


def flagged(logs: tuple[TaskLog, ...], *, ready: bool) -> tuple[TaskLog, ...]:
    """The links, those to dashboards and editors with their flag set."""
    return tuple(
        log if log.link_type is LinkType.EXTERNAL else msgspec.structs.replace(log, ready=ready) for log in logs
    )


def announce(info: PhaseInfo, logs: tuple[TaskLog, ...], *, dashboard: str, editor: str) -> PhaseInfo:
    """The verdict, with a reason appended for each link to a dashboard or an editor, in order."""
    texts = {LinkType.DASHBOARD: dashboard, LinkType.IDE: editor}
    reasons = [text for log in logs if (text := texts.get(log.link_type))]
    return info.with_reason(", ".join(reasons)) if reasons else info
