"""The links of an operator's job, and how far what they lead to is ready."""

from __future__ import annotations

from typing import Final

import msgspec

from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.loglinks import LogInput
from propfan.pluginmachinery.phases import LinkType, PhaseInfo, TaskLog

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
