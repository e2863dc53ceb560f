"""Tasks of type ``mpi`` as ``MPIJob`` objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flyteidl2.plugins import mpi_pb2
from flyteidl2.plugins.kubeflow import mpi_pb2 as kubeflow_pb2

from propfan.pluginmachinery.entries import KubernetesPluginEntry
from propfan.pluginmachinery.kubernetes_plugin import RenderedObject
from propfan.pluginmachinery.operators.custom import decode_custom
from propfan.pluginmachinery.operators.job_objects import NO_METADATA, render
from propfan.plugins.kubeflow import jobs, replicas
from propfan.plugins.kubeflow.jobs import Job
from propfan.plugins.kubeflow.plugin import KubeflowPlugin

if TYPE_CHECKING:
    from propfan.pluginmachinery.podspec.build import PodTask

LAUNCHER: Final = "Launcher"
WORKER: Final = "Worker"

WORKER_COMMAND: Final = "worker_spec_command"
"""Key of a task's configuration: what the workers run, as words between single spaces."""


class MpiPlugin(KubeflowPlugin):
    """A launcher that runs ``mpirun``, and workers that it starts processes on."""

    framework = "mpi"
    kind = jobs.MPI_JOB
    primary_pods = ("-launcher",)

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
        message = decode_custom(task.template, mpi_pb2.DistributedMPITrainingTask)
        with replicas.refused(replicas.NO_SPEC):
            template = self._replicas.template(task)
        config = task.template.config
        words = config[WORKER_COMMAND].split(" ") if WORKER_COMMAND in config else []
        containers = [self._of_worker(container, words) for container in template["spec"]["containers"]]
        of_worker = {**template, "spec": {**template["spec"], "containers": containers}}
        roles = {
            LAUNCHER: replicas.replica_spec(max(1, message.num_launcher_replicas), template),
            WORKER: replicas.replica_spec(message.num_workers, of_worker),
        }
        return _spec(roles, {}, message.slots)

    def _of_worker(self, container: dict[str, Any], words: list[str]) -> dict[str, Any]:
        if container["name"] != self.framework:
            return container
        kept = {name: value for name, value in container.items() if name not in ("command", "args")}
        return {**kept, "args": words} if words else kept

    def _second_version(self, task: PodTask) -> dict[str, Any]:
        message = decode_custom(task.template, kubeflow_pb2.DistributedMPITrainingTask)
        launcher = replicas.role_of(message.launcher_replicas, message.launcher_replicas.command)
        worker = replicas.role_of(message.worker_replicas, message.worker_replicas.command)
        roles = {
            LAUNCHER: self._replicas.spec(
                task, msgspec.structs.replace(launcher, replicas=1), "Unable to create launcher replica spec"
            ),
            WORKER: self._replicas.spec(task, worker, "Unable to create worker replica spec"),
        }
        policy = replicas.run_policy(message.run_policy if message.HasField("run_policy") else None)
        return _spec(roles, policy, message.slots or 1)

    def logged_pods(self, job: Job) -> Iterator[tuple[str, str]]:
        for index in range(job.replicas(WORKER)):
            yield f"worker-{index}", ""

    def seen_pods(self, present: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The launcher, whose name depends on the version of the operator."""
        return ((pod, "launcher") for pod in present if pod.startswith("launcher"))


def _spec(roles: dict[str, Any], run_policy: dict[str, Any], slots: int) -> dict[str, Any]:
    """Raises ``PermanentError``, without a code, when there are no workers."""
    replicas.need(roles[WORKER]["replicas"], "workers")
    return {"mpiReplicaSpecs": roles, "runPolicy": run_policy, "slotsPerWorker": slots}


entry = KubernetesPluginEntry(id="mpi", task_types=("mpi",), watched=jobs.MPI_JOB, load=MpiPlugin)
