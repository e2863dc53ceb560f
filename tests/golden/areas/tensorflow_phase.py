"""From a Kubeflow job of TensorFlow to a phase.

The backend calls all pods but the workers' by names that the operator does not give them, links to one chief and one
evaluator at most, and tells neither container nor times of these.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flyteidl2.core import tasks_pb2

from propfan._speedups.links import rfc3339, unix_seconds
from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.loglinks import LogInput, LogLinks, LogsConfig
from propfan.plugins.kubeflow.tensorflow import entry
from tests.golden import comparison, inputs
from tests.golden.areas import job_differences, jobs
from tests.golden.areas.tasklog import log_outputs
from tests.golden.comparison import Difference

POD_NAMES: Final = "names of TensorFlow's pods"

_LOGS: Final = ".phase_info.info.logs"

run = jobs.phases(entry)


def compare(case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    found = job_differences.compare_phases(case, expected, actual)
    in_logs = [difference for difference in found if difference.path.startswith(_LOGS)]
    if not in_logs:
        return found
    backend, ours = ({"logs": _links(case, pods)} for pods in (_backend_pods(case), _pods(case)))
    shown = ({"logs": answer["phase_info"]["info"]["logs"]} for answer in (expected, actual))
    if any(comparison.compare(case, *pair) for pair in zip(shown, (backend, ours), strict=True)):
        return found
    return [*(d for d in found if d not in in_logs), *job_differences.caused(in_logs, POD_NAMES)]


def _links(case: Mapping[str, Any], pods: Iterator[LogInput]) -> list[dict[str, Any]]:
    config = decode_config(LogsConfig, inputs.section(case, "logs"), "plugins.logs")
    plan = LogLinks(config).plan(tasks_pb2.TaskTemplate.FromString(base64.b64decode(case["task_template"])))
    return log_outputs(tuple(link for pod in pods for link in plan.render(pod)))


def _backend_pods(case: Mapping[str, Any]) -> Iterator[LogInput]:
    for index in range(_replicas(case, "Worker")):
        yield _whole(case, f"worker-{index}")
    for index in range(_replicas(case, "PS")):
        yield _brief(case, f"psReplica-{index}")
    for role in ("Chief", "Evaluator"):
        if _replicas(case, role):
            yield _brief(case, f"{role.lower()}Replica-0")


def _pods(case: Mapping[str, Any]) -> Iterator[LogInput]:
    for role in ("Worker", "PS", "Chief", "Evaluator"):
        for index in range(_replicas(case, role)):
            yield _whole(case, f"{role.lower()}-{index}")


def _replicas(case: Mapping[str, Any], role: str) -> int:
    found: int = case["resource"]["spec"]["tfReplicaSpecs"].get(role, {}).get("replicas") or 0
    return found


def _brief(case: Mapping[str, Any], pod: str) -> LogInput:
    return LogInput(
        pod_name=f"{case['resource']['metadata']['name']}-{pod}",
        namespace=case["metadata"]["namespace"],
        task_execution_id=inputs.metadata(case).task_execution_id,
    )


def _whole(case: Mapping[str, Any], pod: str) -> LogInput:
    created, now = inputs.instant(case["resource"]["metadata"]["creationTimestamp"]), inputs.instant(case["now"])
    brief = _brief(case, pod)
    return LogInput(
        pod_name=brief.pod_name,
        namespace=brief.namespace,
        task_execution_id=brief.task_execution_id,
        container_name="tensorflow",
        pod_rfc3339_start_time=rfc3339(created),
        pod_rfc3339_finish_time=rfc3339(now),
        pod_unix_start_time=unix_seconds(created),
        pod_unix_finish_time=unix_seconds(now),
    )
