"""The pods of a cluster: from the task's own pod to one of its head or of a group of its workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flyteidl2.core import tasks_pb2

from propfan._speedups import apitypes, structs
from propfan.pluginmachinery.config import ApiObject
from propfan.pluginmachinery.contexts import TaskOverrides
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.operators import job_objects
from propfan.pluginmachinery.podspec import accelerators, pod_templates, scheduling
from propfan.pluginmachinery.podspec.accounts import service_account
from propfan.pluginmachinery.podspec.build import (
    BuiltPod,
    PodSpecBuilder,
    PodTask,
    decode_pod_spec,
    extended_resources,
    metadata_of,
    parse,
    text_of,
)
from propfan.pluginmachinery.taskaction import MANAGED_LABEL
from propfan.plugins.ray.config import RayConfig

if TYPE_CHECKING:
    from flyteidl2.plugins.ray_pb2 import HeadGroupSpec, WorkerGroupSpec

HEAD: Final = "ray-head"
WORKER: Final = "ray-worker"

LOGS: Final = "/tmp/ray"  # noqa: S108 - in the container, and where Ray writes
_LOGS_VOLUME: Final = "system-ray-state"


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _resource(name: str, resource: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"resourceFieldRef": {"containerName": WORKER, "resource": resource}}}


_QUIET: Final = ({"name": "RAY_COLOR_PREFIX", "value": "0"}, {"name": "RAY_DATA_DISABLE_PROGRESS_BARS", "value": "1"})
_HEAD_ENV: Final = (_field("MY_POD_IP", "status.podIP"), *_QUIET)
_WORKER_ENV: Final = (
    {"name": "RAY_DISABLE_DOCKER_CPU_WARNING", "value": "1"},
    {"name": "TYPE", "value": "worker"},
    _resource("CPU_REQUEST", "requests.cpu"),
    _resource("CPU_LIMITS", "limits.cpu"),
    _resource("MEMORY_REQUESTS", "requests.memory"),
    _resource("MEMORY_LIMITS", "limits.memory"),
    _field("MY_POD_NAME", "metadata.name"),
    _field("MY_POD_IP", "status.podIP"),
    *_QUIET,
)
_PORTS: Final = (
    {"name": "redis", "containerPort": 6379},
    {"name": "head", "containerPort": 10001},
    {"name": "dashboard", "containerPort": 8265},
)
_STOP: Final = {"preStop": {"exec": {"command": ["/bin/sh", "-c", "ray stop"]}}}


class Nodes:
    """Makes the pod templates of one task's cluster.

    Args:
        base: The task's own pod, which groups without resources of their own share.

    Raises (all methods):
        BadTaskSpecificationError: a group can not be run.
    """

    def __init__(self, pods: PodSpecBuilder, config: RayConfig, task: PodTask) -> None:
        self._pods = pods
        self._config = config
        self._task = task
        self._account = service_account(task.metadata) or config.service_account
        self.base: Final = _pod_of(pods, task)

    def head(self, group: HeadGroupSpec) -> dict[str, Any]:
        """The template of the head's pod."""
        return self._template(group, self._as_head)

    def worker(self, group: WorkerGroupSpec) -> dict[str, Any]:
        """The template of the pods of a group of workers."""
        return self._template(group, _as_worker)

    def _template(
        self, group: HeadGroupSpec | WorkerGroupSpec, take_role: Callable[[dict[str, Any], str], None]
    ) -> dict[str, Any]:
        task, pod = self._task, self.base
        if group.HasField("extended_resources"):
            task = _with_resources(task, group.extended_resources)
            pod = _pod_of(self._pods, task)
        spec = dict(pod.spec)
        take_role(spec, pod.primary_container_name)
        labels: Mapping[str, str] = {}
        annotations: Mapping[str, str] = {}
        if group.HasField("k8s_pod"):
            own = metadata_of(group.k8s_pod)
            labels, annotations = own.get("labels") or {}, own.get("annotations") or {}
            spec = _overlaid(spec, group.k8s_pod)
        self._place(spec, task)
        if self._account:
            spec["serviceAccountName"] = self._account
        else:
            spec.pop("serviceAccountName", None)
        metadata = job_objects.pod_metadata(self._pods.k8s, task.metadata, pod.metadata)
        metadata["labels"] = {**(metadata.get("labels") or {}), **labels, MANAGED_LABEL: "true"}
        if annotations:
            metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
        return {"metadata": metadata, "spec": spec}

    def _as_head(self, spec: dict[str, Any], primary: str) -> None:
        containers, index = _primary(spec, primary)
        container = _with_role(containers[index], HEAD, _HEAD_ENV)
        sidecar = self._config.logs_sidecar
        if sidecar is not None:
            mount = next((m for m in container.get("volumeMounts") or () if m["mountPath"] == LOGS), None)
            if mount is None:
                mount = {"name": _LOGS_VOLUME, "mountPath": LOGS}
                container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
                spec["volumes"] = [*(spec.get("volumes") or ()), {"name": _LOGS_VOLUME, "emptyDir": {}}]
            containers.append(_with_logs(sidecar, {**mount, "readOnly": True}))
        containers[index] = container
        spec["containers"] = containers

    def _place(self, spec: dict[str, Any], task: PodTask) -> None:
        """Where the pod may run, again, for the user's own part may have changed it."""
        pods, k8s = self._pods, self._pods.k8s
        accelerator = extended_resources(task).accelerator
        if accelerator is not None:
            accelerators.select_nodes(spec, accelerator, pods.classes.find(accelerator), pods.classes)
        if k8s.add_tolerations_for_extended_resources:
            accelerators.tolerate_extended_resources(spec, k8s.add_tolerations_for_extended_resources)
        scheduling.apply_platform_constraints(spec, k8s, interruptible=task.metadata.interruptible)


def _pod_of(pods: PodSpecBuilder, task: PodTask) -> BuiltPod:
    try:
        return pods.to_pod_spec(task)
    except PermanentError as error:
        raise BadTaskSpecificationError(f"Unable to create pod spec: [{error}]") from error


def _with_resources(task: PodTask, own: tasks_pb2.ExtendedResources) -> PodTask:
    """The task as if its execution had asked for these on top of what it asks for."""
    overrides = task.metadata.overrides or TaskOverrides()
    wanted = tasks_pb2.ExtendedResources()
    if overrides.extended_resources is not None:
        wanted = parse(tasks_pb2.ExtendedResources, overrides.extended_resources, "overrides.extended_resources")
    if own.HasField("gpu_accelerator"):
        wanted.gpu_accelerator.CopyFrom(own.gpu_accelerator)
    if own.HasField("shared_memory"):
        wanted.shared_memory.CopyFrom(own.shared_memory)
    replace = msgspec.structs.replace
    overrides = replace(overrides, extended_resources=wanted.SerializeToString())
    return replace(task, metadata=replace(task.metadata, overrides=overrides))


def _primary(spec: Mapping[str, Any], name: str) -> tuple[list[dict[str, Any]], int]:
    containers = list(spec["containers"])
    return containers, next(i for i, container in enumerate(containers) if container["name"] == name)


def _with_role(container: ApiObject, name: str, env: Sequence[ApiObject]) -> dict[str, Any]:
    changed = {
        **container,
        "name": name,
        "env": [*(container.get("env") or ()), *env],
        "ports": [*(container.get("ports") or ()), *_PORTS],
    }
    changed.pop("args", None)
    return changed


def _as_worker(spec: dict[str, Any], primary: str) -> None:
    containers, index = _primary(spec, primary)
    containers[index] = {**_with_role(containers[index], WORKER, _WORKER_ENV), "lifecycle": _STOP}
    spec["containers"] = containers


def _with_logs(sidecar: ApiObject, mount: ApiObject) -> dict[str, Any]:
    mounts = sidecar.get("volumeMounts") or []
    if any(own["mountPath"] == LOGS for own in mounts):
        mounts = [mount if own["mountPath"] == LOGS else own for own in mounts]
    else:
        mounts = [*mounts, mount]
    return {**sidecar, "volumeMounts": mounts}


def _overlaid(spec: dict[str, Any], own: tasks_pb2.K8sPod) -> dict[str, Any]:
    if not own.HasField("pod_spec"):
        return spec
    try:
        custom = decode_pod_spec(own.pod_spec)
    except (structs.StructError, apitypes.MismatchError) as error:
        problem = f"Unable to unmarshal pod spec [{text_of(own.pod_spec)}], Err: [{error}]"
        raise BadTaskSpecificationError(problem) from None
    return pod_templates.merge_overlay_pod_spec(spec, custom)
