"""From a task to its Pod, plainly: what is special about pods that are tasks by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan._speedups import apitypes, structs
from propfan.pluginmachinery.config import ApiObject
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.kubernetes_plugin import POD, ObjectMeta, RenderedObject
from propfan.pluginmachinery.podspec import build as podspec
from propfan.pluginmachinery.podspec import schema
from propfan.pluginmachinery.podspec.accounts import service_account
from propfan.pluginmachinery.podspec.debugger import DEBUGGER, asks_for_debugger
from propfan.pluginmachinery.podspec.plan import Plans

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import TaskTemplate

    from propfan.pluginmachinery.podspec.build import BuiltPod, PodSpecBuilder, PodTask

SIDECAR: Final = "sidecar"
RAW_CONTAINER: Final = "raw-container"

_ACTION_NAME: Final = "ACTION_NAME"

_DEBUGGER_PORT: Final = 6060
_LEGACY_DEBUGGER_PORT: Final = 8080
"""Where it listens in pods of an SDK before Flyte 2, which do not know ``ACTION_NAME``."""

_PLAIN_METADATA: Final = {"labels", "annotations"}

_SIDECAR_JOB: Final = schema.TYPES["SidecarJob"]


def plans(builder: PodSpecBuilder) -> Plans:
    """The conversion of tasks to rendered Pods that remembers what it did."""
    return Plans(
        builder,
        lambda task: render(build_pod(builder, task)),
        watched_values=(DEBUGGER,),
        watched_names=(_ACTION_NAME,),
    )


def build_pod(builder: PodSpecBuilder, task: PodTask) -> BuiltPod:
    """The pod with all that its plugin adds; ``metadata`` is complete but for the engine's part.

    Raises: as ``PodSpecBuilder.to_pod_spec``.
    """
    template = task.template
    pod = _raw_pod(builder, task)
    builder.apply_flyte_configuration(task, pod)
    spec, primary = pod.spec, pod.primary_container_name
    spec["containers"] = _probe_debugger(spec["containers"], primary)
    if template.type == SIDECAR or (len(spec["containers"]) == 1 and template.type != RAW_CONTAINER):
        annotations = {**(pod.metadata.get("annotations") or {}), podspec.PRIMARY_CONTAINER_NAME: primary}
        pod.metadata = {**pod.metadata, "annotations": annotations}
    if account := service_account(task.metadata):
        spec.setdefault("serviceAccountName", account)
    return pod


def render(pod: BuiltPod) -> RenderedObject:
    body = b'"spec":' + msgspec.json.encode(pod.spec) + b',"status":{}'
    metadata = pod.metadata
    if metadata.keys() <= _PLAIN_METADATA:
        rendered = ObjectMeta(labels=metadata.get("labels") or {}, annotations=metadata.get("annotations") or {})
    else:  # a pod template brought more
        rendered = msgspec.convert(metadata, ObjectMeta)
    return RenderedObject(POD.api_version, POD.kind, rendered, body)


def _raw_pod(builder: PodSpecBuilder, task: PodTask) -> BuiltPod:
    template = task.template
    if template.type == SIDECAR and template.task_type_version == 0:
        return _first_sidecar(template)
    if template.type == SIDECAR and template.task_type_version == 1:
        return _second_sidecar(template)
    return builder.build_raw_pod(task)


def _first_sidecar(template: TaskTemplate) -> BuiltPod:
    """Sidecar tasks of version 0: ``custom`` holds the pod spec among other things."""
    shown = podspec.text_of(template.custom)
    try:
        job = apitypes.decode(_custom(template), _SIDECAR_JOB)
    except (structs.StructError, apitypes.MismatchError) as error:
        raise BadTaskSpecificationError(f"invalid TaskSpecification [{shown}], Err: [{error}]") from None
    if "podSpec" not in job:
        raise BadTaskSpecificationError(f"invalid TaskSpecification, nil PodSpec [{shown}]")
    metadata: dict[str, Any] = {kind: job[kind] for kind in ("annotations", "labels") if kind in job}
    return podspec.BuiltPod(job["podSpec"], metadata, job.get("primaryContainerName", ""))


def _second_sidecar(template: TaskTemplate) -> BuiltPod:
    """Sidecar tasks of version 1: ``custom`` is the pod spec."""
    try:
        spec = apitypes.decode(_custom(template), schema.POD_SPEC)
    except (structs.StructError, apitypes.MismatchError) as error:
        shown = podspec.text_of(template.custom)
        raise BadTaskSpecificationError(f"Unable to unmarshal task custom [{shown}], Err: [{error}]") from None
    if not template.config:
        raise BadTaskSpecificationError(
            "invalid TaskSpecification, config needs to be non-empty and include missing "
            f"[{podspec.PRIMARY_CONTAINER_NAME}] key"
        )
    metadata = podspec.metadata_of(template.k8s_pod) if template.WhichOneof("target") == "k8s_pod" else {}
    return podspec.BuiltPod(spec, metadata, podspec.primary_from_config(template))


def _custom(template: TaskTemplate) -> dict[str, Any]:
    if not template.HasField("custom"):
        raise apitypes.MismatchError("custom", "is missing")
    return structs.to_value(template.custom.SerializeToString())


def _probe_debugger(containers: Sequence[ApiObject], primary: str) -> Sequence[ApiObject]:
    """Call containers that were asked to run a debugger ready when that answers, up to the first that was not."""
    probed = list(containers)
    for index, container in enumerate(containers):
        if len(containers) > 1 and container["name"] != primary:
            continue
        environment = container.get("env") or ()
        if not asks_for_debugger(environment):
            break
        is_named = any(variable["name"] == _ACTION_NAME for variable in environment)
        port = _DEBUGGER_PORT if is_named else _LEGACY_DEBUGGER_PORT
        probe = {"httpGet": {"port": port}, "initialDelaySeconds": 15, "periodSeconds": 5, "failureThreshold": 50}
        probed[index] = {**container, "readinessProbe": probe}
    return probed
