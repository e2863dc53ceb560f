"""Log links."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.loglinks import LogInput, LogLinks, LogsConfig
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog
from tests.golden import inputs


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    section = {**inputs.defaults()["config"]["logs"], **case["log_config"]}
    identity, template = case["task_execution_id"], case["task_template"]
    given = LogInput(
        host_name=case["host_name"],
        pod_name=case["pod_name"],
        namespace=case["namespace"],
        container_name=case["container_name"],
        container_id=case["container_id"],
        log_name=case["log_name"],
        pod_rfc3339_start_time=case["pod_rfc3339_start_time"],
        pod_rfc3339_finish_time=case["pod_rfc3339_finish_time"],
        pod_unix_start_time=case["pod_unix_start_time"],
        pod_unix_finish_time=case["pod_unix_finish_time"],
        pod_uid=case["pod_uid"],
        task_execution_id=None if identity is None else inputs.task_execution_id(identity),
        extra_template_vars=tuple((name, value) for name, value in case["extra_template_vars"] or ()),
        enable_vscode=case["enable_vscode"],
        agent_id=case["agent_id"],
        connector_id=case["connector_id"],
    )
    task = None if template is None else tasks_pb2.TaskTemplate.FromString(base64.b64decode(template))
    plan = LogLinks(decode_config(LogsConfig, section, "plugins.logs")).plan(task)
    return {"logs": log_outputs(plan.render(given))}


def log_outputs(logs: Iterable[TaskLog]) -> list[dict[str, Any]]:
    """JSON of ``core.TaskLog``: default values are left out."""
    return [_log_output(log) for log in logs]


def _log_output(log: TaskLog) -> dict[str, Any]:
    members = {
        "uri": log.uri,
        "name": log.name,
        "message_format": log.message_format.name if log.message_format is not MessageFormat.UNKNOWN else "",
        "ShowWhilePending": log.show_while_pending,
        "HideOnceFinished": log.hide_once_finished,
        "link_type": log.link_type.name if log.link_type is not LinkType.EXTERNAL else "",
        "ready": log.ready,
        "icon_uri": log.icon_uri,
    }
    return {name: value for name, value in members.items() if value}
