"""Clusters that tasks share: those of an environment with a reuse policy.

Tasks share a cluster when their clusters would be made of the same pods, whichever run or action they are of; with a
policy of scope ``RUN`` also only within a run. What differs between executions reaches a job by its runtime environment.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from flyteidl2.core.tasks_pb2 import ReusePolicy

from propfan.pluginmachinery.contexts import (
    IOPaths,
    PluginContext,
    TaskContext,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskExecutionMetadata,
)
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, Kind, ObservedObject, RenderedObject, last_used
from propfan.pluginmachinery.operators import job_objects
from propfan.pluginmachinery.phases import ErrorKind
from propfan.pluginmachinery.podphase import PodPhases
from propfan.pluginmachinery.podspec.build import task_of
from propfan.plugins.ray import observed
from propfan.plugins.ray.build import RayJobs
from propfan.plugins.ray.nodes import HEAD

RAY_CLUSTER: Final = Kind("ray.io", "v1", "RayCluster", "rayclusters")

IDLE_TTL_ANNOTATION: Final = "propfan.org/idle-ttl-s"
"""On a shared cluster: the seconds after its last use from which it may go."""

DEFAULT_IDLE_TTL_S: Final = 300

_OF_ONE_TASK: Final = frozenset({"action", "attempt", "run", "task-name"})
_RUN: Final = "run"
_OF_THE_ENGINE: Final = ("propfan.dev/", "propfan.org/", "kubectl.kubernetes.io/")

_NOWHERE: Final = IOPaths(*["none"] * len(IOPaths.__struct_fields__))
"""Only the command lines of jobs ask for paths, and those are not run by the cluster's own containers."""

_KEPT: Final = 256


class SharedCluster(msgspec.Struct, frozen=True):
    name: str
    rendered: RenderedObject


class _Condition(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _Status(msgspec.Struct, frozen=True, gc=False):
    state: str | None = None
    reason: str | None = None
    conditions: tuple[_Condition, ...] | None = None

    def condition(self, kind: str) -> _Condition | None:
        return next((c for c in self.conditions or () if c.type == kind), None)


class _RayCluster(msgspec.Struct, frozen=True, gc=False):
    status: _Status | None = None


_DECODER: Final = msgspec.json.Decoder(_RayCluster)
_NO_STATUS: Final = _Status()


class Sharing:
    """The clusters of tasks that share them."""

    def __init__(self, jobs: RayJobs, pods: PodPhases) -> None:
        self._jobs = jobs
        self._pods = pods
        self._known: OrderedDict[tuple[Any, ...], SharedCluster] = OrderedDict()

    def cluster_of(self, ctx: TaskContext) -> SharedCluster | None:
        """The cluster of a task; ``None`` when it shares none. Raises as ``RayJobs.cluster``."""
        if not ctx.template.HasField("reuse_policy"):
            return None
        policy = ctx.template.reuse_policy
        neutral = _neutral(ctx.metadata, policy)
        key = (ctx.template_bytes, neutral.namespace, *_parts(neutral))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._make(ctx, neutral, policy)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return known

    def _make(self, ctx: TaskContext, neutral: TaskExecutionMetadata, policy: ReusePolicy) -> SharedCluster:
        spec, metadata = self._jobs.cluster(task_of(ctx.template, neutral, _NOWHERE))
        idle_ttl_s = policy.idle_ttl.seconds if policy.HasField("idle_ttl") else DEFAULT_IDLE_TTL_S
        content = msgspec.json.encode([spec, metadata, idle_ttl_s], order="deterministic")
        name = f"ray-{hashlib.sha256(content).hexdigest()[:20]}"
        for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())):
            template = group["template"]
            labels = {**template["metadata"]["labels"], CLUSTER_LABEL: name}
            template["metadata"] = {**template["metadata"], "labels": labels}
        own = job_objects.object_meta(metadata)
        own = msgspec.structs.replace(
            own,
            labels={**own.labels, **neutral.labels},
            annotations={**own.annotations, **neutral.annotations, IDLE_TTL_ANNOTATION: str(idle_ttl_s)},
        )
        return SharedCluster(name, job_objects.render(RAY_CLUSTER, own, spec))

    async def why_not_ready(self, ctx: PluginContext, resource: ObservedObject) -> str:
        """What keeps a cluster from taking jobs.

        Raises:
            PermanentError: its head can never start.
            DecodeError, ApiError: it can not be told.
        """
        name = resource.metadata.name
        head = observed.head_pod(observed.pods_of(await ctx.kubernetes.list_pods()), name)
        if head is not None:
            verdict = self._pods.judge(head.pod, ctx.now, HEAD)
            if verdict.phase.is_failure and verdict.error is not None:
                if verdict.error.kind is ErrorKind.USER:
                    raise PermanentError(
                        verdict.error.code, f"the head of {resource} can not start: {verdict.error.message}"
                    )
                return f"its head failed: {verdict.error.message}"
            if verdict.reason:
                return f"its head: {verdict.reason}"
        status = _status(resource)
        unmet = next((c for c in status.conditions or () if c.status == "False" and c.message), None)
        return (unmet.message if unmet is not None else "") or status.reason or "its pods are not ready"


def _neutral(metadata: TaskExecutionMetadata, policy: ReusePolicy) -> TaskExecutionMetadata:
    """The execution without what is its own and nobody else's."""
    dropped = _OF_ONE_TASK - {_RUN} if policy.scope == ReusePolicy.Scope.RUN else _OF_ONE_TASK
    return msgspec.structs.replace(
        metadata,
        task_execution_id=TaskExecutionId("task", "", TaskExecutionIdentifier()),
        labels=_common(metadata.labels, dropped),
        annotations=_common(metadata.annotations),
        environment_variables={},
        console_url="",
    )


def _common(entries: Mapping[str, str], dropped: frozenset[str] = frozenset()) -> dict[str, str]:
    return {k: v for k, v in sorted(entries.items()) if k not in dropped and not k.startswith(_OF_THE_ENGINE)}


def _parts(neutral: TaskExecutionMetadata) -> tuple[Any, ...]:
    """All that the cluster's spec depends on beside the template, for a key."""
    return (
        msgspec.json.encode(
            [neutral.labels, neutral.annotations, neutral.overrides, neutral.platform_resources, neutral.interruptible],
            order="deterministic",
        ),
        neutral.k8s_service_account,
        neutral.security_context,
    )


def is_ready(resource: ObservedObject) -> bool:
    """Whether the cluster takes jobs. Raises ``DecodeError`` for an object that is no RayCluster."""
    status = _status(resource)
    head, provisioned = status.condition("HeadPodReady"), status.condition("RayClusterProvisioned")
    if head is not None and head.status != "True":
        return False
    return status.state == "ready" or (provisioned is not None and provisioned.status == "True")


def is_idle(resource: ObservedObject, now: datetime) -> bool:
    """Whether its time to live has passed since its last use."""
    written = resource.metadata.annotations.get(IDLE_TTL_ANNOTATION, "")
    ttl_s = int(written) if written.isdecimal() and len(written) < 12 else DEFAULT_IDLE_TTL_S
    used = last_used(resource)
    return used is not None and now - used >= timedelta(seconds=ttl_s)


def _status(resource: ObservedObject) -> _Status:
    return job_objects.decode(_DECODER, resource).status or _NO_STATUS
