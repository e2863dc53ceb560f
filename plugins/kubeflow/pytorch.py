"""Tasks of type ``pytorch`` as ``PyTorchJob`` objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from flyteidl2.plugins import pytorch_pb2
from flyteidl2.plugins.kubeflow import pytorch_pb2 as kubeflow_pb2

from propfan.pluginmachinery import exit_codes
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.entries import KubernetesPluginEntry
from propfan.pluginmachinery.kubernetes_plugin import RenderedObject
from propfan.pluginmachinery.operators.conditions import Condition
from propfan.pluginmachinery.operators.custom import decode_custom
from propfan.pluginmachinery.operators.job_objects import object_meta, render
from propfan.pluginmachinery.phases import LogContext, PhaseInfo, TaskInfo
from propfan.pluginmachinery.podphase import ObservedPod
from propfan.plugins.kubeflow import jobs, replicas
from propfan.plugins.kubeflow.jobs import Job
from propfan.plugins.kubeflow.plugin import KubeflowPlugin

if TYPE_CHECKING:
    from propfan.pluginmachinery.podspec.build import PodTask

MASTER = "Master"
WORKER = "Worker"


class PyTorchPlugin(KubeflowPlugin):
    """One master and workers, or, where the task is elastic, workers alone, which ``torchrun`` lets meet."""

    framework = "pytorch"
    kind = jobs.PYTORCH_JOB
    primary_pods = ("worker-0",)

    def render(self, task: PodTask) -> RenderedObject:
        match task.template.task_type_version:
            case 0:
                spec = self._first_version(task)
            case 1:
                spec = self._second_version(task)
            case version:
                raise replicas.unsupported(version)
        return render(self.kind, object_meta(self._replicas.pod(task).metadata), spec)

    def _first_version(self, task: PodTask) -> dict[str, Any]:
        message = decode_custom(task.template, pytorch_pb2.DistributedPyTorchTrainingTask)
        with replicas.refused(replicas.NO_SPEC):
            template = self._replicas.template(task)
        roles = {
            MASTER: replicas.replica_spec(1, template),
            WORKER: replicas.replica_spec(message.workers, template),
        }
        return _spec(roles, {}, message.elastic_config if message.HasField("elastic_config") else None)

    def _second_version(self, task: PodTask) -> dict[str, Any]:
        message = decode_custom(task.template, kubeflow_pb2.DistributedPyTorchTrainingTask)
        master = msgspec.structs.replace(replicas.role_of(message.master_replicas), replicas=1)
        worker = replicas.role_of(message.worker_replicas)
        roles = {
            MASTER: self._replicas.spec(task, master, "Unable to create master replica spec"),
            WORKER: self._replicas.spec(task, worker, "Unable to create worker replica spec"),
        }
        policy = replicas.run_policy(message.run_policy if message.HasField("run_policy") else None)
        return _spec(roles, policy, message.elastic_config if message.HasField("elastic_config") else None)

    def logged_pods(self, job: Job) -> Iterator[tuple[str, str]]:
        if job.has(MASTER):
            yield "master-0", "master"
        for index in range(job.replicas(WORKER)):
            yield f"worker-{index}", ""

    def _log_context(self, name: str, pods: Sequence[ObservedPod]) -> LogContext:
        return super()._log_context(name, pods) or LogContext()

    def _early_verdicts(
        self,
        ctx: PluginContext,
        name: str,
        pods: Sequence[ObservedPod],
        condition: Condition | None,
        info: TaskInfo,
    ) -> Iterator[PhaseInfo]:
        """The verdict on the first worker, also when it has failed, unless the job has succeeded without it."""
        if condition is not None and condition.type == jobs.SUCCEEDED:
            return
        for pod in pods:
            metadata = pod.metadata
            if (metadata.namespace, metadata.name) == (ctx.metadata.namespace, f"{name}-worker-0"):
                yield exit_codes.charge(self._phases.judge(pod, ctx.now, self.framework, info), pod)


def _spec(
    roles: dict[str, Any],
    run_policy: dict[str, Any],
    elastic: pytorch_pb2.ElasticConfig | kubeflow_pb2.ElasticConfig | None,
) -> dict[str, Any]:
    """The job's spec; an elastic job has no master.

    Raises:
        PermanentError: there are no workers; without a code.
    """
    replicas.need(roles[WORKER]["replicas"], "workers")
    spec: dict[str, Any] = {"pytorchReplicaSpecs": roles, "runPolicy": run_policy}
    if elastic is not None:
        del roles[MASTER]
        spec["elasticPolicy"] = {
            "rdzvBackend": elastic.rdzv_backend,
            "minReplicas": elastic.min_replicas,
            "maxReplicas": elastic.max_replicas,
            "nProcPerNode": elastic.nproc_per_node,
            "maxRestarts": elastic.max_restarts,
        }
    return spec


entry = KubernetesPluginEntry(id="pytorch", task_types=("pytorch",), watched=jobs.PYTORCH_JOB, load=PyTorchPlugin)
