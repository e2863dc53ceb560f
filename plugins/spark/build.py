"""From a task to its SparkApplication."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from flyteidl2.core.tasks_pb2 import K8sPod, TaskTemplate
from flyteidl2.plugins.spark_pb2 import SparkApplication, SparkJob

from propfan._speedups import apitypes, structs
from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.kubernetes_plugin import RenderedObject
from propfan.pluginmachinery.operators.custom import decode_custom
from propfan.pluginmachinery.operators.job_objects import NO_METADATA, pod_metadata, render
from propfan.pluginmachinery.podspec import scheduling
from propfan.pluginmachinery.podspec.accounts import service_account
from propfan.pluginmachinery.podspec.build import BuiltPod, PodSpecBuilder, PodTask, decode_pod_spec, text_of
from propfan.pluginmachinery.podspec.plan import Plans
from propfan.plugins.spark import settings
from propfan.plugins.spark.application import SPARK_APPLICATION
from propfan.plugins.spark.config import SparkConfig
from propfan.plugins.spark.settings import DRIVER, EXECUTOR

CONTAINERS: Final = {DRIVER: "spark-kubernetes-driver", EXECUTOR: "spark-kubernetes-executor"}
"""What Spark calls the container of each role."""

DRIVER_ACCOUNT: Final = "spark"
"""Service account where nobody names one; the operator's chart makes it for drivers."""

TEMPLATE_VERSION: Final = "3.0.0"
"""The first version of Spark with pod templates. The operator wants to be told a version that has them."""

NO_FILE: Final = "spark-internal"
"""What ``spark-submit`` takes for "the class is in the image" (``SparkLauncher.NO_RESOURCE``): a file is required."""

_OWN_PODS: Final = (b"driverPod", b"executorPod")
_RESTART_POLICY: Final = {"type": "OnFailure", "onSubmissionFailureRetries": 14}
_TYPES: Final = {SparkApplication.JAVA: "Java", SparkApplication.SCALA: "Scala", SparkApplication.R: "R"}


def plans(builder: PodSpecBuilder, config: SparkConfig, *, takes_templates: bool) -> Plans:
    """The conversion of tasks to rendered SparkApplications that remembers what it did."""
    return Plans(
        builder,
        lambda task: build_application(builder, config, task, takes_templates=takes_templates),
        own={"name": _name, "start_time": _start_time, "max_attempts": _max_attempts},
        uses_labels=True,
    )


def _name(ctx: TaskContext) -> str:
    return ctx.metadata.task_execution_id.generated_name


def _start_time(ctx: TaskContext) -> str:
    """Milliseconds since 1970."""
    return str(round(ctx.now.timestamp() * 1000))


def _max_attempts(ctx: TaskContext) -> str:
    return str(ctx.metadata.max_attempts)


def build_application(
    builder: PodSpecBuilder, config: SparkConfig, task: PodTask, *, takes_templates: bool
) -> RenderedObject:
    """The application with all that its plugin adds.

    Args:
        takes_templates: Whether the operator takes whole pods.

    Raises:
        BadTaskSpecificationError: the task can never be an application.
        PermanentError: as ``PodSpecBuilder.to_pod_spec``.
    """
    job = decode_custom(task.template, SparkJob)
    if not (job.mainApplicationFile or job.mainClass):
        shown = text_of(task.template.custom)
        problem = "either MainApplicationFile or MainClass must be set"
        raise BadTaskSpecificationError(f"invalid TaskSpecification [{shown}]., caused by: {problem}")
    conf = settings.spark_conf(job, config, task, CONTAINERS if takes_templates else {})
    account = service_account(task.metadata) or DRIVER_ACCOUNT

    # An interrupted driver ends the application, an interrupted executor only costs time.
    safe = msgspec.structs.replace(task, metadata=msgspec.structs.replace(task.metadata, interruptible=False))
    driver_pod = _pod(builder, safe)
    driver = _role(builder, task, DRIVER, driver_pod, conf)
    own_driver = _own_pod_spec(job, DRIVER)
    executor_pod = _pod(builder, task)
    executor = _role(builder, task, EXECUTOR, executor_pod, conf)
    own_executor = _own_pod_spec(job, EXECUTOR)
    driver["serviceAccount"] = account
    if takes_templates:
        driver["template"] = _template(DRIVER, driver_pod, own_driver)
        executor["template"] = _template(EXECUTOR, executor_pod, own_executor)
        executor["serviceAccount"] = account

    container = _primary(executor_pod)
    spec: dict[str, Any] = {
        "type": _TYPES.get(job.applicationType, "Python"),
        "sparkVersion": TEMPLATE_VERSION if takes_templates else "",  # required, and not looked at without templates
        "image": container.get("image", ""),
        "sparkConf": conf,
        "restartPolicy": _RESTART_POLICY,
        "driver": driver,
        "executor": executor,
    }
    optional = {
        "arguments": container.get("args"),
        "mainApplicationFile": job.mainApplicationFile or NO_FILE,
        "mainClass": job.mainClass,
        "hadoopConf": dict(job.hadoopConf),
    }
    spec.update((field, value) for field, value in optional.items() if value)
    if settings.BATCH_SCHEDULER in conf:
        spec["batchScheduler"] = conf[settings.BATCH_SCHEDULER]
    return render(SPARK_APPLICATION, NO_METADATA, spec)


def may_bring_pods(serialised: bytes) -> bool:
    """Whether it is worth while to ask `brings_pods` of a serialised template."""
    return any(name in serialised for name in _OWN_PODS)


def brings_pods(template: TaskTemplate) -> bool:
    """Whether a task says itself what the pods of a role are."""
    return any(name.decode() in template.custom for name in _OWN_PODS)


def _pod(builder: PodSpecBuilder, task: PodTask) -> BuiltPod:
    pod = builder.to_pod_spec(task)
    scheduling.apply_platform_constraints(pod.spec, builder.k8s, interruptible=task.metadata.interruptible)
    return pod


def _primary(pod: BuiltPod) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in pod.spec["containers"] if c["name"] == pod.primary_container_name)
    return found


def _role(builder: PodSpecBuilder, task: PodTask, role: str, pod: BuiltPod, conf: dict[str, str]) -> dict[str, Any]:
    """What the operator itself knows of the pods of a role, taken from the task's pod."""
    spec, container = pod.spec, _primary(pod)
    found = {
        "affinity": spec["affinity"],
        "env": [*(container.get("env") or ()), {"name": "FLYTE_MAX_ATTEMPTS", "value": task.own("max_attempts")}],
        "hostNetwork": spec.get("hostNetwork", False),
        "image": container.get("image", ""),
        "schedulerName": spec.get("schedulerName", ""),
        **pod_metadata(builder.k8s, task.metadata),
        **settings.sizes(conf, role),
    }
    for field, source in (
        ("dnsConfig", "dnsConfig"),
        ("nodeSelector", "nodeSelector"),
        ("podSecurityContext", "securityContext"),
        ("tolerations", "tolerations"),
    ):
        if source in spec:
            found[field] = spec[source]
    return found


def _own_pod_spec(job: SparkJob, role: str) -> dict[str, Any] | None:
    """The pod that the task brings for a role, ``None`` when it brings none."""
    definition: K8sPod = job.driverPod if role == DRIVER else job.executorPod
    if not definition.HasField("pod_spec"):
        return None
    try:
        spec = decode_pod_spec(definition.pod_spec)
    except (structs.StructError, apitypes.MismatchError) as error:
        shown = text_of(definition.pod_spec)
        raise BadTaskSpecificationError(f"Unable to unmarshal {role} pod spec [{shown}], Err: [{error}]") from None
    return {field: value for field, value in spec.items() if value is not None}


def _template(role: str, pod: BuiltPod, own: dict[str, Any] | None) -> dict[str, Any]:
    """The whole pod of a role: the task's as it is, or the one made of the task itself."""
    if own is not None:
        return {"spec": {"enableServiceLinks": pod.spec["enableServiceLinks"], **own}}
    containers = list(pod.spec["containers"])
    index = next(i for i, c in enumerate(containers) if c["name"] == pod.primary_container_name)
    renamed = {field: value for field, value in containers[index].items() if field not in ("command", "args")}
    containers[index] = {**renamed, "name": CONTAINERS[role]}
    return {"spec": {**pod.spec, "containers": containers}}
