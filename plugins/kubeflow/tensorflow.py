"""Tasks of type ``tensorflow`` as ``TFJob`` objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from flyteidl2.plugins import tensorflow_pb2
from flyteidl2.plugins.kubeflow import tensorflow_pb2 as kubeflow_pb2

from propfan.pluginmachinery.entries import KubernetesPluginEntry
from propfan.pluginmachinery.kubernetes_plugin import RenderedObject
from propfan.pluginmachinery.operators.custom import decode_custom
from propfan.pluginmachinery.operators.job_objects import NO_METADATA, render
from propfan.plugins.kubeflow import jobs, replicas
from propfan.plugins.kubeflow.jobs import Job
from propfan.plugins.kubeflow.plugin import KubeflowPlugin

if TYPE_CHECKING:
    from propfan.pluginmachinery.podspec.build import PodTask

CHIEF: Final = "Chief"
WORKER: Final = "Worker"
PARAMETER_SERVER: Final = "PS"
EVALUATOR: Final = "Evaluator"


class TensorflowPlugin(KubeflowPlugin):
    """Workers, and as many parameter servers, chiefs and evaluators as the task asks for."""

    framework = "tensorflow"
    kind = jobs.TF_JOB
    primary_pods = ("-chief-0", "-worker-0")

    def render(self, task: PodTask) -> RenderedObject:
        match task.template.task_type_version:
            case 0:
                spec = self._first_version(task)
            case 1:
                spec = self._second_version(task)
            case version:
                raise replicas.unsupported(version)
        return render(self.kind, NO_METADATA, spec)

    def _first_version(self, task: PodTask) -> dict[str, Any]:
        message = decode_custom(task.template, tensorflow_pb2.DistributedTensorflowTrainingTask)
        with replicas.refused(replicas.NO_SPEC):
            template = self._replicas.template(task)
        counts = {
            CHIEF: message.chief_replicas,
            WORKER: message.workers,
            PARAMETER_SERVER: message.ps_replicas,
            EVALUATOR: message.evaluator_replicas,
        }
        return _spec({role: replicas.replica_spec(n, template) for role, n in counts.items() if n > 0}, {})

    def _second_version(self, task: PodTask) -> dict[str, Any]:
        message = decode_custom(task.template, kubeflow_pb2.DistributedTensorflowTrainingTask)
        roles = {
            CHIEF: replicas.role_of(message.chief_replicas),
            WORKER: replicas.role_of(message.worker_replicas),
            PARAMETER_SERVER: replicas.role_of(message.ps_replicas),
            EVALUATOR: replicas.role_of(message.evaluator_replicas),
        }
        specs = {
            name: self._replicas.spec(task, role, replicas.NO_SPEC) for name, role in roles.items() if role.replicas > 0
        }
        return _spec(specs, replicas.run_policy(message.run_policy if message.HasField("run_policy") else None))

    def logged_pods(self, job: Job) -> Iterator[tuple[str, str]]:
        for role in (WORKER, PARAMETER_SERVER, CHIEF, EVALUATOR):
            for index in range(job.replicas(role)):
                yield f"{role.lower()}-{index}", ""


def _spec(roles: dict[str, Any], run_policy: dict[str, Any]) -> dict[str, Any]:
    """Raises ``PermanentError``, without a code, when there are no workers."""
    replicas.need(WORKER in roles, "workers")
    return {"tfReplicaSpecs": roles, "runPolicy": run_policy}


entry = KubernetesPluginEntry(id="tensorflow", task_types=("tensorflow",), watched=jobs.TF_JOB, load=TensorflowPlugin)
