"""What a plugin is given: who the task is, what it was asked to do, and ports to the outside.

Values are frozen Structs. Ports (readers, stores, secrets) are Protocols that the engine
implements, so that nothing here does I/O on its own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from propfan.pluginmachinery.phases import ExecutionError, PluginState

if TYPE_CHECKING:
    from pathlib import Path

    from flyteidl2.core import literals_pb2, tasks_pb2
    from google.protobuf.message import Message


class NamespacedName(msgspec.Struct, frozen=True):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class OwnerReference(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """``metav1.OwnerReference``, as it goes into built objects."""

    api_version: str = msgspec.field(name="apiVersion")
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ExecutionId(msgspec.Struct, frozen=True):
    """``core.WorkflowExecutionIdentifier``: the run."""

    project: str = ""
    domain: str = ""
    name: str = ""
    org: str = ""


class NodeExecutionId(msgspec.Struct, frozen=True):
    """``core.NodeExecutionIdentifier``: ``node_id`` is the action's name."""

    node_id: str = ""
    execution_id: ExecutionId | None = None


class TaskId(msgspec.Struct, frozen=True):
    """``core.Identifier`` of the task; ``resource_type`` is the enum's name."""

    project: str = ""
    domain: str = ""
    name: str = ""
    version: str = ""
    org: str = ""
    resource_type: str = "UNSPECIFIED"


class TaskExecutionIdentifier(msgspec.Struct, frozen=True):
    """``core.TaskExecutionIdentifier``; ``retry_attempt`` counts from 0."""

    task_id: TaskId | None = None
    node_execution_id: NodeExecutionId | None = None
    retry_attempt: int = 0


class TaskExecutionId(msgspec.Struct, frozen=True):
    """The attempt's identity. ``generated_name`` names what is created for it."""

    generated_name: str
    unique_node_id: str
    id: TaskExecutionIdentifier


class ResourceRequirements(msgspec.Struct, frozen=True, omit_defaults=True):
    """Resource name to Kubernetes quantity."""

    requests: Mapping[str, str] = {}
    limits: Mapping[str, str] = {}


class TaskOverrides(msgspec.Struct, frozen=True):
    """What the execution changes in the template; ``None`` and ``""`` change nothing.

    ``extended_resources`` and ``pod_template`` are serialised ``core.ExtendedResources`` and
    ``core.K8sPod``.
    """

    resources: ResourceRequirements | None = None
    extended_resources: bytes | None = None
    container_image: str = ""
    pod_template: bytes | None = None
    config: Mapping[str, str] | None = None


class TaskExecutionMetadata(msgspec.Struct, frozen=True):
    """Who runs the task, where and with what.

    Attributes:
        security_context: Serialised ``core.SecurityContext``, or ``None``.
        platform_resources: Defaults (requests) and ceilings (limits) of the platform.
    """

    owner_id: NamespacedName
    task_execution_id: TaskExecutionId
    namespace: str
    owner_reference: OwnerReference
    overrides: TaskOverrides | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    max_attempts: int = 1
    k8s_service_account: str = ""
    security_context: bytes | None = None
    interruptible: bool = False
    interruptible_failure_threshold: int = 0
    platform_resources: ResourceRequirements | None = None
    environment_variables: Mapping[str, str] = {}
    external_resource_attributes: Mapping[str, Any] = {}
    console_url: str = ""


class IOPaths(msgspec.Struct, frozen=True):
    """Where one attempt reads and writes. All are full URIs; an empty one does not exist.

    Attributes:
        output_prefix: A directory without a trailing slash.
        previous_checkpoints_prefix: Empty on the first attempt.
        task_template: Where the serialised template can be read; empty when it was not stored.
    """

    input_prefix: str
    output_prefix: str
    raw_output_prefix: str
    input: str
    output: str
    error: str
    deck: str
    checkpoint_prefix: str
    previous_checkpoints_prefix: str = ""
    task_template: str = ""


class InputReader(Protocol):
    """The literals that the task is called with."""

    async def read(self) -> literals_pb2.LiteralMap | None:
        """All inputs; ``None`` when the task has none.

        Raises:
            StorageError: they are not there or can not be read now.
            PermanentError: they are larger than the limit.
            DecodeError: they are not a literal map.
        """
        ...


class OutputReader(Protocol):
    """What an attempt left behind."""

    async def read_error(self) -> ExecutionErrorDocument | None:
        """``error.pb``, ``None`` when there is none.

        Raises:
            StorageError: it can not be read now.
        """
        ...

    async def exists(self) -> bool:
        """Whether ``outputs.pb`` is there.

        Raises:
            PermanentError: it is larger than the limit.
            StorageError: the store does not say.
        """
        ...

    async def read(self) -> bytes:
        """``outputs.pb`` as it is.

        Raises:
            PermanentError: it is larger than the limit.
            StorageError: it is not there or can not be read now.
        """
        ...


class ExecutionErrorDocument(msgspec.Struct, frozen=True):
    """``core.ErrorDocument`` as read from ``error.pb``."""

    error: ExecutionError
    is_recoverable: bool


class OutputWriter(Protocol):
    """Where a plugin that knows the outputs (a connector) leaves them."""

    async def put(self, outputs: Message) -> None: ...

    async def put_error(self, document: ExecutionErrorDocument) -> None: ...


class DataStore(Protocol):
    """Object storage by full URI (``s3://bucket/key``, ``file:///path``, ``memory:///key``)."""

    async def get(self, path: str, *, limit_bytes: int | None = None) -> bytes:
        """The whole object.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectTooLargeError: it has more than ``limit_bytes``; nothing was read.
            StorageError: anything else; worth a retry.
        """
        ...

    async def put(self, path: str, content: bytes) -> None: ...

    async def size(self, path: str) -> int | None:
        """Size in bytes; ``None`` when there is no such object."""
        ...


@runtime_checkable
class FileTransferStore(DataStore, Protocol):
    """One that also moves objects to and from files of this machine, in parts: they need not fit into memory."""

    async def get_file(self, path: str, file: Path, *, limit_bytes: int | None = None) -> int:
        """Copies the whole object into the file, which is made or overwritten, and answers with its size.

        Raises:
            ObjectNotFoundError, ObjectTooLargeError, StorageError: as of ``get``; also when the object changes meanwhile.
        """
        ...

    async def put_file(self, path: str, file: Path) -> None:
        """Writes the object from the file: at once or not at all, as ``put``."""
        ...


class SecretManager(Protocol):
    async def get(self, key: str, group: str = "", group_version: str = "") -> str:
        """The secret's value.

        Raises:
            PermanentError: there is none by that name; the message says where it was looked for.
        """
        ...


class ScopedSecretManager(SecretManager, Protocol):
    """One that knows secrets of projects and domains."""

    def of(self, project: str, domain: str) -> SecretManager:
        """That of the tasks of a project and domain."""
        ...


def secrets_of(manager: SecretManager, project: str, domain: str) -> SecretManager:
    """Those that tasks of a project and domain may have; all where the manager knows no scopes."""
    # Whether an object has a protocol takes 30 us to tell, and this is asked for every call of a connector.
    of: Callable[[str, str], SecretManager] | None = getattr(manager, "of", None)
    return manager if of is None else of(project, domain)


class AllocationStatus(enum.IntEnum):
    UNDEFINED = 0
    GRANTED = 1
    EXHAUSTED = 2
    NAMESPACE_QUOTA_EXCEEDED = 3


class ResourceConstraints(msgspec.Struct, frozen=True):
    """Caps of an allocation; ``None`` is no cap at that level."""

    project_scope: int | None = None
    namespace_scope: int | None = None


class ResourceManager(Protocol):
    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> AllocationStatus: ...

    async def release(self, namespace: str, token: str) -> None: ...


class PodTemplateStore(Protocol):
    """``core/v1 PodTemplate`` objects known in the cluster."""

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object as JSON, which nobody may change.

        Looked up in the namespace, else in the engine's own one; ``None`` when in neither.
        """
        ...


class NoPodTemplates:
    """A store with nothing in it."""

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return None


class KubernetesReader(Protocol):
    """Read access to the pods of this task only: those with the labels of its execution.

    They are as the engine's watch shows them, and a change of one wakes the task.
    """

    async def get_pod(self, name: str) -> bytes | None:
        """The pod as JSON; ``None`` when there is none of that name."""
        ...

    async def list_pods(self) -> Sequence[bytes]: ...


class TaskContext(Protocol):
    """Everything a plugin may use while it builds."""

    @property
    def template(self) -> tasks_pb2.TaskTemplate: ...

    @property
    def template_bytes(self) -> bytes:
        """The template as it was serialised; the key of everything that depends on it alone."""
        ...

    @property
    def metadata(self) -> TaskExecutionMetadata: ...

    @property
    def paths(self) -> IOPaths: ...

    @property
    def inputs(self) -> InputReader: ...

    @property
    def outputs(self) -> OutputReader: ...

    @property
    def output_writer(self) -> OutputWriter: ...

    @property
    def data_store(self) -> DataStore: ...

    @property
    def secrets(self) -> SecretManager: ...

    @property
    def resources(self) -> ResourceManager: ...

    @property
    def now(self) -> datetime:
        """The time of this round; plugins read no clock of their own."""
        ...


class PluginContext(TaskContext, Protocol):
    """What a Kubernetes plugin may use while it maps an object to a phase."""

    @property
    def plugin_state(self) -> PluginState: ...

    @property
    def kubernetes(self) -> KubernetesReader: ...


class CoreContext(TaskContext, Protocol):
    """What a core plugin may use; its own state is opaque bytes with a version."""

    @property
    def state_version(self) -> int: ...

    @property
    def state(self) -> bytes: ...

    def put_state(self, version: int, state: bytes) -> None:
        """Visible in the next round; only the last call counts."""
        ...
