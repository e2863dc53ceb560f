"""From a clustered task to its JobSet: as many equal pods as it has nodes, which are told how to meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flyteidl2.plugins.clustered_pb2 import ClusteredTaskSpec, RdzvBackend

from propfan.pluginmachinery import names
from propfan.pluginmachinery.contexts import ExecutionId, TaskContext
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, RenderedObject
from propfan.pluginmachinery.operators.custom import CustomError, message_of
from propfan.pluginmachinery.operators.job_objects import pod_metadata, render
from propfan.pluginmachinery.podspec.plan import Plans

if TYPE_CHECKING:
    from propfan.pluginmachinery.podspec.build import PodSpecBuilder, PodTask

JOB_SET: Final = Kind("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets")

TASK_TYPE: Final = "clustered-task"
WORKERS: Final = "workers"
"""Name of the one replicated job."""

PRIMARY_CONTAINER: Final = "flyte.org/primary-container"
"""Annotation of a JobSet: the container of its pods that stands for the task."""

MAX_REPLICAS: Final = 100_000
MAX_NAME_LENGTH: Final = names.MAX_LABEL_LENGTH - len(f"-{WORKERS}-0-{MAX_REPLICAS - 1}") - len("-abcde")
"""What the names that JobSet and Job append leave of a pod's host name."""

_MASTER_PORT: Final = "29500"
"""Where torchrun listens on the first node by default (PyTorch)."""

_MAX_TTL_S: Final = 2**31 - 1

_FIELDS: Final = {
    "JOBSET_NAME": "metadata.labels['jobset.sigs.k8s.io/jobset-name']",
    "JOBSET_RESTART_ATTEMPT": "metadata.annotations['jobset.sigs.k8s.io/restart-attempt']",
    "POD_NAMESPACE": "metadata.namespace",
}
"""Variables that a pod learns from itself; the labels and annotations are those of the JobSet controller."""

_VARIABLES: Final = ("NNODES", "NPROC_PER_NODE", "MASTER_PORT", "RDZV_BACKEND", "JOBSET_MAX_RESTARTS", *_FIELDS)


def plans(builder: PodSpecBuilder) -> Plans:
    """The conversion of tasks to JobSets that remembers what it did."""
    return Plans(
        builder,
        lambda task: build_job_set(builder, task),
        watched_names=_VARIABLES,
        own={"name": _job_set_name, "run": _run_label},
        uses_labels=True,
    )


def build_job_set(builder: PodSpecBuilder, task: PodTask) -> RenderedObject:
    """The JobSet of a task.

    Raises:
        BadTaskSpecificationError: there can be none.
    """
    wanted = _wanted(task)
    try:
        pod = builder.to_pod_spec(task)
    except (PermanentError, DecodeError) as error:
        raise BadTaskSpecificationError(f"failed to build pod spec: {error}") from error
    primary = pod.primary_container_name
    name = task.own("name")
    restarts = wanted.failure_policy.max_restarts
    if restarts < 0:
        raise BadTaskSpecificationError(f"failure_policy.max_restarts must be >= 0, got {restarts}")
    ttl_s = wanted.ttl_seconds_after_finished.value
    if ttl_s > _MAX_TTL_S:
        raise BadTaskSpecificationError(f"ttl_seconds_after_finished {ttl_s} exceeds maximum allowed value")
    containers = list(pod.spec["containers"])
    index = [container["name"] for container in containers].index(primary)
    environment = _replaced(containers[index].get("env") or (), _variables(wanted))
    containers[index] = {**containers[index], "env": environment}
    template = {
        "metadata": pod_metadata(builder.k8s, task.metadata, pod.metadata),
        "spec": {"subdomain": name, **pod.spec, "containers": containers, "restartPolicy": "Never"},
    }
    job = {
        "parallelism": wanted.replicas,
        "completions": wanted.replicas,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": template,
    }
    spec: dict[str, Any] = {
        "network": {"enableDNSHostnames": True},
        "successPolicy": {"operator": "All"},
        "replicatedJobs": [{"name": WORKERS, "replicas": 1, "template": {"metadata": {}, "spec": job}}],
    }
    if restarts:
        spec["failurePolicy"] = {"maxRestarts": restarts}
    if wanted.HasField("ttl_seconds_after_finished"):
        spec["ttlSecondsAfterFinished"] = ttl_s
    metadata = ObjectMeta(
        name=name,
        namespace=task.parameters.namespace,
        labels={"flyte.org/execution": task.own("run")},
        annotations={"flyte.org/task-type": TASK_TYPE, PRIMARY_CONTAINER: primary},
    )
    return render(JOB_SET, metadata, spec)


def _wanted(task: PodTask) -> ClusteredTaskSpec:
    try:
        wanted = message_of(task.template, ClusteredTaskSpec)
    except CustomError as error:
        raise BadTaskSpecificationError(f"invalid ClusteredTaskSpec: {error}") from None
    if wanted.replicas < 1:
        raise BadTaskSpecificationError(f"replicas must be >= 1, got {wanted.replicas}")
    if wanted.replicas > MAX_REPLICAS:
        raise BadTaskSpecificationError(f"replicas must be <= {MAX_REPLICAS}, got {wanted.replicas}")
    if wanted.nproc_per_node < 1:
        raise BadTaskSpecificationError(f"nproc_per_node must be >= 1, got {wanted.nproc_per_node}")
    return wanted


def _variables(wanted: ClusteredTaskSpec) -> Sequence[Mapping[str, Any]]:
    """What the SDK's launcher in each pod reads."""
    is_c10d = wanted.runtime.torchrun.rdzv_backend == RdzvBackend.C10D
    values = {
        "NNODES": str(wanted.replicas),
        "NPROC_PER_NODE": str(wanted.nproc_per_node),
        "MASTER_PORT": _MASTER_PORT,
        "RDZV_BACKEND": "c10d" if is_c10d else "static",
        "JOBSET_MAX_RESTARTS": str(wanted.failure_policy.max_restarts),
    }
    fields = ({"name": n, "valueFrom": {"fieldRef": {"fieldPath": path}}} for n, path in _FIELDS.items())
    return [*({"name": name, "value": value} for name, value in values.items()), *fields]


def _replaced(
    environment: Iterable[Mapping[str, Any]], variables: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The environment with each variable in place of the last one of its name, which is the one that counts; else last."""
    found = list(environment)
    last = {variable["name"]: index for index, variable in enumerate(found)}
    for variable in variables:
        if variable["name"] in last:
            found[last[variable["name"]]] = variable
        else:
            found.append(variable)
    return found


def _job_set_name(ctx: TaskContext) -> str:
    return names.fixed_length_unique_id(ctx.metadata.task_execution_id.generated_name, MAX_NAME_LENGTH)


def _run_label(ctx: TaskContext) -> str:
    node = ctx.metadata.task_execution_id.id.node_execution_id
    run = (node.execution_id if node is not None else None) or ExecutionId()
    return names.sanitize_label_value(run.name) or "none"
