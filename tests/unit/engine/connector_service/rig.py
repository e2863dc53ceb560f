"""A connector service on loopback, and connectors that do what their task's ``custom`` tells them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import anyio.from_thread
import grpc
import msgspec
from flyteidl.service import agent_pb2_grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc
from flyteidl2.core import tasks_pb2, types_pb2

from propfan.engine.connector_service import server
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.pluginmachinery.connector import (
    AsyncConnector,
    ConnectorSetup,
    JobContext,
    LogLine,
    LogPage,
    LogsQuery,
    Metric,
    MetricsQuery,
    RemotePhase,
    Resource,
    ResourceMeta,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.connector.registry import ConnectorOffer, Offers
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import task_template

CONFIG = ConnectorServiceConfig(port=0, metrics_port=0, drain_s=5)

ERRORS: Mapping[str, Exception] = {
    "bad-task": BadTaskSpecificationError("no such colour"),
    "permanent": PermanentError("QuotaGone", "the account is closed"),
    "transient": TransientError("", "try again"),
    "busy": TransientError("", "the vendor throttles", 1.5),
    "busy-for-ever": TransientError("", "the vendor throttles", float("inf")),
    "lookup": LookupError("no such region"),
    "unimplemented": NotImplementedError("not yet"),
    "timeout": TimeoutError("the library's own"),
    "cancelled": anyio.EndOfStream(),
}


class Behaviour(msgspec.Struct, frozen=True):
    """``custom`` of a task, kept in its meta.

    Attributes:
        fail: Operation to key of ``ERRORS``.
        answer: What ``get`` answers.
    """

    fail: dict[str, str] = {}
    answer: str = "done"


class JobMeta(ResourceMeta, frozen=True):
    id: str
    behaviour: Behaviour = Behaviour()


class Jobs(AsyncConnector[JobMeta]):
    """A good one, unless it is told not to be."""

    name = "Jobs"
    categories: ClassVar[Sequence[TaskCategory]] = (TaskCategory("job"), TaskCategory("job", 1))
    meta_type = JobMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.is_closed = threading.Event()

    async def create(self, task: TaskRequest) -> JobMeta:
        behaviour = task.custom(Behaviour)
        self._does("create", behaviour)
        return JobMeta(task.unique_name(), behaviour)

    async def get(self, meta: JobMeta, job: JobContext) -> Resource:
        self._does("get", meta.behaviour)
        answers: dict[str, Any] = {
            "done": Resource(RemotePhase.SUCCEEDED, "fine", outputs={"n": 1}),
            "secret": Resource(RemotePhase.SUCCEEDED, job.connection.secrets.get("token", "none")),
            "nothing": None,
            "phase": Resource(44),  # type: ignore[arg-type]
            "outputs": Resource(RemotePhase.SUCCEEDED, outputs={"n": object()}),
        }
        answer: Resource = answers[meta.behaviour.answer]
        return answer

    async def delete(self, meta: JobMeta, job: JobContext) -> None:
        self._does("delete", meta.behaviour)

    async def get_metrics(self, meta: JobMeta, query: MetricsQuery) -> list[Metric]:
        self._does("get_metrics", meta.behaviour)
        return [Metric(name) for name in query.queries]

    async def get_logs(self, meta: JobMeta, query: LogsQuery) -> AsyncIterator[LogPage]:
        self._does("get_logs", meta.behaviour)
        for page in range(3):
            yield LogPage([LogLine(f"{query.token}{page}")], str(page) if page < 2 else "")

    async def close(self) -> None:
        self.is_closed.set()

    def _does(self, operation: str, behaviour: Behaviour) -> None:
        self.calls.append(operation)
        self.threads.add(threading.get_ident())
        if operation in behaviour.fail:
            raise ERRORS[behaviour.fail[operation]]


class Greeter(SyncConnector):
    name = "Greeter"
    categories = (TaskCategory("greet"),)

    def do(self, task: TaskRequest) -> Resource:
        behaviour = task.custom(Behaviour)
        if "do" in behaviour.fail:
            raise ERRORS[behaviour.fail["do"]]
        if behaviour.answer == "running":
            return Resource(RemotePhase.RUNNING)
        if behaviour.answer == "large":
            return Resource(RemotePhase.SUCCEEDED, outputs={"greeting": "x" * 300_000})
        return Resource(RemotePhase.SUCCEEDED, outputs={"greeting": f"hello {task.inputs().get('name', 'you')}"})


class Gated(AsyncConnector[JobMeta]):
    """Its calls wait for ``gate``: in the way that the subclass says."""

    meta_type = JobMeta
    gate: ClassVar[threading.Event]
    entered: ClassVar[threading.Event]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.gate, cls.entered = threading.Event(), threading.Event()

    async def create(self, task: TaskRequest) -> JobMeta:
        return JobMeta(task.unique_name())

    def get(self, meta: JobMeta, job: JobContext) -> Any:
        return Resource(RemotePhase.RUNNING)

    def delete(self, meta: JobMeta, job: JobContext) -> Any:
        return None


def blocking() -> type[Gated]:
    """Blocks its event loop in ``create``."""

    class Blocking(Gated):
        name = "Blocking"
        categories = (TaskCategory("blocking"),)

        async def create(self, task: TaskRequest) -> JobMeta:
            self.entered.set()
            self.gate.wait()
            return JobMeta(task.unique_name())

    return Blocking


def hanging() -> type[Gated]:
    """Never ends ``create``, which can be cancelled, and ``get``, which can not: it is a thread's."""

    class Hanging(Gated):
        name = "Hanging"
        categories = (TaskCategory("hanging"),)
        max_concurrent_calls = 2
        is_cancelled: ClassVar[threading.Event] = threading.Event()

        async def create(self, task: TaskRequest) -> JobMeta:
            self.entered.set()
            try:
                await anyio.Event().wait()
            finally:
                self.is_cancelled.set()
            return JobMeta(task.unique_name())

        def get(self, meta: JobMeta, job: JobContext) -> Resource:
            self.entered.set()
            self.gate.wait()
            return Resource(RemotePhase.RUNNING)

    return Hanging


def leaving() -> type[Gated]:
    """Ends the process wherever it can."""

    class Leaving(Gated):
        name = "Leaving"
        categories = (TaskCategory("leaving"),)

        async def create(self, task: TaskRequest) -> JobMeta:
            raise SystemExit("bye")

        def get(self, meta: JobMeta, job: JobContext) -> Resource:
            raise SystemExit("bye")

        async def delete(self, meta: JobMeta, job: JobContext) -> None:
            raise KeyboardInterrupt

    return Leaving


def offers_of(*kinds: Any) -> Offers:
    return Offers([ConnectorOffer(kind, "tests", f"tests:{getattr(kind, '__name__', kind)}") for kind in kinds], [])


class Client:
    """Stubs of every service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        made: Any = service_pb2_grpc
        self.channel = channel
        self.connector: Any = made.AsyncConnectorServiceStub(channel)
        self.connectors: Any = made.ConnectorMetadataServiceStub(channel)
        made = agent_pb2_grpc
        self.agent: Any = made.AsyncAgentServiceStub(channel)
        self.sync_agent: Any = made.SyncAgentServiceStub(channel)
        self.agents: Any = made.AgentMetadataServiceStub(channel)

    async def create(self, template: tasks_pb2.TaskTemplate, timeout_s: float | None = None) -> bytes:
        request = connector_pb2.CreateTaskRequest(template=template, output_prefix="memory:///r1/a0/1")
        answer = await self.connector.CreateTask(request, timeout=timeout_s)
        meta: bytes = answer.resource_meta
        return meta

    async def get(
        self, meta: bytes, task_type: str = "job", version: int = 0, timeout_s: float | None = None
    ) -> connector_pb2.Resource:
        request = connector_pb2.GetTaskRequest(resource_meta=meta, task_category=category(task_type, version))
        resource: connector_pb2.Resource = (await self.connector.GetTask(request, timeout=timeout_s)).resource
        return resource

    async def delete(self, meta: bytes, task_type: str = "job", version: int = 0) -> None:
        request = connector_pb2.DeleteTaskRequest(resource_meta=meta, task_category=category(task_type, version))
        await self.connector.DeleteTask(request)


class Serving:
    """A service, its client, and its connectors by name."""

    def __init__(self, service: server.ConnectorService, client: Client) -> None:
        self.service = service
        self.client = client

    def connector(self, name: str) -> Any:
        return next(host.connector for host in self.service._hosts if host.connector.name == name)


@asynccontextmanager
async def serving(*kinds: Any, config: ConnectorServiceConfig = CONFIG, **environ: str) -> AsyncIterator[Serving]:
    async with (
        server.opened(config, environ, offers_of(*(kinds or (Jobs, Greeter)))) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        yield Serving(service, Client(channel))


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that a thread does, which tells nobody."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def all_of(stream: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in stream]


def category(task_type: str, version: int = 0) -> connector_pb2.TaskCategory:
    return connector_pb2.TaskCategory(name=task_type, version=version)


def job(task_type: str = "job", version: int = 0, **custom: Any) -> tasks_pb2.TaskTemplate:
    return task_template(task_type, custom=custom, task_type_version=version, outputs={"n": types_pb2.INTEGER})


def greeting(**custom: Any) -> tasks_pb2.TaskTemplate:
    return task_template("greet", custom=custom, outputs={"greeting": types_pb2.STRING})
