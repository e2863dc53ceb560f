"""Tasks of Flyte 2's SDK, run by propfan's connectors in the program that calls them; needs the ``flyte`` extra.

Two ways: ``LocalConnectorMixin`` in the place of the SDK's ``AsyncConnectorExecutorMixin``, or ``register``, by
which the SDK's own mixin finds a connector of propfan's.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
import flyte
import flyte.connectors
import msgspec
import structlog
from flyte._internal.runtime import convert, task_serde
from flyte._task import AsyncFunctionTaskTemplate, TaskTemplate
from flyte.models import SerializationContext
from flyteidl2.connector import connector_pb2
from flyteidl2.core import interface_pb2, tasks_pb2
from flyteidl2.task import common_pb2

from propfan.engine.connector_service import local_runs
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.loading import connector_setup
from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Blob,
    Connection,
    ConnectorSetup,
    Dataset,
    JobContext,
    RemotePhase,
    Resource,
    TaskRequest,
    local,
    resources,
    values,
    wire,
)
from propfan.pluginmachinery.errors import ConfigError, PropfanError

__all__ = ["LocalConnectorMixin", "register"]

_EXIT_PATIENCE_S: Final = local.CREATE_PATIENCE_S + local.DELETE_PATIENCE_S


class LocalConnectorMixin:
    """Lets a ``TaskTemplate`` be run by its connector when it is called; stands before it among the bases.

    The job is deleted when the run fails, takes longer than the task's timeout, or is interrupted by Ctrl-C.
    A secret that ``custom.secrets`` names is taken from the environment, else from where the connector
    service looks.

    Attributes:
        connector_modules: Modules with connectors, beside those that are installed.
        connector_config: Everything else.
        poll_interval_s: Between two looks at the job.
    """

    connector_modules: ClassVar[Sequence[str]] = ()
    connector_config: ClassVar[ConnectorServiceConfig] = ConnectorServiceConfig()
    poll_interval_s: ClassVar[float] = 1.0

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """What the task returns: nothing, one value, or a tuple.

        Raises:
            ConfigError: it is no task of the SDK, or one that runs a function.
            RuntimeError: it failed.
            TimeoutError: it took longer than its timeout.
            PropfanError: whatever the connector raises.
        """
        task: Any = self
        if not isinstance(task, TaskTemplate) or isinstance(task, AsyncFunctionTaskTemplate):
            raise ConfigError(type(self).__name__, "LocalConnectorMixin is for tasks without a function of their own")
        template = _template_of(task)
        inputs = (await convert.convert_from_native_to_inputs(task.native_interface, *args, **kwargs)).proto_inputs
        modules = (*self.connector_config.modules, *self.connector_modules)
        config = msgspec.structs.replace(self.connector_config, modules=modules)
        timeout = template.metadata.timeout
        async with _ended_at_exit(), local_runs.opened(config, os.environ) as connectors:
            outcome = await local_runs.run(
                connectors,
                template,
                inputs,
                output_prefix=_output_prefix(),
                timeout_s=timeout.seconds + timeout.nanos / 1e9 or None,
                poll_interval_s=self.poll_interval_s,
                on_look=_Shown(task.name),
            )
        if outcome.resource.phase != RemotePhase.SUCCEEDED:
            raise RuntimeError(f"Failed to run the task {task.name} with error: {outcome.resource.message}")
        if outcome.outputs is None:
            return None
        return await convert.convert_outputs_to_native(
            task.native_interface, convert.Outputs(proto_outputs=outcome.outputs)
        )


def register(loader: Callable[[ConnectorSetup], AsyncConnector[Any]], *, override: bool = False) -> None:
    """Makes a connector known to the SDK, for each of its categories.

    It is made anew for each call, on the event loop that the SDK makes the call on.

    Args:
        loader: The connector's class, which names its categories.

    Raises:
        ValueError: the SDK has a connector for one of them already, and ``override`` is not set.
    """
    kind: Any = loader
    for category in kind.categories:
        attributes = {
            "name": kind.name,
            "task_type_name": category.name,
            "task_type_version": category.version,
            "metadata_type": _AdaptedMeta,
            "loader": staticmethod(loader),
        }
        adapted = type(f"Adapted{kind.__name__}", (_Adapted,), attributes)
        flyte.connectors.ConnectorRegistry.register(adapted(), override=override)


@dataclasses.dataclass
class _AdaptedMeta(flyte.connectors.ResourceMeta):
    """What a connector of propfan's has encoded."""

    content: bytes

    def encode(self) -> bytes:
        return self.content

    @classmethod
    def decode(cls, data: bytes) -> _AdaptedMeta:
        return cls(data)


class _Adapted(flyte.connectors.AsyncConnector[_AdaptedMeta]):
    """A connector of propfan's as one of the SDK's."""

    loader: Callable[[ConnectorSetup], AsyncConnector[Any]]

    async def create(
        self,
        task_template: tasks_pb2.TaskTemplate,
        output_prefix: str,
        inputs: dict[str, Any] | None = None,
        task_execution_metadata: connector_pb2.TaskExecutionMetadata | None = None,
        **kwargs: Any,
    ) -> _AdaptedMeta:
        declared = interface_pb2.TypedInterface(outputs=task_template.interface.inputs)
        literals = values.to_outputs(self.name, inputs or {}, declared).literals
        request = TaskRequest(
            task_template,
            common_pb2.Inputs(literals=literals),
            # Where an attempt leaves its outputs is its own on a cluster; the SDK's local runs share one folder.
            output_prefix if task_execution_metadata else f"{output_prefix}/{uuid.uuid4().hex}",
            task_execution_metadata,
            _connection(kwargs),
        )
        async with self._made() as connector:
            meta = await local.call(partial(connector.create, request))
            return _AdaptedMeta(resources.encode_meta(self.name, meta))

    async def get(self, resource_meta: _AdaptedMeta, **kwargs: Any) -> flyte.connectors.Resource:
        async with self._made() as connector:
            meta: Any = resources.decode_meta(self.name, connector.meta_type, resource_meta.content)
            resource: Resource = await local.call(partial(connector.get, meta, JobContext("", _connection(kwargs))))
        message = wire.resource_message(self.name, resource)
        outputs = None if resource.outputs is None else {name: _native(v) for name, v in resource.outputs.items()}
        return flyte.connectors.Resource(
            phase=message.phase,
            message=message.message,
            log_links=list(message.log_links),
            outputs=outputs,
            custom_info=dict(resource.custom_info) if resource.custom_info else None,
        )

    async def delete(self, resource_meta: _AdaptedMeta, **kwargs: Any) -> None:
        async with self._made() as connector:
            meta: Any = resources.decode_meta(self.name, connector.meta_type, resource_meta.content)
            await local.call(partial(connector.delete, meta, JobContext("", _connection(kwargs))))

    @asynccontextmanager
    async def _made(self) -> AsyncIterator[AsyncConnector[Any]]:
        async with connector_setup(ConnectorServiceConfig(), os.environ) as setup:
            connector = type(self).loader(setup)
            try:
                yield connector
            finally:
                await connector.close()


def _connection(given: dict[str, Any]) -> Connection:
    """The SDK passes secrets and settings alike as keywords."""
    texts = {name: value for name, value in given.items() if isinstance(value, str) and name != "output_prefix"}
    return Connection(texts, texts)


def _native(value: Any) -> Any:
    if not isinstance(value, Dataset | Blob):
        return value
    from flyte import io  # slow, and seldom needed

    if isinstance(value, Dataset):
        return io.DataFrame(uri=value.uri, format=value.format)
    return io.Dir(path=value.uri) if value.is_multipart else io.File(path=value.uri)


def _template_of(task: TaskTemplate[Any, Any, Any]) -> tasks_pb2.TaskTemplate:
    context = SerializationContext(version="local", project="local", domain="development", root_dir=Path.cwd())
    template: tasks_pb2.TaskTemplate = task_serde.translate_task_to_wire(task, context).task_template
    return template


def _output_prefix() -> str:
    """A place of this run's own below the SDK's; none outside of a run."""
    context: Any = flyte.ctx()
    if context is None:
        return ""
    path = context.raw_data_path.path
    root = path if "://" in path else Path(path).absolute().as_uri()
    return f"{root.rstrip('/')}/{uuid.uuid4().hex}"


class _Shown:
    """Logs what is new about a job."""

    def __init__(self, task: str) -> None:
        self._logger: Final = structlog.get_logger(__name__).bind(task=task)
        self._last: tuple[int, str] | None = None

    def __call__(self, resource: Resource) -> None:
        now = (int(resource.phase), resource.message)
        if now != self._last:
            self._last = now
            links = [link.uri for link in resource.log_links]
            self._logger.info("job", phase=RemotePhase(resource.phase).name, message=resource.message, links=links)


@asynccontextmanager
async def _ended_at_exit() -> AsyncIterator[None]:
    """Cancels the block when the interpreter ends, and lets it delete its job.

    The SDK runs tasks on a daemon thread, which hears nothing of a Ctrl-C.
    """
    loop, ended = asyncio.get_running_loop(), threading.Event()
    with anyio.CancelScope() as scope:

        def end() -> None:
            loop.call_soon_threadsafe(scope.cancel)
            ended.wait(_EXIT_PATIENCE_S)

        if threading.current_thread() is not threading.main_thread():
            atexit.register(end)
        try:
            yield
        finally:
            atexit.unregister(end)
            ended.set()
    if scope.cancelled_caught:
        raise PropfanError("interrupted: the interpreter ends")
