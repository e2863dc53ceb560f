"""The contract of plugins that turn a task into one Kubernetes object and read its status.

The engine creates what ``build_resource`` returns under a deterministic name, watches it and asks
``get_task_phase`` after each change. It may repeat any call after a restart, so each method is
idempotent; calls for one task never overlap. A method that raises costs its own task only:
``TaskError`` codes decide how (see ``docs/writing-a-plugin.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import msgspec

from propfan.pluginmachinery.contexts import OwnerReference, PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.phases import PhaseInfo

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Kind(msgspec.Struct, frozen=True):
    """A kind of Kubernetes object. ``group`` is empty for the core API."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


POD = Kind("", "v1", "Pod", "pods")


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """The part of ``metav1.ObjectMeta`` that the engine reads and writes."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner_references: Sequence[OwnerReference] = ()
    finalizers: Sequence[str] = ()


class RenderedObject(msgspec.Struct, frozen=True):
    """An object that is JSON already, but for its metadata, which the engine completes.

    Attributes:
        metadata: What the plugin itself wants there: labels, annotations, perhaps finalizers.
        body: The members after ``metadata``, e.g. ``b'"spec":{...},"status":{}'``; may be empty.
    """

    api_version: str
    kind: str
    metadata: ObjectMeta
    body: bytes

    def to_json(self, metadata: ObjectMeta | None = None) -> bytes:
        """The whole object, with ``metadata`` in place of its own when given."""
        head = msgspec.json.encode(
            {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata or self.metadata}
        )
        return head[:-1] + b"," + self.body + b"}" if self.body else head


BuiltObject = RenderedObject | Mapping[str, Any] | msgspec.Struct | Any
"""What an author may return: JSON-like mappings, Structs, or models of the ``kubernetes`` package."""


class ObservedObject(msgspec.Struct, frozen=True, gc=False):
    """An object as the cluster holds it: decoded metadata, and the whole as JSON bytes."""

    kind: Kind
    metadata: ObjectMeta
    raw: bytes

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.metadata.namespace}/{self.metadata.name}"


class Properties(msgspec.Struct, frozen=True):
    """How the engine treats a plugin's objects.

    Attributes:
        generated_name_max_length: Longer names are replaced by a hash of fixed length; at least 8.
    """

    disable_inject_owner_references: bool = False
    disable_inject_finalizer: bool = False
    disable_delete_resource_on_finalize: bool = False
    generated_name_max_length: int | None = None


@runtime_checkable
class KubernetesPlugin(Protocol):
    """How one family of task types runs as one Kubernetes object."""

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> BuiltObject:
        """An object with nothing but apiVersion and kind."""
        ...

    async def build_resource(self, ctx: TaskContext) -> BuiltObject:
        """The whole object to create; the engine adds name, namespace, owner and default labels.

        Raises:
            BadTaskSpecificationError: the template can not be run; the task fails for good.
            TaskError, any other exception: counted against the engine's own retries.
        """
        ...

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """What the object's present state means for the task. Reads no clock but ``ctx.now``."""
        ...

    def get_properties(self) -> Properties: ...

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Whether the object will not change any more by itself."""
        ...

    def get_completion_time(self, resource: ObservedObject) -> datetime | None: ...


class AbortBehavior(msgspec.Struct, frozen=True):
    """What to do to an object when its task is aborted: exactly one of delete, patch and update.

    Attributes:
        resource: The object to act on when it is not the plugin's own one: (kind, namespace, name).
        patch: A JSON merge patch.
        update: The whole object as it shall be.
        delete_on_error: Delete when the patch or update fails.
    """

    delete: bool = False
    patch: Mapping[str, Any] | None = None
    update: BuiltObject | None = None
    delete_on_error: bool = False
    resource: tuple[Kind, str, str] | None = None

    def __post_init__(self) -> None:
        chosen = int(self.delete) + int(self.patch is not None) + int(self.update is not None)
        if chosen != 1:
            raise ValueError("an AbortBehavior must be exactly one of delete, patch and update")


@runtime_checkable
class AbortOverride(Protocol):
    """Optional: a plugin whose object must not simply be deleted when its task is aborted."""

    async def on_abort(self, ctx: TaskContext, resource: ObservedObject) -> AbortBehavior: ...


CLUSTER_LABEL: Final = "propfan.org/cluster"
"""Names the shared cluster: on each of its jobs, where the engine puts it, and on its pods, where its plugin does."""

LAST_USED_ANNOTATION: Final = "propfan.org/last-used"
"""On a shared cluster: when the engine last gave it a job, or saw it with one (RFC 3339)."""


@runtime_checkable
class ClusterPlugin(Protocol):
    """Jobs on shared, long-lived clusters, each of which the engine creates when it is first needed.

    Tasks whose clusters have the same name in the same namespace share one. Clusters carry no owner reference
    and no finalizer; jobs are owned like any object. A cluster is deleted once it ``is_idle`` and has no job
    that has not ended. The pods of a cluster that wear ``CLUSTER_LABEL`` are shown to its jobs with their own.
    """

    def get_cluster_name(self, ctx: TaskContext) -> str:
        """Deterministic, normally with a hash of what the cluster is; a DNS-1123 label.

        Empty when the task's job brings a cluster of its own.

        Raises: as ``KubernetesPlugin.build_resource``.
        """
        ...

    async def build_cluster_resource(self, ctx: TaskContext) -> BuiltObject:
        """The whole cluster to create; the engine adds name, namespace and default labels."""
        ...

    def build_cluster_identity_resource(self, metadata: TaskExecutionMetadata) -> BuiltObject: ...

    def is_cluster_ready(self, resource: ObservedObject) -> bool:
        """Whether it takes jobs."""
        ...

    async def check_cluster(self, ctx: PluginContext, resource: ObservedObject) -> str:
        """Why a cluster that is not ready is not, for people.

        Raises:
            PermanentError: it never will be: the task fails with this error.
        """
        ...

    async def build_job_resource(self, ctx: TaskContext, cluster_name: str) -> BuiltObject:
        """As ``KubernetesPlugin.build_resource``; with an empty ``cluster_name``, a job with its own cluster."""
        ...

    def build_job_identity_resource(self, metadata: TaskExecutionMetadata) -> BuiltObject: ...

    async def get_job_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo: ...

    def get_properties(self) -> Properties:
        """Of the jobs."""
        ...

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Whether a job will not change any more by itself."""
        ...

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """Of a job."""
        ...

    def is_idle(self, resource: ObservedObject, now: datetime) -> bool:
        """Whether a cluster was not used for longer than its time to live, see ``last_used``."""
        ...


def last_used(cluster: ObservedObject) -> datetime | None:
    """When a shared cluster was last used; its creation where nothing else is known."""
    written = cluster.metadata.annotations.get(LAST_USED_ANNOTATION, "")
    try:
        return msgspec.convert(written, _Instant)
    except msgspec.ValidationError:
        return cluster.metadata.creation_timestamp
