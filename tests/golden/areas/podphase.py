"""A Pod's status to a phase, with all that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.phases import ContainerContext, LogContext, PhaseInfo, PodLogContext, TaskInfo
from propfan.plugins.pod import PodPlugin
from tests.golden import inputs
from tests.golden.areas.tasklog import log_outputs


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    plugin = PodPlugin(
        decode_config(K8sConfig, inputs.section(case, "k8s"), "plugins.k8s"),
        decode_config(LogsConfig, inputs.section(case, "logs"), "plugins.logs"),
    )
    resource = inputs.observed(POD, case["resource"])
    return {
        "phase_info": phase_info_output(inputs.finish(plugin.get_task_phase(inputs.Context(case), resource))),
        "is_terminal": plugin.is_terminal(resource),
        "completion_time": inputs.time_text(plugin.get_completion_time(resource)),
    }


def phase_info_output(info: PhaseInfo, *, has_process: bool = True) -> dict[str, Any]:
    """The verdict; without ``has_process`` the containers of log contexts have only names."""
    error = info.error
    return {
        "phase": info.phase.wire_name,
        "version": info.version,
        "reason": info.reason,
        "cleanup_on_failure": info.cleanup_on_failure,
        "error": None if error is None else {"code": error.code, "kind": error.kind.value, "message": error.message},
        "info": None if info.info is None else _task_info_output(info.info, has_process=has_process),
    }


def _task_info_output(info: TaskInfo, *, has_process: bool) -> dict[str, Any]:
    context = info.log_context
    return {
        "occurred_at": inputs.time_text(info.occurred_at),
        "reported_at": inputs.time_text(info.reported_at),
        "logs": log_outputs(info.logs),
        "log_context": None if context is None else log_context_output(context, has_process=has_process),
        "custom_info": info.custom_info,
        "additional_reasons": list(info.additional_reasons),
        "external_resources": len(info.external_resources),
    }


def log_context_output(context: LogContext, *, has_process: bool = True) -> dict[str, Any]:
    """JSON of ``core.LogContext``: empty members are left out."""
    connector = {"endpoint": context.connector_endpoint} if context.connector_endpoint else None
    return _without_empty(
        {
            "pods": [_pod_output(pod, has_process=has_process) for pod in context.pods],
            "primary_pod_name": context.primary_pod_name,
            "connector": connector,
        }
    )


def _pod_output(pod: PodLogContext, *, has_process: bool) -> dict[str, Any]:
    return _without_empty(
        {
            "namespace": pod.namespace,
            "pod_name": pod.pod_name,
            "primary_container_name": pod.primary_container_name,
            "containers": [_container_output(c, has_process=has_process) for c in pod.containers],
            "init_containers": [_container_output(c, has_process=has_process) for c in pod.init_containers],
        }
    )


def _container_output(container: ContainerContext, *, has_process: bool) -> dict[str, Any]:
    process = {
        "container_start_time": _optional_time(container.container_start_time),
        "container_end_time": _optional_time(container.container_end_time),
    }
    name = _without_empty({"container_name": container.container_name})
    return {**name, "process": _without_empty(process)} if has_process else name


def _optional_time(when: datetime | None) -> str:
    return inputs.time_text(when) or ""


def _without_empty(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}
