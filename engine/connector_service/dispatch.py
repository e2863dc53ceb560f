"""One call: finds its connector, waits for a turn, bounds its time, and gives its end a status.

Requests and answers are Flyte 2's messages; Flyte 1's are the same on the wire but for what ``v1`` does.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import anyio
import grpc
import msgspec
import structlog
from flyteidl2.connector import connector_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.engine.connector_service.config import ConnectorServiceConfig, TimeoutConfig
from propfan.engine.connector_service.hosts import ConnectorHost, StreamTimeoutError
from propfan.engine.connector_service.metrics import UNKNOWN, ServiceMetrics
from propfan.engine.connector_service.statuses import HTTP_STATUSES, CallError, call_error, redacted
from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connector,
    ConnectorMetadata,
    ConnectorRegistry,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskRequest,
    resources,
    wire,
)
from propfan.pluginmachinery.connector.conformance import has_logs, has_metrics
from propfan.pluginmachinery.errors import DecodeError, PermanentError, PropfanError

logger = structlog.get_logger(__name__)

_REPLY_S: Final = 0.25
"""Kept of a caller's deadline, so that it gets our answer and not just its own timeout."""

_FINISHED: Final = b"\x01"
"""Begin of the meta of a task that is over already: its ``Resource`` follows."""


class Operation(enum.Enum):
    """What is asked for; the value is the metrics' label."""

    CREATE = "create"
    GET = "get"
    DELETE = "delete"
    DO = "do"
    METRICS = "get_metrics"
    LOGS = "get_logs"

    def timeout_s(self, timeouts: TimeoutConfig) -> float:
        match self:
            case Operation.CREATE:
                return timeouts.create_s
            case Operation.GET:
                return timeouts.get_s
            case Operation.DELETE:
                return timeouts.delete_s
            case Operation.DO:
                return timeouts.do_s
            case Operation.METRICS:
                return timeouts.metrics_s
            case Operation.LOGS:
                return timeouts.logs_s


class Turn(msgspec.Struct, frozen=True):
    """What bounds one call.

    Attributes:
        give_up_at: On the event loop's clock.
        secrets: Values that must not be told.
    """

    operation: Operation
    connector: Connector
    task_type: str
    give_up_at: float
    timeout_s: float
    secrets: Collection[str] = ()

    @property
    def doing(self) -> str:
        return f"{self.operation.value} task of type '{self.task_type}'"


class Dispatcher:
    """All connectors of a service, as what can be called."""

    def __init__(
        self, hosts: Sequence[ConnectorHost], registry: ConnectorRegistry, config: ConnectorServiceConfig
    ) -> None:
        self.metrics: Final = ServiceMetrics()
        self._hosts: Final = {id(host.connector): host for host in hosts}
        self._registry: Final = registry
        self._config: Final = config
        self._slots: Final = anyio.Semaphore(config.max_concurrent_calls)

    def list_connectors(self) -> tuple[ConnectorMetadata, ...]:
        return self._registry.list_connectors()

    def get_connector(self, name: str) -> ConnectorMetadata:
        """Raises ``CallError`` when there is none of that name."""
        try:
            return self._registry.get_connector_metadata(name)
        except PropfanError as error:
            raise call_error(error, "") from error

    async def create(
        self, request: connector_pb2.CreateTaskRequest, time_left_s: float | None
    ) -> connector_pb2.CreateTaskResponse:
        """Starts the job; of a synchronous connector it does the whole task, whose end the meta then tells."""
        task = wire.task_request(request)
        with self._turn(
            Operation.CREATE,
            task.template.type,
            task.template.task_type_version,
            time_left_s,
            request.connection.secrets,
        ) as turn:
            self.metrics.had_inputs(turn.task_type, request.inputs.ByteSize())
            connector = turn.connector
            if isinstance(connector, SyncConnector):
                return connector_pb2.CreateTaskResponse(resource_meta=await self._finished(turn, connector, task))
            assert isinstance(connector, AsyncConnector)
            meta = await self._call(turn, partial(connector.create, task))
            try:
                content = _encoded(connector, meta)
            except PermanentError as error:
                await self._delete_lost(turn, connector, meta, request)
                raise _nonsense(turn, error) from error
            return connector_pb2.CreateTaskResponse(resource_meta=content)

    async def get(
        self, request: connector_pb2.GetTaskRequest, time_left_s: float | None
    ) -> connector_pb2.GetTaskResponse:
        category = request.task_category
        secrets = request.connection.secrets
        with self._turn(Operation.GET, category.name, category.version, time_left_s, secrets) as turn:
            connector = turn.connector
            if not isinstance(connector, AsyncConnector):
                return connector_pb2.GetTaskResponse(resource=_finished_resource(turn, request.resource_meta))
            meta = self._meta(turn, connector, request.resource_meta)
            resource = await self._call(turn, partial(connector.get, meta, wire.job_context(request)))
            try:
                return connector_pb2.GetTaskResponse(resource=wire.resource_message(connector.name, resource))
            except PermanentError as error:
                raise _nonsense(turn, error) from error

    async def delete(
        self, request: connector_pb2.DeleteTaskRequest, time_left_s: float | None
    ) -> connector_pb2.DeleteTaskResponse:
        category = request.task_category
        secrets = request.connection.secrets
        with self._turn(Operation.DELETE, category.name, category.version, time_left_s, secrets) as turn:
            connector = turn.connector
            if isinstance(connector, AsyncConnector):
                meta = self._meta(turn, connector, request.resource_meta)
                await self._call(turn, partial(connector.delete, meta, wire.job_context(request)))
            return connector_pb2.DeleteTaskResponse()

    async def do(self, request: connector_pb2.CreateTaskRequest, time_left_s: float | None) -> connector_pb2.Resource:
        """A whole task of a synchronous connector."""
        task = wire.task_request(request)
        template = task.template
        secrets = request.connection.secrets
        with self._turn(Operation.DO, template.type, template.task_type_version, time_left_s, secrets) as turn:
            self.metrics.had_inputs(turn.task_type, request.inputs.ByteSize())
            connector = turn.connector
            if not isinstance(connector, SyncConnector):
                problem = f"[{connector.name}] does not support sync execution: call AsyncAgentService/CreateTask"
                raise CallError(grpc.StatusCode.FAILED_PRECONDITION, problem)
            return await self._done(turn, connector, task)

    async def get_metrics(
        self, request: connector_pb2.GetTaskMetricsRequest, time_left_s: float | None
    ) -> connector_pb2.GetTaskMetricsResponse:
        category = request.task_category
        with self._turn(Operation.METRICS, category.name, category.version, time_left_s) as turn:
            connector = turn.connector
            if not isinstance(connector, AsyncConnector) or not has_metrics(connector):
                raise _lacks(turn, "metrics")
            meta = self._meta(turn, connector, request.resource_meta)
            found = await self._call(turn, partial(connector.get_metrics, meta, wire.metrics_query(request)))
            try:
                return wire.metrics_message(connector.name, found)
            except PermanentError as error:
                raise _nonsense(turn, error) from error

    async def get_logs(
        self, request: connector_pb2.GetTaskLogsRequest, time_left_s: float | None
    ) -> AsyncIterator[connector_pb2.GetTaskLogsResponse]:
        category = request.task_category
        with self._turn(Operation.LOGS, category.name, category.version, time_left_s) as turn:
            connector = turn.connector
            if not isinstance(connector, AsyncConnector) or not has_logs(connector):
                raise _lacks(turn, "logs")
            meta = self._meta(turn, connector, request.resource_meta)
            host = await self._wait_for_slots(turn)
            try:
                pages: Any = partial(connector.get_logs, meta, wire.logs_query(request))
                async for page in host.stream(pages, turn.give_up_at - anyio.current_time()):
                    try:
                        messages = wire.log_messages(connector.name, page)
                    except PermanentError as error:
                        raise _nonsense(turn, error) from error
                    for message in messages:
                        yield message
            except StreamTimeoutError as error:
                raise self._too_slow(turn, host) from error
            finally:
                self._slots.release()

    async def _done(self, turn: Turn, connector: SyncConnector, task: TaskRequest) -> connector_pb2.Resource:
        timed = msgspec.structs.replace(task, time_left_s=turn.give_up_at - anyio.current_time())
        resource: Resource = await self._call(turn, partial(connector.do, timed))
        try:
            _check_finished(connector, resource)
            interface = task.template.interface if resource.outputs is not None else None
            return wire.resource_message(connector.name, resource, interface)
        except PermanentError as error:
            raise _nonsense(turn, error) from error

    async def _finished(self, turn: Turn, connector: SyncConnector, task: TaskRequest) -> bytes:
        """The meta of a task that is over; outputs that are too large for it go where the caller looks for them."""
        message = await self._done(turn, connector, task)
        content = _FINISHED + message.SerializeToString(deterministic=True)
        if len(content) > resources.MAX_META_BYTES and message.HasField("outputs") and task.output_prefix:
            outputs = message.outputs.SerializeToString(deterministic=True)
            path = f"{task.output_prefix.rstrip('/')}/outputs.pb"
            await self._call(turn, partial(connector.setup.store.put, path, outputs))
            message.ClearField("outputs")
            content = _FINISHED + message.SerializeToString(deterministic=True)
        if len(content) > resources.MAX_META_BYTES:
            problem = (
                f"the answer of '{connector.name}' has {len(content)} bytes, the limit is {resources.MAX_META_BYTES}"
            )
            raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"failed to {turn.doing}: {problem}")
        return content

    async def _delete_lost(
        self, turn: Turn, connector: AsyncConnector[Any], meta: object, request: connector_pb2.CreateTaskRequest
    ) -> None:
        """Deletes a job that nobody could find again."""
        if not isinstance(meta, connector.meta_type):
            return
        job = wire.job_context(connector_pb2.DeleteTaskRequest(connection=request.connection))
        try:
            await self._call(turn, partial(connector.delete, meta, job))
        except Exception as error:  # noqa: BLE001 - what is told is why the meta is no good
            logger.warning("job of an unusable meta is left behind", connector=connector.name, error=str(error))

    def _meta(self, turn: Turn, connector: AsyncConnector[Any], content: bytes) -> Any:
        try:
            return resources.decode_meta(connector.name, connector.meta_type, content)
        except DecodeError as error:
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"failed to {turn.doing}: {error}") from error

    @contextmanager
    def _turn(
        self,
        operation: Operation,
        task_type: str,
        version: int,
        time_left_s: float | None,
        secrets: Mapping[str, str] = {},
    ) -> Iterator[Turn]:
        """Finds the connector, and tells the metrics and the log how the block ends.

        Raises:
            CallError: in place of whatever the block raises.
        """
        started_at = anyio.current_time()
        label = UNKNOWN
        try:
            connector = self._registry.get_connector(task_type, version)
            label = task_type
            limit = self._config.limits.get(connector.name)
            timeouts = (limit and limit.timeouts) or self._config.timeouts
            timeout_s = operation.timeout_s(timeouts)
            if time_left_s is not None:
                timeout_s = min(timeout_s, max(time_left_s - _REPLY_S, 0.8 * time_left_s))
            yield Turn(operation, connector, task_type, started_at + timeout_s, timeout_s, tuple(secrets.values()))
        except Exception as error:
            told = call_error(error, f"{operation.value} task of type '{task_type}'")
            message = redacted(told.message, secrets.values())
            latency_s = anyio.current_time() - started_at
            self.metrics.failed(label, operation.value, latency_s, HTTP_STATUSES.get(told.code, "500"))
            logger.warning(
                "call failed", operation=operation.value, task_type=task_type, status=told.code.name, error=message
            )
            raise CallError(told.code, message, told.retry_after_s) from error
        else:
            self.metrics.succeeded(label, operation.value, anyio.current_time() - started_at)

    async def _call(self, turn: Turn, function: Callable[[], Any]) -> Any:
        """What ``function`` answers; it may be async or not."""
        host = await self._wait_for_slots(turn)
        try:
            with anyio.move_on_after(turn.give_up_at - anyio.current_time()):
                return await host.call(function)
        finally:
            self._slots.release()
        raise self._too_slow(turn, host)

    async def _wait_for_slots(self, turn: Turn) -> ConnectorHost:
        """A turn of the service and one of the connector; the latter is given back by its host."""
        host = self._hosts[id(turn.connector)]
        if host.blocked_for_s >= self._config.block_limit_s:
            problem = f"connector '{turn.connector.name}' does not react: {host.explain_block()}"
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"failed to {turn.doing}: {problem}")
        waits_for = f"connector '{turn.connector.name}' has {host.calls_in_flight} calls in flight"
        try:
            with anyio.fail_after(turn.give_up_at - anyio.current_time()):
                await host.slots.acquire()
                try:
                    waits_for = f"the service has {self._config.max_concurrent_calls} calls in flight"
                    await self._slots.acquire()
                except BaseException:
                    host.slots.release()
                    raise
        except TimeoutError as error:
            problem = f"{waits_for}, and no turn was free within {turn.timeout_s:.2g} s"
            reason = host.explain_block()
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"failed to {turn.doing}: {problem}{reason and f': {reason}'}"
            ) from error
        return host

    def _too_slow(self, turn: Turn, host: ConnectorHost) -> CallError:
        reason = host.explain_block() or "it neither ended nor failed; what it began is found by the next call"
        problem = f"connector '{turn.connector.name}' did not answer within {turn.timeout_s:.3g} s: {reason}"
        return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"failed to {turn.doing}: {problem}")


def _encoded(connector: AsyncConnector[Any], meta: object) -> bytes:
    if not isinstance(meta, connector.meta_type):
        problem = f"create must answer with {connector.meta_type.__name__}, is {type(meta).__name__}"
        raise PermanentError("", f"connector '{connector.name}': {problem}")
    return resources.encode_meta(connector.name, meta)


def _check_finished(connector: SyncConnector, resource: Resource) -> None:
    wire.check_resource(connector.name, resource)
    if not RemotePhase(resource.phase).is_terminal:
        problem = f"do must end with a terminal phase, is {RemotePhase(resource.phase).name}"
        raise PermanentError("", f"connector '{connector.name}': {problem}")


def _nonsense(turn: Turn, error: PermanentError) -> CallError:
    return CallError(
        grpc.StatusCode.INTERNAL, f"failed to {turn.doing}: {error.message}; this is a fault of the connector"
    )


def _lacks(turn: Turn, what: str) -> CallError:
    return CallError(grpc.StatusCode.UNIMPLEMENTED, f"connector '{turn.connector.name}' has no {what}")


def _finished_resource(turn: Turn, content: bytes) -> connector_pb2.Resource:
    """What ``_finished`` made."""
    problem = f"resource meta for connector '{turn.connector.name}' is none that its CreateTask answered"
    if not content.startswith(_FINISHED):
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"failed to {turn.doing}: {problem}")
    try:
        return connector_pb2.Resource.FromString(content[len(_FINISHED) :])
    except ProtobufDecodeError as error:
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"failed to {turn.doing}: {problem}: {error}") from error
