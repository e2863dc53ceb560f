"""Runs tasks of type ``batch-job`` as ``batch/v1`` Jobs, whose pods the cluster itself starts again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObservedObject, Properties
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.podspec import build as podspec
from propfan.pluginmachinery.registry import KubernetesPluginEntry, SetupContext

JOB = Kind("batch", "v1", "Job", "jobs")


class BatchJobConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``plugins.batch-job``: how often a failed pod is started again."""

    backoff_limit: Annotated[int, msgspec.Meta(ge=0)] = 2


class Condition(msgspec.Struct, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    active: int = 0
    conditions: tuple[Condition, ...] = ()
    completion_time: datetime | None = None

    def true_condition(self, *types: str) -> Condition | None:
        return next((c for c in self.conditions if c.type in types and c.status == "True"), None)


class Job(msgspec.Struct, frozen=True):
    status: Status = Status()


class BatchJobPlugin:
    def __init__(self, setup: SetupContext) -> None:
        self._config = setup.section("batch-job", BatchJobConfig)
        self._pods = podspec.PodSpecBuilder(
            setup.k8s, setup.pod_templates, storage=setup.storage, process_env=setup.environment
        )

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> dict[str, Any]:
        return {"apiVersion": JOB.api_version, "kind": JOB.kind}

    async def build_resource(self, ctx: TaskContext) -> dict[str, Any]:
        pod = self._pods.to_pod_spec(await podspec.read_task(ctx))
        return self.build_identity_resource(ctx.metadata) | {
            "spec": {
                "backoffLimit": self._config.backoff_limit,
                "template": {"metadata": pod.metadata, "spec": pod.spec | {"restartPolicy": "Never"}},
            }
        }

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        status = _status(resource)
        if status.true_condition("Complete"):
            return phases.success(ctx.now)
        if failed := status.true_condition("Failed"):
            return phases.retryable_failure(failed.reason, failed.message, ctx.now)
        return phases.running(ctx.now, 0) if status.active else phases.queued(ctx.now, 0, "no pod runs yet")

    def get_properties(self) -> Properties:
        return Properties(generated_name_max_length=63)

    def is_terminal(self, resource: ObservedObject) -> bool:
        return _status(resource).true_condition("Complete", "Failed") is not None

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        return _status(resource).completion_time


def _status(resource: ObservedObject) -> Status:
    try:
        return msgspec.json.decode(resource.raw, type=Job).status
    except msgspec.ValidationError as error:
        raise DecodeError(str(resource), str(error)) from error


entry = KubernetesPluginEntry(id="batch-job", task_types=("batch-job",), watched=JOB, load=BatchJobPlugin)
