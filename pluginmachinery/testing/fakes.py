"""Ports that live in memory, and a context that has them all.

Nothing here waits or fails by itself; ``FakeTaskContext.with_failing_ports`` gives ports of which every
call fails, with the errors that the real ones raise.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import msgspec
from flyteidl2.core import literals_pb2, tasks_pb2
from google.protobuf.message import Message

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import (
    AllocationStatus,
    DataStore,
    ExecutionErrorDocument,
    InputReader,
    IOPaths,
    KubernetesReader,
    OutputReader,
    OutputWriter,
    ResourceConstraints,
    ResourceManager,
    SecretManager,
    TaskExecutionMetadata,
)
from propfan.pluginmachinery.errors import (
    ObjectNotFoundError,
    ObjectTooLargeError,
    PermanentError,
    StorageError,
    UnavailableError,
)
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.phases import PluginState
from propfan.pluginmachinery.registry import SetupContext
from propfan.pluginmachinery.testing.builders import NOW, io_paths, task_metadata


@dataclasses.dataclass
class InMemoryStore:
    """A ``DataStore`` whose objects are the entries of ``objects``."""

    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)

    async def get(self, path: str, *, limit_bytes: int | None = None) -> bytes:
        if path not in self.objects:
            raise ObjectNotFoundError(path)
        content = self.objects[path]
        if limit_bytes is not None and len(content) > limit_bytes:
            raise ObjectTooLargeError(path, len(content), limit_bytes)
        return content

    async def put(self, path: str, content: bytes) -> None:
        self.objects[path] = content

    async def size(self, path: str) -> int | None:
        content = self.objects.get(path)
        return None if content is None else len(content)


@dataclasses.dataclass
class FakeInputs:
    """An ``InputReader`` that answers with ``literals``."""

    literals: literals_pb2.LiteralMap | None = None

    async def read(self) -> literals_pb2.LiteralMap | None:
        return self.literals


@dataclasses.dataclass
class FakeOutputs:
    """``OutputReader`` and ``OutputWriter`` in one: what was put is read."""

    outputs: bytes | None = None
    error: ExecutionErrorDocument | None = None

    async def read_error(self) -> ExecutionErrorDocument | None:
        return self.error

    async def exists(self) -> bool:
        return self.outputs is not None

    async def read(self) -> bytes:
        if self.outputs is None:
            raise ObjectNotFoundError("outputs.pb")
        return self.outputs

    async def put(self, outputs: Message) -> None:
        self.outputs = outputs.SerializeToString(deterministic=True)

    async def put_error(self, document: ExecutionErrorDocument) -> None:
        self.error = document


@dataclasses.dataclass
class FakeSecrets:
    """A ``SecretManager``; a value is found by ``key``, or by ``group/key`` when there is a group."""

    values: Mapping[str, str] = dataclasses.field(default_factory=dict)

    async def get(self, key: str, group: str = "", group_version: str = "") -> str:
        name = f"{group}/{key}" if group else key
        if name not in self.values:
            raise PermanentError("", f"secret '{name}' is not among: {', '.join(sorted(self.values)) or 'none'}")
        return self.values[name]


@dataclasses.dataclass
class FakeResources:
    """A ``ResourceManager`` that always answers ``status`` and remembers who holds what."""

    status: AllocationStatus = AllocationStatus.GRANTED
    held: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> AllocationStatus:
        if self.status is AllocationStatus.GRANTED:
            self.held.add((namespace, token))
        return self.status

    async def release(self, namespace: str, token: str) -> None:
        self.held.discard((namespace, token))


@dataclasses.dataclass
class FakeKubernetes:
    """A ``KubernetesReader`` that knows ``pods``, given as the JSON of each."""

    pods: Sequence[Mapping[str, Any]] = ()

    async def get_pod(self, name: str) -> bytes | None:
        found = (pod for pod in self.pods if pod.get("metadata", {}).get("name") == name)
        return next(map(msgspec.json.encode, found), None)

    async def list_pods(self) -> Sequence[bytes]:
        return [msgspec.json.encode(pod) for pod in self.pods]


class FailingReader:
    """An ``InputReader`` and ``OutputReader`` whose store is down."""

    async def read(self) -> NoReturn:
        raise StorageError("memory:///", "down")

    async def read_error(self) -> NoReturn:
        raise StorageError("memory:///error.pb", "down")

    async def exists(self) -> NoReturn:
        raise StorageError("memory:///outputs.pb", "down")


class FailingResources:
    """A ``ResourceManager`` that is down."""

    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> NoReturn:
        raise UnavailableError(f"quota {namespace}", "down")

    async def release(self, namespace: str, token: str) -> NoReturn:
        raise UnavailableError(f"quota {namespace}", "down")


class FailingKubernetes:
    """A ``KubernetesReader`` whose API server is down."""

    async def get_pod(self, name: str) -> NoReturn:
        raise UnavailableError(f"Pod {name}", "down")

    async def list_pods(self) -> NoReturn:
        raise UnavailableError("pods", "down")


class FailingOutputWriter:
    """An ``OutputWriter`` that can not write."""

    async def put(self, outputs: Message) -> NoReturn:
        raise StorageError("memory:///outputs.pb", "down")

    async def put_error(self, document: ExecutionErrorDocument) -> NoReturn:
        raise StorageError("memory:///error.pb", "down")


class FailingStore:
    """A ``DataStore`` that is down."""

    async def get(self, path: str, *, limit_bytes: int | None = None) -> NoReturn:
        raise StorageError(path, "down")

    async def put(self, path: str, content: bytes) -> NoReturn:
        raise StorageError(path, "down")

    async def size(self, path: str) -> NoReturn:
        raise StorageError(path, "down")


class FailingSecrets:
    """A ``SecretManager`` without the secret that is asked for."""

    async def get(self, key: str, group: str = "", group_version: str = "") -> NoReturn:
        raise PermanentError("", f"secret '{key}' not found")


class FakeTaskContext:
    """What a plugin is given, of all three kinds: ``TaskContext``, ``PluginContext`` and ``CoreContext``.

    Every attribute may be replaced between two calls.

    Attributes:
        outputs: Reads what was put into ``output_writer``.
        stored: Version and bytes of the last ``put_state`` of this round; ``None`` when there was none.
    """

    def __init__(
        self,
        template: tasks_pb2.TaskTemplate,
        *,
        metadata: TaskExecutionMetadata | None = None,
        inputs: literals_pb2.LiteralMap | None = None,
        pods: Sequence[Mapping[str, Any]] = (),
        plugin_state: PluginState = PluginState(),  # noqa: B008 - frozen
        now: datetime = NOW,
    ) -> None:
        self.template = template
        self.template_bytes = template.SerializeToString(deterministic=True)
        self.metadata = metadata or task_metadata(template)
        self.paths: IOPaths = io_paths()
        self.inputs: InputReader = FakeInputs(inputs)
        outputs = FakeOutputs()
        self.outputs: OutputReader = outputs
        self.output_writer: OutputWriter = outputs
        self.data_store: DataStore = InMemoryStore()
        self.secrets: SecretManager = FakeSecrets()
        self.resources: ResourceManager = FakeResources()
        self.kubernetes: KubernetesReader = FakeKubernetes(pods)
        self.plugin_state = plugin_state
        self.now = now
        self.state_version = 0
        self.state = b""
        self.stored: tuple[int, bytes] | None = None

    def put_state(self, version: int, state: bytes) -> None:
        self.stored = (version, state)

    def next_round(self, after_s: float = 0.0) -> FakeTaskContext:
        """The same task ``after_s`` later, with the state that this round stored."""
        following = copy.copy(self)
        following.now = self.now + timedelta(seconds=after_s)
        if self.stored is not None:
            following.state_version, following.state = self.stored
            following.stored = None
        return following

    def with_failing_ports(self) -> FakeTaskContext:
        """The same round, while everything outside is down."""
        failing = copy.copy(self)
        failing.inputs = failing.outputs = FailingReader()
        failing.output_writer = FailingOutputWriter()
        failing.data_store = FailingStore()
        failing.secrets = FailingSecrets()
        failing.resources = FailingResources()
        failing.kubernetes = FailingKubernetes()
        return failing


def setup_context(
    *,
    k8s: K8sConfig | None = None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> SetupContext:
    """What a plugin is loaded with where nothing is configured but the given."""
    return SetupContext(
        k8s=k8s or K8sConfig(), logs=LogsConfig(), secrets=FakeSecrets(secrets or {}), sections=sections or {}
    )
