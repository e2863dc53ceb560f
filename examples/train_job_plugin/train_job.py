"""Runs tasks of type ``train-job`` as TrainJobs of Kubeflow Trainer 2, whose runtimes know how to train on many nodes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.operators.conditions import Condition, first_true
from propfan.pluginmachinery.operators.custom import decode_struct
from propfan.pluginmachinery.operators.job_objects import NO_METADATA, decode, identity, pod_spec_builder, render
from propfan.pluginmachinery.phases import PhaseInfo, TaskInfo
from propfan.pluginmachinery.podspec.build import read_task
from propfan.pluginmachinery.registry import KubernetesPluginEntry, SetupContext

TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "TrainJob", "trainjobs")


class TrainJobConfig(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """Section ``plugins.train-job``: the ClusterTrainingRuntime of tasks that name none."""

    runtime: str = "torch-distributed"


class Wanted(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """``custom`` of a task."""

    runtime: str = ""
    num_nodes: Annotated[int, msgspec.Meta(ge=1)] = 1


class JobStatus(msgspec.Struct, frozen=True, rename="camel"):
    """Of the Jobs that a TrainJob becomes, one for each role of its runtime."""

    name: str = ""
    ready: int = 0
    active: int = 0


class Status(msgspec.Struct, frozen=True, rename="camel"):
    conditions: tuple[Condition, ...] = ()
    jobs_status: tuple[JobStatus, ...] = ()


class TrainJob(msgspec.Struct, frozen=True):
    status: Status = Status()


DECODER = msgspec.json.Decoder(TrainJob)


class TrainJobPlugin:
    def __init__(self, setup: SetupContext) -> None:
        self._config = setup.section("train-job", TrainJobConfig)
        self._pods = pod_spec_builder(setup)

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return identity(TRAIN_JOB)

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        wanted = decode_struct(ctx.template, Wanted)
        container = self._pods.to_container(await read_task(ctx))
        trainer: dict[str, Any] = {
            name: container[name] for name in ("image", "command", "args", "env") if name in container
        }
        trainer |= {"numNodes": wanted.num_nodes, "resourcesPerNode": container["resources"]}
        spec = {"runtimeRef": {"name": wanted.runtime or self._config.runtime}, "trainer": trainer}
        return render(TRAIN_JOB, NO_METADATA, spec)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        status = decode(DECODER, resource).status
        info = TaskInfo(ctx.now, custom_info={"jobs": msgspec.to_builtins(status.jobs_status)})
        if first_true(status.conditions, "Complete"):
            return phases.success(ctx.now, info)
        if failed := first_true(status.conditions, "Failed"):
            return phases.retryable_failure(failed.reason, failed.message, ctx.now, info)
        if first_true(status.conditions, "Suspended"):
            return phases.queued(ctx.now, 0, "TrainJob is suspended", info)
        if any(job.ready for job in status.jobs_status):
            return phases.running(ctx.now, 0, info)
        return phases.initializing(ctx.now, 0, "no node is ready yet", info)

    def get_properties(self) -> Properties:
        return Properties(generated_name_max_length=41)

    def is_terminal(self, resource: ObservedObject) -> bool:
        return first_true(decode(DECODER, resource).status.conditions, "Complete", "Failed") is not None

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        end = first_true(decode(DECODER, resource).status.conditions, "Complete", "Failed")
        return end.last_transition_time if end else None


entry = KubernetesPluginEntry(id="train-job", task_types=("train-job",), watched=TRAIN_JOB, load=TrainJobPlugin)
