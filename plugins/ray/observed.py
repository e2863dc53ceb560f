"""The parts of RayJobs and of their pods that phases and links depend on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec

from propfan._speedups.pods import EnvVar
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.operators.job_pods import phase_of
from propfan.pluginmachinery.podphase import ObservedPod, decode_pod, primary_container_name
from propfan.plugins.ray.nodes import HEAD

HEAD_NODE: Final = "head"

Time = Annotated[datetime, msgspec.Meta(tz=True)] | None


class _Part(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A piece of an object of KubeRay or Kubernetes; ``null`` is unset."""


class Status(_Part, frozen=True):
    """``RayJob.status``, as KubeRay 1.6 writes it."""

    job_deployment_status: str | None = None
    job_status: str | None = None
    job_id: str | None = None
    ray_cluster_name: str | None = None
    dashboard_url: str | None = msgspec.field(default=None, name="dashboardURL")
    reason: str | None = None
    message: str | None = None
    start_time: Time = None
    end_time: Time = None


NO_STATUS: Final = Status()


class _Container(_Part, frozen=True):
    env: tuple[EnvVar, ...] | None = None


class _PodSpec(_Part, frozen=True):
    containers: tuple[_Container, ...] | None = None


class _Template(_Part, frozen=True):
    spec: _PodSpec | None = None


class _HeadGroupSpec(_Part, frozen=True):
    template: _Template | None = None


class _ClusterSpec(_Part, frozen=True):
    head_group_spec: _HeadGroupSpec | None = None


class _Spec(_Part, frozen=True):
    ray_cluster_spec: _ClusterSpec | None = None


class RayJob(_Part, frozen=True):
    status: Status | None = None


class RayJobWithSpec(RayJob, frozen=True):
    """Also with the environment of the head's containers, which costs as much again."""

    spec: _Spec | None = None

    def head_environment(self) -> tuple[EnvVar, ...]:
        """Variables of the head's first container."""
        cluster = None if self.spec is None else self.spec.ray_cluster_spec
        group = None if cluster is None else cluster.head_group_spec
        pod = None if group is None or group.template is None else group.template.spec
        containers = () if pod is None else pod.containers or ()
        return containers[0].env or () if containers else ()


class _Labels(_Part, frozen=True):
    """Labels that KubeRay gives to the pods of its clusters."""

    node_type: str = msgspec.field(default="", name="ray.io/node-type")
    cluster: str = msgspec.field(default="", name="ray.io/cluster")


class _Metadata(_Part, frozen=True):
    labels: _Labels | None = None


class _Labelled(_Part, frozen=True):
    metadata: _Metadata = _Metadata()


_LABELLED: Final = msgspec.json.Decoder(_Labelled)
_NO_LABELS: Final = _Labels()


class RayPod(msgspec.Struct, frozen=True):
    """A pod of the task; ``cluster`` and ``node_type`` are empty where KubeRay has not labelled it."""

    pod: ObservedPod
    cluster: str
    node_type: str

    @property
    def name(self) -> str:
        return self.pod.metadata.name

    @property
    def is_pending(self) -> bool:
        return phase_of(self.pod) == "Pending"

    def is_head_of(self, job: str, cluster: str) -> bool:
        """Whether it is the head of the job's cluster: by its labels, or else by its name and container."""
        if self.node_type:
            return self.node_type == HEAD_NODE and self.cluster == cluster
        return self.name.startswith(job) and HEAD_NODE in self.name and primary_container_name(self.pod) == HEAD


def pods_of(listed: Sequence[bytes]) -> Sequence[RayPod]:
    """The pods that were listed.

    Raises:
        DecodeError: one of them is no pod.
    """
    return [_pod(raw) for raw in listed]


def _pod(raw: bytes) -> RayPod:
    pod = decode_pod(raw, "a pod of the task")
    try:
        labels = _LABELLED.decode(raw).metadata.labels or _NO_LABELS
    except msgspec.DecodeError as error:
        raise DecodeError(f"Pod {pod.metadata.namespace}/{pod.metadata.name}", str(error)) from error
    return RayPod(pod, labels.cluster, labels.node_type)


def head_pod(pods: Iterable[RayPod], cluster: str) -> RayPod | None:
    """The head's pod of a cluster: of the name that it would have without a random end, else as labelled, the latest.

    Only an operator that runs with ``ENABLE_DETERMINISTIC_HEAD_POD_NAME`` leaves that end away.
    """
    named = f"{cluster}-{HEAD_NODE}"
    found: RayPod | None = None
    for pod in pods:
        if pod.name == named:
            return pod
        if pod.node_type == HEAD_NODE and pod.cluster == cluster and cluster:
            found = pod if found is None or _age(found) <= _age(pod) else found
    return found


def _age(pod: RayPod) -> float:
    created = pod.pod.metadata.creation_timestamp
    return 0.0 if created is None else created.timestamp()
