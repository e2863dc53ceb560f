"""A connector that counts: ``python -m benchmarks.connector_server``, until its standard input is closed.

It prints its port, and answers ``/propfan.benchmarks/Stats`` with ``Stats`` as JSON; reading them begins a new
period. Jobs run until ``/propfan.benchmarks/Finish`` is called. A creation under a known key finds its job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import msgspec
import uvloop
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2
from grpc import aio, method_handlers_generic_handler, unary_unary_rpc_method_handler

from propfan.pluginmachinery.connector.requests import IDEMPOTENCY_ANNOTATION

TASK_TYPE: Final = "benchmark"
STATS: Final = "/propfan.benchmarks/Stats"
FINISH: Final = "/propfan.benchmarks/Finish"


class Stats(msgspec.Struct):
    """What came in.

    Attributes:
        creates, repeated: Creations, and those of them whose job was there already; since the start.
        create_s: From the first creation to the last.
        looked_at: Jobs that were looked at in this period.
        looks, deletes: In this period.
        gaps_s: Between two looks at one job, where the second was in this period.
        cpu_s: Of this process, since the start.
    """

    creates: int = 0
    repeated: int = 0
    create_s: float = 0.0
    looked_at: int = 0
    looks: int = 0
    deletes: int = 0
    gaps_s: list[float] = []
    cpu_s: float = 0.0


class Server:
    """All methods take and give bytes."""

    def __init__(self) -> None:
        self._metas: Final[dict[str, bytes]] = {}
        self._last_look: Final[dict[bytes, float]] = {}
        self._seen: set[bytes] = set()
        self._stats = Stats()
        self._first_create: float | None = None
        self._answer = _answer(execution_pb2.TaskExecution.RUNNING)

    async def create(self, request: bytes, context: Any) -> bytes:
        now = time.perf_counter()
        if self._first_create is None:
            self._first_create = now
        task = connector_pb2.CreateTaskRequest.FromString(request)
        key = task.task_execution_metadata.annotations[IDEMPOTENCY_ANNOTATION]
        self._stats.creates += 1
        self._stats.repeated += key in self._metas
        self._stats.create_s = now - self._first_create
        meta = self._metas.setdefault(key, b"job-%d" % len(self._metas))
        return connector_pb2.CreateTaskResponse(resource_meta=meta).SerializeToString()

    async def get(self, request: bytes, context: Any) -> bytes:
        meta = connector_pb2.GetTaskRequest.FromString(request).resource_meta
        now = time.perf_counter()
        last = self._last_look.get(meta)
        if last is not None:
            self._stats.gaps_s.append(now - last)
        self._last_look[meta] = now
        self._seen.add(meta)
        self._stats.looks += 1
        return self._answer

    async def delete(self, request: bytes, context: Any) -> bytes:
        self._stats.deletes += 1
        return b""

    async def list_connectors(self, request: bytes, context: Any) -> bytes:
        category = connector_pb2.TaskCategory(name=TASK_TYPE)
        connector = connector_pb2.Connector(name="benchmark", supported_task_categories=[category])
        return connector_pb2.ListConnectorsResponse(connectors=[connector]).SerializeToString()

    async def stats(self, request: bytes, context: Any) -> bytes:
        self._stats.looked_at, self._stats.cpu_s = len(self._seen), time.process_time()
        answer = msgspec.json.encode(self._stats)
        self._stats = Stats(self._stats.creates, self._stats.repeated, self._stats.create_s)
        self._seen = set()
        return answer

    async def finish(self, request: bytes, context: Any) -> bytes:
        self._answer = _answer(execution_pb2.TaskExecution.SUCCEEDED)
        return b""


def _answer(phase: execution_pb2.TaskExecution.Phase) -> bytes:
    return connector_pb2.GetTaskResponse(resource=connector_pb2.Resource(phase=phase)).SerializeToString()


def _service(name: str, **methods: Callable[[bytes, Any], Awaitable[bytes]]) -> Any:
    return method_handlers_generic_handler(
        name, {method: unary_unary_rpc_method_handler(handler) for method, handler in methods.items()}
    )


async def main() -> None:
    it = Server()
    server = aio.server(options=[("grpc.max_send_message_length", 1 << 30)])
    server.add_generic_rpc_handlers(
        (
            _service(
                "flyteidl2.connector.AsyncConnectorService", CreateTask=it.create, GetTask=it.get, DeleteTask=it.delete
            ),
            _service("flyteidl2.connector.ConnectorMetadataService", ListConnectors=it.list_connectors),
            _service("propfan.benchmarks", Stats=it.stats, Finish=it.finish),
        )
    )
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await anyio.to_thread.run_sync(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
