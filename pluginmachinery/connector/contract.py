"""What a connector is: the face of one external service towards Flyte's control planes.

A connector is made once for each service process, with a ``ConnectorSetup``, and serves any number of
calls at once. It keeps no jobs in memory: everything that finds a job again is in its meta, since the next
call for the job may reach another replica.

Every method may be ``async def``, which runs on an event loop of the connector's own, or a plain ``def``,
which runs in a thread; use the latter for client libraries that block. From a thread
``anyio.from_thread.run`` reaches what is async.

An error of ``pluginmachinery.errors`` tells the caller what to do: ``BadTaskSpecificationError`` and
``PermanentError`` that it is no use to try again, ``TransientError`` that it is. Anything else that is
raised is told as a failure of the connector.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from propfan.pluginmachinery.connector.categories import TaskCategory
from propfan.pluginmachinery.connector.ports import ConnectorSetup
from propfan.pluginmachinery.connector.requests import Connection, JobContext, LogsQuery, MetricsQuery, TaskRequest
from propfan.pluginmachinery.connector.resources import Resource

M = TypeVar("M")


class LogOriginator(enum.IntEnum):
    """Who wrote a line (``flyteidl2.logs.dataplane.LogLineOriginator``)."""

    UNKNOWN = 0
    USER = 1
    SYSTEM = 2


class LogLine(msgspec.Struct, frozen=True):
    """One line, without its end."""

    message: str
    timestamp: datetime | None = None
    originator: LogOriginator = LogOriginator.USER


class LogPage(msgspec.Struct, frozen=True):
    """Some lines; ``next_token`` asks for what follows, and is empty after the last ones."""

    lines: Sequence[LogLine]
    next_token: str = ""


class Metric(msgspec.Struct, frozen=True):
    """One measurement of a job (``core.ExecutionMetricResult``).

    Attributes:
        data: As the HTTP API of Prometheus answers a query.
    """

    name: str
    data: Mapping[str, Any] = {}


class Connector(abc.ABC):
    """What both kinds have; derive from ``AsyncConnector`` or ``SyncConnector``.

    Attributes:
        name: Of the connector, for people and in lists.
        categories: What it runs; each is run by one connector only.
        max_concurrent_calls: More calls than this wait for their turn; the service's configuration may say otherwise.
    """

    name: ClassVar[str]
    categories: ClassVar[Sequence[TaskCategory]]
    max_concurrent_calls: ClassVar[int] = 100

    def __init__(self, setup: ConnectorSetup) -> None:
        self.setup: Final = setup

    async def get_secret(self, key: str, connection: Connection | None = None, group: str = "") -> str:
        """A secret that the task brings under the logical name ``key``, else one of the service's own.

        Raises:
            PermanentError: there is none; the message names it and says where it was looked for.
        """
        if connection is not None and key in connection.secrets:
            return connection.secrets[key]
        return await self.setup.secrets.get(key, group)

    async def close(self) -> None:
        """Called once, when no call is in flight and none will come."""
        return


class AsyncConnector(Connector, Generic[M]):
    """A service whose jobs are created, looked at and deleted.

    ::

        class QueryConnector(AsyncConnector[QueryMeta]):
            name = "Query Connector"
            categories = (TaskCategory("query"),)
            meta_type = QueryMeta

    Attributes:
        meta_type: What ``create`` returns: a ``ResourceMeta`` or a dataclass.
    """

    meta_type: ClassVar[type]

    @abc.abstractmethod
    def create(self, task: TaskRequest) -> Awaitable[M] | M:
        """Submits the job and returns without waiting for its end.

        Called at least once: a caller that died before it kept the answer asks again. Name the job by
        ``task.unique_name()`` and take "already exists" for success.

        Raises:
            BadTaskSpecificationError: the service will never accept this job.
            TransientError: the service does not answer; the caller may ask again.
        """

    @abc.abstractmethod
    def get(self, meta: M, job: JobContext) -> Awaitable[Resource] | Resource:
        """Looks at the job without waiting for a change. Any number of times, from any replica.

        A job that is gone (deleted, expired) is ``ABORTED`` or ``FAILED``, not an error.

        Raises:
            TransientError: the service does not answer; the caller looks again.
        """

    @abc.abstractmethod
    def delete(self, meta: M, job: JobContext) -> Awaitable[None] | None:
        """Cancels the job. Succeeds for one that is over, deleted already or unknown.

        Raises:
            TransientError: the service does not answer; the caller asks again.
        """

    def get_metrics(self, meta: M, query: MetricsQuery) -> Awaitable[Sequence[Metric]] | Sequence[Metric]:
        """Measurements of the job; a connector without them leaves this as it is."""
        raise NotImplementedError

    def get_logs(self, meta: M, query: LogsQuery) -> AsyncIterator[LogPage]:
        """An async generator of the log's pages; a connector without them leaves this as it is."""
        raise NotImplementedError


class SyncConnector(Connector):
    """A service that does a whole task in one call of seconds."""

    @abc.abstractmethod
    def do(self, task: TaskRequest) -> Awaitable[Resource] | Resource:
        """Runs the task to its end and answers with a terminal phase.

        Called at least once; name what it makes by ``task.unique_name()`` where the service allows it.

        Raises:
            BadTaskSpecificationError: the service will never accept this task.
            TransientError: the service does not answer; the caller may ask again.
        """
