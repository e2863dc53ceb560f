"""What a plugin is given in one round: the task's values, decoded when first asked for, and its ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Final

import msgspec
from flyteidl2.core import tasks_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.engine import sharding
from propfan.engine.cluster import POD, Cluster
from propfan.engine.resources.config import QuotasSection
from propfan.engine.task_state import TaskState
from propfan.pluginmachinery import iopaths, metadata, object_metadata, readers
from propfan.pluginmachinery.contexts import (
    AllocationStatus,
    DataStore,
    IOPaths,
    ResourceConstraints,
    ResourceManager,
    SecretManager,
    TaskExecutionMetadata,
    secrets_of,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, Properties
from propfan.pluginmachinery.metadata import TemplateFacts
from propfan.pluginmachinery.phases import PluginState
from propfan.pluginmachinery.taskaction import MANAGED_LABEL, TaskAction

_FACTS_KEPT: Final = 1024
_LONGEST_KEPT_BYTES: Final = 16 * 1024


class Ports(msgspec.Struct, frozen=True):
    """What is the same for all tasks."""

    cluster: Cluster
    store: DataStore
    secrets: SecretManager
    max_payload_bytes: int
    default_service_account: str
    shard_count: int = 0
    """Objects wear the shard of their task where there are any."""
    quotas: QuotasSection = QuotasSection()
    """Objects wear the labels of their task's queue."""
    known_facts: dict[bytes, TemplateFacts] = msgspec.field(default_factory=dict)
    """By serialised template: what runs at one time has few different ones."""


class GrantEverything:
    """A resource manager without quotas."""

    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> AllocationStatus:
        return AllocationStatus.GRANTED

    async def release(self, namespace: str, token: str) -> None:
        return None


_NO_QUOTAS: Final = GrantEverything()


class TaskValues:
    """What follows from a TaskAction and the attempt alone; shared by rounds of the same attempt."""

    # Not cached_property: before Python 3.12 it takes a lock for every first access.
    __slots__ = ("_metadata", "_object_name", "_paths", "_ports", "_template", "action", "attempt", "template_bytes")

    def __init__(self, action: TaskAction, attempt: int, ports: Ports) -> None:
        self.action: Final = action
        self.attempt: Final = attempt
        self.template_bytes: Final = action.spec.task_template or b""
        self._ports: Final = ports
        self._object_name = ""
        self._template: tasks_pb2.TaskTemplate | None = None
        self._metadata: TaskExecutionMetadata | None = None
        self._paths: IOPaths | None = None

    def object_name(self, properties: Properties) -> str:
        """Of the attempt's object; ``properties`` are those of the one plugin that runs it."""
        self._object_name = self._object_name or object_metadata.object_name(self.metadata, properties)
        return self._object_name

    @property
    def template(self) -> tasks_pb2.TaskTemplate:
        if self._template is None:
            self._template = parse_template(self.template_bytes)
        return self._template

    @property
    def metadata(self) -> TaskExecutionMetadata:
        if self._metadata is None:
            account = self._ports.default_service_account
            made = metadata.task_metadata(
                self.action, None, attempt=self.attempt, default_service_account=account, facts=self._facts()
            )
            more = dict(self._ports.quotas.labels_of(self.action.metadata.labels))
            if self._ports.shard_count:
                shard = sharding.shard_of(made.namespace, self.action.spec.run_name, self._ports.shard_count)
                more[sharding.SHARD_LABEL] = str(shard)
            if more:
                made = msgspec.structs.replace(made, labels={**made.labels, **more})
            self._metadata = made
        return self._metadata

    def _facts(self) -> TemplateFacts:
        known, serialised = self._ports.known_facts, self.template_bytes
        facts = known.get(serialised)
        if facts is None:
            facts = metadata.facts_of(self.template)
            if len(known) >= _FACTS_KEPT:
                known.clear()
            if len(serialised) <= _LONGEST_KEPT_BYTES:
                known[serialised] = facts
        return facts

    @property
    def paths(self) -> IOPaths:
        if self._paths is None:
            self._paths = iopaths.attempt_paths(self.action, self.attempt)
        return self._paths


class RoundContext:
    """A ``TaskContext``, ``PluginContext``, ``CoreContext`` and ``WebContext`` in one; made anew for each round.

    Args:
        seen_pods: Those of the task as a watch shows them; ``None`` where none does.
        resources: Of the task; without one everything is granted.

    Attributes:
        idempotency_key: Of the launch, where a job is created; otherwise empty.
    """

    def __init__(
        self,
        values: TaskValues,
        state: TaskState,
        ports: Ports,
        now: datetime,
        seen_pods: Mapping[str, bytes] | None = None,
        resources: ResourceManager | None = None,
    ) -> None:
        self._values: Final = values
        self._state: Final = state
        self._ports: Final = ports
        self.now: Final = now
        self.new_state: tuple[int, bytes] | None = None
        self.idempotency_key = ""
        self._seen_pods: Final = seen_pods
        self._resources: Final = resources or _NO_QUOTAS
        self._lender = ""

    @property
    def attempt(self) -> int:
        """The one that the context is of, from 1."""
        return self._values.attempt

    @property
    def action(self) -> TaskAction:
        return self._values.action

    @property
    def template(self) -> tasks_pb2.TaskTemplate:
        return self._values.template

    @property
    def template_bytes(self) -> bytes:
        return self._values.template_bytes

    @property
    def metadata(self) -> TaskExecutionMetadata:
        return self._values.metadata

    @property
    def paths(self) -> IOPaths:
        return self._values.paths

    def object_name(self, properties: Properties) -> str:
        return self._values.object_name(properties)

    @cached_property
    def inputs(self) -> readers.RemoteInputReader:
        return readers.RemoteInputReader(
            self._ports.store,
            self.paths.input,
            expected=bool(self.template.interface.inputs.variables),
            limit_bytes=self._ports.max_payload_bytes,
        )

    @property
    def outputs(self) -> readers.RemoteOutputReader:
        return readers.RemoteOutputReader(self._ports.store, self.paths, limit_bytes=self._ports.max_payload_bytes)

    @property
    def output_writer(self) -> readers.RemoteOutputWriter:
        return readers.RemoteOutputWriter(self._ports.store, self.paths)

    @property
    def data_store(self) -> DataStore:
        return self._ports.store

    @property
    def secrets(self) -> SecretManager:
        spec = self.action.spec
        return secrets_of(self._ports.secrets, spec.project, spec.domain)

    @property
    def resources(self) -> ResourceManager:
        return self._resources

    @property
    def plugin_state(self) -> PluginState:
        state = self._state
        return PluginState(state.phase, max(0, state.phase_version - state.version_base), state.reason)

    @property
    def kubernetes(self) -> OwnedPods:
        return OwnedPods(self._ports.cluster, self.metadata, self._seen_pods, self._lender)

    def lend_pods(self, shared_cluster: str) -> None:
        """From now on ``kubernetes`` shows the pods of that cluster too."""
        self._lender = shared_cluster

    @property
    def state_version(self) -> int:
        data = self._state.plugin_data
        return data.version if data is not None else 0

    @property
    def state(self) -> bytes:
        data = self._state.plugin_data
        return data.content if data is not None else b""

    def put_state(self, version: int, state: bytes) -> None:
        self.new_state = (version, state)

    async def publish_template(self) -> None:
        """Stores ``task.pb`` where the task will look for it, when its command asks for that."""
        if b"tasktemplatepath" in self.template_bytes.lower():
            await self._ports.store.put(self.paths.task_template, self.template_bytes)


class OwnedPods:
    """The ``KubernetesReader`` of one task: sees pods with the labels of its run and action only.

    Args:
        seen: The task's pods, by name, as a watch shows them; ``None`` reads them from the cluster.
        lender: Shared cluster whose pods are seen too; may be empty. They are read from the cluster.
    """

    def __init__(
        self, cluster: Cluster, task: TaskExecutionMetadata, seen: Mapping[str, bytes] | None = None, lender: str = ""
    ) -> None:
        self._cluster: Final = cluster
        self._namespace: Final = task.namespace
        self._seen: Final[Mapping[str, bytes]] = seen if seen is not None else {}
        own = [labels_of(task)] if seen is None else []
        self._selectors: Final = [*own, {CLUSTER_LABEL: lender}] if lender else own

    async def get_pod(self, name: str) -> bytes | None:
        seen = self._seen.get(name)
        if seen is not None or not self._selectors:
            return seen
        try:
            pod = await self._cluster.get(POD, self._namespace, name)
        except NotFoundError:
            return None
        labels = pod.metadata.labels
        is_seen = any(all(labels.get(key) == value for key, value in each.items()) for each in self._selectors)
        return pod.raw if is_seen else None

    async def list_pods(self) -> Sequence[bytes]:
        found = [self._seen[name] for name in sorted(self._seen)]
        for labels in self._selectors:
            token = ""
            while True:
                page = await self._cluster.list(POD, namespace=self._namespace, labels=labels, continue_token=token)
                found += [pod.raw for pod in page.items]
                token = page.continue_token
                if not token:
                    break
        return found


def labels_of(task: TaskExecutionMetadata) -> dict[str, str]:
    """What tells a task's objects, of all its attempts, from those of the others in its namespace."""
    return {name: task.labels[name] for name in (MANAGED_LABEL, "run", "action") if name in task.labels}


def parse_template(serialised: bytes) -> tasks_pb2.TaskTemplate:
    """The template that was serialised.

    Raises:
        BadTaskSpecificationError: it is not a ``core.TaskTemplate``.
    """
    try:
        return tasks_pb2.TaskTemplate.FromString(serialised)
    except ProtobufDecodeError as error:
        raise BadTaskSpecificationError(f"spec.taskTemplate is not a serialised core.TaskTemplate: {error}") from error
