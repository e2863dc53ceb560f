"""Tasks of flytekit, the SDK of Flyte 1, run by propfan's connectors in the program that calls them.

Needs flytekit. ``LocalConnectorMixin`` stands in the place of the SDK's ``AsyncConnectorExecutorMixin`` and
``SyncConnectorExecutorMixin``; ``register`` makes a connector known to the SDK's own.
"""

from __future__ import annotations

import dataclasses
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import msgspec
from anyio.from_thread import start_blocking_portal
from flyteidl.core import execution_pb2 as execution_v1
from flyteidl.core import literals_pb2 as literals_v1
from flyteidl2.core import tasks_pb2
from flyteidl2.task import common_pb2
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.exceptions.user import FlyteUserException
from flytekit.extend.backend import base_connector
from flytekit.models.literals import LiteralMap
from flytekit.tools.translator import get_serializable

from propfan.engine.connector_service import local_runs
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.loading import connector_setup
from propfan.pluginmachinery.connector import (
    Connection,
    Connector,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskRequest,
    local,
    resources,
    wire,
)

__all__ = ["LocalConnectorMixin", "register"]


class LocalConnectorMixin:
    """Lets a ``PythonTask`` be run by its connector when it is called; stands before it among the bases.

    The job is deleted when the run fails or is interrupted by Ctrl-C. Unlike the SDK's own mixins it keeps the
    task's timeout.

    Attributes:
        connector_modules: Modules with connectors, beside those that are installed.
        connector_config: Everything else.
        poll_interval_s: Between two looks at the job.
    """

    connector_modules: ClassVar[Sequence[str]] = ()
    connector_config: ClassVar[ConnectorServiceConfig] = ConnectorServiceConfig()
    poll_interval_s: ClassVar[float] = 1.0

    def execute(self, **kwargs: Any) -> LiteralMap:
        """The outputs.

        Raises:
            FlyteUserException: the task failed.
            TimeoutError: it took longer than its timeout.
            PropfanError: whatever the connector raises.
        """
        task: Any = self
        settings = SerializationSettings(image_config=ImageConfig())
        serialised = get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()
        template = tasks_pb2.TaskTemplate.FromString(serialised.SerializeToString())
        context = FlyteContextManager.current_context()
        literals = TypeEngine.dict_to_literal_map(context, kwargs, task.python_interface.inputs).to_flyte_idl()
        inputs = common_pb2.Inputs.FromString(literals.SerializeToString())
        prefix = context.file_access.get_random_remote_directory()
        # In a thread: the SDK answers signals by an exit, which would tear an event loop of this thread down.
        with start_blocking_portal() as portal:
            running = portal.start_task_soon(self._run, template, inputs, prefix)
            try:
                outcome = running.result()
            finally:
                running.cancel()  # of no effect when it is over; else the job is deleted before the portal closes
        if outcome.resource.phase != RemotePhase.SUCCEEDED:
            raise FlyteUserException(f"Failed to run the task {task.name} with error: {outcome.resource.message}")
        outputs = outcome.outputs or common_pb2.Outputs()
        return _literal_map(outputs)

    async def _run(
        self, template: tasks_pb2.TaskTemplate, inputs: common_pb2.Inputs, prefix: str
    ) -> local_runs.LocalOutcome:
        modules = (*self.connector_config.modules, *self.connector_modules)
        timeout = template.metadata.timeout
        async with local_runs.opened(
            msgspec.structs.replace(self.connector_config, modules=modules), os.environ
        ) as connectors:
            return await local_runs.run(
                connectors,
                template,
                inputs,
                output_prefix=prefix,
                timeout_s=timeout.seconds + timeout.nanos / 1e9 or None,
                poll_interval_s=self.poll_interval_s,
            )


def register(loader: Callable[[ConnectorSetup], Connector], *, override: bool = False) -> None:
    """Makes a connector known to the SDK, for each of its categories.

    It is made anew for each call, on the event loop that the SDK makes the call on.

    Args:
        loader: The connector's class, which names its categories.

    Raises:
        ValueError: the SDK has a connector for one of them already, and ``override`` is not set.
    """
    kind: Any = loader
    base: Any = _AdaptedSync if issubclass(kind, SyncConnector) else _Adapted
    for category in kind.categories:
        attributes = {"name": kind.name, "loader": staticmethod(loader)}
        adapted = type(f"Adapted{kind.__name__}", (base,), attributes)
        base_connector.ConnectorRegistry.register(adapted(category.name, category.version), override=override)


@dataclasses.dataclass
class _AdaptedMeta(base_connector.ResourceMeta):  # type: ignore[misc] # flytekit is not typed here
    """What a connector of propfan's has encoded."""

    content: bytes

    def encode(self) -> bytes:
        return self.content

    @classmethod
    def decode(cls, data: bytes) -> _AdaptedMeta:
        return cls(data)


class _Made:
    """Makes the connector for one call."""

    loader: Callable[[ConnectorSetup], Any]

    @asynccontextmanager
    async def _made(self) -> AsyncIterator[Any]:
        async with connector_setup(ConnectorServiceConfig(), os.environ) as setup:
            connector = type(self).loader(setup)
            try:
                yield connector
            finally:
                await connector.close()

    async def _request(self, template: Any, output_prefix: str, inputs: Any) -> TaskRequest:
        literals = inputs.to_flyte_idl() if inputs is not None else literals_v1.LiteralMap()
        async with connector_setup(ConnectorServiceConfig(), os.environ) as setup:
            made = tasks_pb2.TaskTemplate.FromString(template.to_flyte_idl().SerializeToString())
            connection: Connection = await local_runs.connection_of(made, setup)
        return TaskRequest(
            made, common_pb2.Inputs.FromString(literals.SerializeToString()), output_prefix, connection=connection
        )


class _Adapted(_Made, base_connector.AsyncConnectorBase):  # type: ignore[misc]
    """A connector of propfan's as one of the SDK's."""

    def __init__(self, task_type: str, version: int) -> None:
        super().__init__(metadata_type=_AdaptedMeta, task_type_name=task_type, task_type_version=version)

    async def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> _AdaptedMeta:
        request = await self._request(task_template, output_prefix, inputs)
        async with self._made() as connector:
            meta = await local.call(partial(connector.create, request))
            return _AdaptedMeta(resources.encode_meta(connector.name, meta))

    async def get(self, resource_meta: _AdaptedMeta, **kwargs: Any) -> base_connector.Resource:
        async with self._made() as connector:
            meta: Any = resources.decode_meta(connector.name, connector.meta_type, resource_meta.content)
            return _resource(connector.name, await local.call(partial(connector.get, meta, JobContext())))

    async def delete(self, resource_meta: _AdaptedMeta, **kwargs: Any) -> None:
        async with self._made() as connector:
            meta: Any = resources.decode_meta(connector.name, connector.meta_type, resource_meta.content)
            await local.call(partial(connector.delete, meta, JobContext()))


class _AdaptedSync(_Made, base_connector.SyncConnectorBase):  # type: ignore[misc]
    """A synchronous one."""

    def __init__(self, task_type: str, version: int) -> None:
        super().__init__(task_type_name=task_type, task_type_version=version)

    async def do(
        self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any
    ) -> base_connector.Resource:
        request = await self._request(task_template, output_prefix, inputs)
        async with self._made() as connector:
            return _resource(connector.name, await local.call(partial(connector.do, request)))


def _resource(connector: str, resource: Resource) -> base_connector.Resource:
    message = wire.resource_message(connector, resource)
    return base_connector.Resource(
        phase=message.phase,
        message=message.message,
        log_links=[execution_v1.TaskLog.FromString(link.SerializeToString()) for link in message.log_links],
        outputs=_literal_map(message.outputs) if message.HasField("outputs") else None,
        custom_info=dict(resource.custom_info) if resource.custom_info else None,
    )


def _literal_map(outputs: common_pb2.Outputs) -> LiteralMap:
    return LiteralMap.from_flyte_idl(literals_v1.LiteralMap.FromString(outputs.SerializeToString()))
