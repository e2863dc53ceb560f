"""A real connector server, in process, whose jobs and faults a test sets.

It is an idempotent one, as the contract asks: a creation that is repeated under its key finds the job.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc
from flyteidl2.core import execution_pb2
from grpc import aio

from propfan.pluginmachinery.connector.requests import IDEMPOTENCY_ANNOTATION

PHASES = execution_pb2.TaskExecution
Before = Callable[[Any, Any], Awaitable[None]]


class Job:
    """One job of the service."""

    def __init__(self, key: str, request: connector_pb2.CreateTaskRequest) -> None:
        self.key = key
        self.request = request
        self.answer = connector_pb2.Resource(phase=PHASES.RUNNING)
        self.is_deleted = False


class Service(service_pb2_grpc.AsyncConnectorServiceServicer, service_pb2_grpc.ConnectorMetadataServiceServicer):
    """``calls`` counts what came in, by method; ``before`` and ``after`` are run around the next calls of one.

    Attributes:
        jobs: By meta.
        created: Keys of the creations that made a job, in order.
        asked: Keys of all creations.
        is_finished: New jobs have succeeded when first looked at.
    """

    def __init__(self, *task_types: str) -> None:
        self.task_types = [*(task_types or ("job",))]
        self.calls: Counter[str] = Counter()
        self.before: dict[str, list[Before]] = defaultdict(list)
        self.after: dict[str, list[Before]] = defaultdict(list)
        self.jobs: dict[bytes, Job] = {}
        self.created: list[str] = []
        self.asked: list[str] = []
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.first = connector_pb2.Resource(phase=PHASES.SUCCEEDED)
        self.meta_of: Callable[[int], bytes] = lambda number: b"job-%d" % number
        self._numbers = itertools.count()
        self._changed = anyio.Event()

    # -- What tests do ---------------------------------------------------------------------------------

    def fail(self, method: str, code: grpc.StatusCode, details: str = "because", times: int = 1, **more: Any) -> None:
        """The next calls of a method are not answered but with an error."""

        async def abort(_: Any, context: Any) -> None:
            await context.abort(code, details, **more)

        self.before[method] += [abort] * times

    def hang(self, method: str, times: int = 1) -> None:
        """They are never answered."""
        self.before[method] += [_for_ever] * times

    def answer(self, **resource: Any) -> None:
        """Of new jobs, and all that exist."""
        self.first = connector_pb2.Resource(**resource)
        for job in self.jobs.values():
            job.answer = self.first

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once it does; looked at after each call."""
        while not holds():
            await self._changed.wait()

    @property
    def job(self) -> Job:
        """The only one."""
        (job,) = self.jobs.values()
        return job

    @property
    def looked_at(self) -> set[bytes]:
        """Metas of the jobs that ``GetTask`` was asked for."""
        return {each.resource_meta for each in self.requests if isinstance(each, connector_pb2.GetTaskRequest)}

    # -- What the engine calls -------------------------------------------------------------------------

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        self.calls[method] += 1
        self.requests.append(request)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        self._tell()
        if self.before[method]:
            await self.before[method].pop(0)(request, context)

    async def _leave(self, method: str, request: Any, context: Any) -> None:
        self._tell()
        if self.after[method]:
            await self.after[method].pop(0)(request, context)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def CreateTask(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        await self._enter("CreateTask", request, context)
        key = request.task_execution_metadata.annotations[IDEMPOTENCY_ANNOTATION]
        self.asked.append(key)
        meta = next((meta for meta, job in self.jobs.items() if job.key == key), None)
        if meta is None:
            meta = self.meta_of(next(self._numbers))
            self.jobs[meta] = Job(key, request)
            self.jobs[meta].answer = self.first
            self.created.append(key)
        await self._leave("CreateTask", request, context)
        return connector_pb2.CreateTaskResponse(resource_meta=meta)

    async def GetTask(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        await self._enter("GetTask", request, context)
        job = self.jobs.get(request.resource_meta)
        if job is None:
            await context.abort(
                grpc.StatusCode.INTERNAL, f"failed to get job task with error:\n no job {request.resource_meta!r}"
            )
        assert job is not None
        await self._leave("GetTask", request, context)
        return connector_pb2.GetTaskResponse(resource=job.answer)

    async def DeleteTask(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        await self._enter("DeleteTask", request, context)
        if request.resource_meta in self.jobs:
            self.jobs[request.resource_meta].is_deleted = True
        await self._leave("DeleteTask", request, context)
        return connector_pb2.DeleteTaskResponse()

    async def ListConnectors(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        await self._enter("ListConnectors", request, context)
        categories = [connector_pb2.TaskCategory(name=name) for name in self.task_types]
        one = connector_pb2.Connector(name="test", supported_task_categories=categories)
        return connector_pb2.ListConnectorsResponse(connectors=[one])


async def _for_ever(_: Any, context: Any) -> None:
    await anyio.sleep_forever()


class Server:
    """The service on a port of its own, that it keeps over restarts."""

    def __init__(self, service: Service, credentials: grpc.ServerCredentials | None = None) -> None:
        self.service = service
        self._credentials = credentials
        self.port = 0
        self._server: Any = None

    @property
    def endpoint(self) -> str:
        return f"localhost:{self.port}"

    async def start(self) -> None:
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_AsyncConnectorServiceServicer_to_server(self.service, server)  # type: ignore[no-untyped-call]
        service_pb2_grpc.add_ConnectorMetadataServiceServicer_to_server(self.service, server)  # type: ignore[no-untyped-call]
        address = f"localhost:{self.port}"
        if self._credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self._credentials)
        await server.start()
        self._server = server

    async def stop(self, grace_s: float | None = None) -> None:
        """Tells clients to go away; calls under way are ended after ``grace_s``."""
        await self._server.stop(grace_s)


@asynccontextmanager
async def serving(
    service: Service | None = None, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Server]:
    server = Server(service or Service(), credentials)
    await server.start()
    try:
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop()
