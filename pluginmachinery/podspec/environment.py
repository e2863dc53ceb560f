"""Environment variables that every task container gets.

Nothing is de-duplicated: of a name that occurs twice Kubernetes takes the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import TaskExecutionId

LINK_TYPE: Final = "link_type"
"""Key of the task's configuration that asks for the URL of its execution in the container."""

_POD_NAME: Final = {"name": "_F_PN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value} if value else {"name": name}


def variables(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """One variable for each entry, sorted by name."""
    return [{"name": name, "value": values[name]} if values[name] else {"name": name} for name in sorted(values)]


def of_execution(execution_id: TaskExecutionId, console_url: str, config: Iterable[str]) -> list[dict[str, Any]]:
    """What identifies the attempt; empty when its identifier is not complete.

    Args:
        config: Keys of the task template's configuration.
    """
    identifier = execution_id.id
    node = identifier.node_execution_id
    run = None if node is None else node.execution_id
    if run is None:
        return []
    found: list[dict[str, Any]] = [
        {"name": "FLYTE_INTERNAL_EXECUTION_ID", "value": run.name},
        {"name": "FLYTE_INTERNAL_EXECUTION_PROJECT", "value": run.project},
        {"name": "FLYTE_INTERNAL_EXECUTION_DOMAIN", "value": run.domain},
        _POD_NAME,
        {"name": "FLYTE_ATTEMPT_NUMBER", "value": str(identifier.retry_attempt)},
    ]
    values = [run.name, run.project, run.domain]
    if console_url and LINK_TYPE in config:
        url = (
            f"{console_url.rstrip('/')}/projects/{run.project}/domains/{run.domain}/executions/{run.name}"
            f"/nodeId/{execution_id.unique_node_id}/nodes"
        )
        found.append({"name": "FLYTE_EXECUTION_URL", "value": url})
    if (task := identifier.task_id) is not None:
        project, domain, name, version = task.project, task.domain, task.name, task.version
        values += (project, domain, name, version)
        found += (
            {"name": "FLYTE_INTERNAL_TASK_PROJECT", "value": project},
            {"name": "FLYTE_INTERNAL_TASK_DOMAIN", "value": domain},
            {"name": "FLYTE_INTERNAL_TASK_NAME", "value": name},
            {"name": "FLYTE_INTERNAL_TASK_VERSION", "value": version},
            {"name": "FLYTE_INTERNAL_PROJECT", "value": project},
            {"name": "FLYTE_INTERNAL_DOMAIN", "value": domain},
            {"name": "FLYTE_INTERNAL_NAME", "value": name},
            {"name": "FLYTE_INTERNAL_VERSION", "value": version},
        )
    if "" in values:
        return [{"name": v["name"]} if v.get("value") == "" else v for v in found]
    return found


def of_platform(k8s: K8sConfig, process_env: Mapping[str, str]) -> list[dict[str, Any]]:
    """What configuration adds, in the end and therefore with the last word."""
    copied = {name: process_env.get(source, "") for name, source in k8s.default_env_vars_from_env.items()}
    return variables(k8s.default_env_vars) + variables(copied)


def sources(k8s: K8sConfig) -> list[dict[str, Any]]:
    """``envFrom`` of every task container: secrets, then config maps, each of which may be missing."""

    def source(kind: str, name: str) -> dict[str, Any]:
        return {kind: {"name": name, "optional": True} if name else {"optional": True}}

    return [source("secretRef", name) for name in k8s.default_env_from_secrets] + [
        source("configMapRef", name) for name in k8s.default_env_from_configmaps
    ]
