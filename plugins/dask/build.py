"""From a task to its DaskJob: a cluster of a scheduler and workers, and the pod that runs the task on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flyteidl2.plugins import dask_pb2

from propfan._speedups import quantities
from propfan.pluginmachinery import names
from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.kubernetes_plugin import Kind, Properties, RenderedObject
from propfan.pluginmachinery.loglinks import LogInput, LogLinks
from propfan.pluginmachinery.object_metadata import object_name
from propfan.pluginmachinery.operators import custom, job_objects
from propfan.pluginmachinery.podspec import resources
from propfan.pluginmachinery.podspec.build import BuiltPod, PodSpecBuilder, PodTask, text_of
from propfan.pluginmachinery.podspec.plan import Plans
from propfan.plugins.dask import dashboard
from propfan.plugins.dask.config import DaskConfig

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import Resources

DASK_JOB: Final = Kind("kubernetes.dask.org", "v1", "DaskJob", "daskjobs")

WORKER: Final = "dask-worker"
SCHEDULER: Final = "scheduler"
JOB_RUNNER: Final = "job-runner"

PROPERTIES: Final = Properties(generated_name_max_length=53)
"""The operator calls a service ``<name>-scheduler``, which may have 63 characters."""

_PORTS: Final = (("tcp-comm", 8786), ("dashboard", 8787))
_CONTAINER_PORTS: Final = tuple({"name": name, "containerPort": port, "protocol": "TCP"} for name, port in _PORTS)
_SERVICE_PORTS: Final = tuple(
    {"name": name, "protocol": "TCP", "port": port, "targetPort": name} for name, port in _PORTS
)
_READINESS: Final = {
    "httpGet": {"port": "dashboard"},
    "initialDelaySeconds": 5,
    "periodSeconds": 5,
    "failureThreshold": 30,
}
_NANO: Final = 10**9

_NAME: Final = "name"
_PREFIX: Final = "dashboard prefix"


class DaskJobs:
    """Builds DaskJobs under one configuration."""

    def __init__(self, pods: PodSpecBuilder, config: DaskConfig) -> None:
        self._pods = pods
        self._links = LogLinks(config.logs)

    def plans(self) -> Plans:
        """The conversion that remembers what it did."""
        return Plans(self._pods, self.build, own={_NAME: _name, _PREFIX: self._prefix}, uses_labels=True)

    def build(self, task: PodTask) -> RenderedObject:
        """The job with its cluster.

        Raises:
            BadTaskSpecificationError: the task can never run.
            PermanentError: a value of the template or configuration can not be used; without a code.
            TransientError: its inputs can not be read now.
        """
        job = _job_of(task)
        name = task.own(_NAME)
        pod = self._pods.to_pod_spec(task)
        steady = pod
        execution = task.metadata
        if execution.interruptible:
            uninterrupted = msgspec.structs.replace(execution, interruptible=False)
            steady = self._pods.to_pod_spec(msgspec.structs.replace(task, metadata=uninterrupted))
        metadata = {
            **pod.metadata,
            "labels": {**(pod.metadata.get("labels") or {}), **execution.labels},
            "annotations": {**(pod.metadata.get("annotations") or {}), **execution.annotations},
        }
        written = {member: value for member, value in metadata.items() if value}
        worker = self._worker(pod, job.workers, task)
        scheduler = self._scheduler(steady, job.scheduler, task)
        selector = {"dask.org/cluster-name": name, "dask.org/component": SCHEDULER}
        service = {"type": "NodePort", "ports": _SERVICE_PORTS, "selector": selector}
        spec = {
            "job": {"spec": _role(steady, JOB_RUNNER, "Never", {})},
            "cluster": {  # it and all its pods get the job's own labels and annotations
                "spec": {
                    "worker": {"replicas": job.workers.number_of_workers, "spec": worker},
                    "scheduler": {"spec": scheduler, "service": service},
                },
            },
        }
        return job_objects.render(DASK_JOB, job_objects.object_meta(written), spec)

    def _worker(self, pod: BuiltPod, group: dask_pb2.DaskWorkerGroup, task: PodTask) -> dict[str, Any]:
        changes = self._own(group.image, group.resources, task)
        limits = (changes.get("resources") or _primary(pod).get("resources") or {}).get("limits") or {}
        args = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)"]
        if limits:
            threads = -(-quantities.nanos(limits.get("cpu", "0")) // _NANO)
            args += ["--nthreads", str(threads), "--memory-limit", limits.get("memory", "0")]
        return _role(pod, WORKER, "Always", {**changes, "args": args})

    def _scheduler(self, pod: BuiltPod, wanted: dask_pb2.DaskScheduler, task: PodTask) -> dict[str, Any]:
        args = ["dask", "scheduler"]
        if prefix := task.own(_PREFIX):
            args += ["--dashboard-prefix", prefix]
        probe = _primary(pod).get("readinessProbe") or _READINESS
        changes = self._own(wanted.image, wanted.resources, task)
        changes.update(args=args, ports=_CONTAINER_PORTS, readinessProbe=probe)
        return _role(pod, SCHEDULER, "Always", changes)

    def _prefix(self, ctx: TaskContext) -> str:
        """Where the scheduler serves its dashboard; empty for the root."""
        execution = ctx.metadata
        given = LogInput(namespace=execution.namespace, task_execution_id=execution.task_execution_id)
        return dashboard.prefix(self._links.plan_for(ctx, uses_config=False).render(given))

    def _own(self, image: str, asked: Resources, task: PodTask) -> dict[str, Any]:
        """What a part of the cluster has of its own, in place of the task's."""
        changes: dict[str, Any] = {"image": image} if image else {}
        if asked.requests or asked.limits:
            platform = self._pods.platform_of(task.metadata.platform_resources)
            changes["resources"] = platform.resolve(resources.of_template(asked), {}, assign=True)
        return changes


def _name(ctx: TaskContext) -> str:
    """Of the job, which is that of its cluster too."""
    name = object_name(ctx.metadata, PROPERTIES)
    if not names.is_dns1123_label(name):
        raise BadTaskSpecificationError(
            f"invalid TaskSpecification: the dask operator takes no job called '{name}': "
            "choose a run and an action name of lower case letters, digits and '-'"
        )
    return name


def _job_of(task: PodTask) -> dask_pb2.DaskJob:
    try:
        return custom.message_of(task.template, dask_pb2.DaskJob)
    except custom.CustomError as error:
        shown = text_of(task.template.custom)
        problem = f"invalid TaskSpecification [{shown}], failed to unmarshal, caused by: {error}"
        raise BadTaskSpecificationError(problem) from None


def _primary(pod: BuiltPod) -> Mapping[str, Any]:
    container: Mapping[str, Any] = pod.spec["containers"][_index(pod)]
    return container


def _index(pod: BuiltPod) -> int:
    containers: Sequence[Mapping[str, Any]] = pod.spec["containers"]
    return next(i for i, container in enumerate(containers) if container["name"] == pod.primary_container_name)


def _role(pod: BuiltPod, name: str, restart_policy: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The pod's spec with its primary container in a role of the cluster."""
    containers = list(pod.spec["containers"])
    index = _index(pod)
    containers[index] = {**containers[index], **changes, "name": name}
    return {**pod.spec, "containers": containers, "restartPolicy": restart_policy}
