"""What the connectors suite measures, each in a process of its own: ``python -m benchmarks.connector_scenarios NAME ARGUMENTS``.

The engine is the real one with the real connector plugin, an embedded cluster in a file, and a connector in
another process (``connector_server``). Arguments and figures are JSON objects.
"""

# ruff: noqa: ASYNC110 - what is waited for is seen from outside only

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import structlog
from flyteidl2.core import tasks_pb2
from grpc import aio

from benchmarks.connector_server import FINISH, STATS, TASK_TYPE, Stats
from propfan.engine import EmbeddedCluster, Engine, EngineConfig, Submission, memory, submission
from propfan.engine.cluster import TASK_ACTION
from propfan.pluginmachinery.registry import Registry
from propfan.plugins.connector import entry

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Figures = Mapping[str, float]


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of all scenarios.

    Attributes:
        folder: For the database.
        port: Of the connector.
        live: Tasks.
        interval_s: Between two looks at a job.
        measure_s: How long to look at the engine once all jobs run.
    """

    folder: str
    port: int
    live: int
    interval_s: float
    measure_s: float = 0.0


def _config(arguments: Arguments) -> EngineConfig:
    limit = {"qps": 100_000, "burst": 10_000}
    unbounded = {"ProjectScopeResourceConstraint": {"Value": 0}, "NamespaceScopeResourceConstraint": {"Value": 0}}
    section: dict[str, Any] = {
        "defaultConnector": {"endpoint": f"127.0.0.1:{arguments.port}", "insecure": True},
        "supportedTaskTypes": [TASK_TYPE],
        "resourceConstraints": unbounded,
        "webApi": {
            "resourceQuotas": {"default": 1_000_000},
            "readRateLimiter": limit,
            "writeRateLimiter": limit,
            "caching": {"resyncInterval": f"{arguments.interval_s:g}s", "workers": 32},
        },
    }
    return EngineConfig(
        plugins={"connector-service": section},
        default_for_task_types={TASK_TYPE: "connector-service"},  # tasks need not wait until it is discovered
    )


@asynccontextmanager
async def _engine(arguments: Arguments) -> AsyncIterator[tuple[Engine, EmbeddedCluster]]:
    registry = Registry()
    registry.register(entry)
    async with (
        EmbeddedCluster.open(Path(arguments.folder, "cluster.db")) as cluster,
        Engine(_config(arguments), cluster=cluster, registry=registry) as engine,
    ):
        yield engine, cluster


class Connector:
    """What the other process saw."""

    def __init__(self, port: int) -> None:
        self._channel = aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", 1 << 30)]
        )

    async def _call(self, method: str) -> bytes:
        made: Any = self._channel.unary_unary(method)
        answer: bytes = await made(b"")
        return answer

    async def stats(self) -> Stats:
        """Since they were asked for last."""
        return msgspec.json.decode(await self._call(STATS), type=Stats)

    async def finish(self) -> None:
        await self._call(FINISH)


async def fill(arguments: Arguments) -> Figures:
    """Tasks that no engine has seen yet."""
    task = tasks_pb2.TaskTemplate(type=TASK_TYPE)
    task.id.project, task.id.domain, task.id.name, task.id.version = "shop", "production", "orders.train", "v7"
    made = Submission(template=task.SerializeToString(), run_name="live")
    async with EmbeddedCluster.open(Path(arguments.folder, "cluster.db")) as cluster:
        for number in range(arguments.live):
            one = msgspec.structs.replace(made, action_name=f"a{number}")
            action = submission.to_task_action(one, namespace="default", store="memory://propfan")
            await cluster.create(TASK_ACTION, submission.to_json(action))
    return {}


async def crowd(arguments: Arguments) -> Figures:
    """Jobs for all tasks as fast as that goes; then what it takes to look after them; then waits to be killed."""
    connector = Connector(arguments.port)
    before = _resident_bytes()
    began, cpu = time.perf_counter(), time.process_time()
    async with _engine(arguments) as (engine, cluster):
        while (stats := await connector.stats()).creates < arguments.live:
            await anyio.sleep(0.05)
        created_s, create_cpu_s = time.perf_counter() - began, time.process_time() - cpu
        while await _count(cluster, b'"pluginPhase":"PhaseRunning"') < arguments.live:
            await anyio.sleep(0.5)
        await anyio.sleep(3.0 * arguments.interval_s)
        gc.collect()
        await connector.stats()
        began, cpu = time.perf_counter(), time.process_time()
        await anyio.sleep(arguments.measure_s)
        used_s, took_s = time.process_time() - cpu, time.perf_counter() - began
        seen = await connector.stats()
        late = sorted(max(0.0, gap - arguments.interval_s) for gap in seen.gaps_s)
        figures = {
            "creates_per_s": arguments.live / stats.create_s if stats.create_s else 0.0,
            "created_s": created_s,
            "create_cpu_us": create_cpu_s / arguments.live * 1e6,
            "of_core": used_s / took_s,
            "looks_per_s": seen.looks / took_s,
            "look_cpu_us": used_s / max(seen.looks, 1) * 1e6,
            "late_p50_s": late[len(late) // 2],
            "late_p99_s": late[len(late) * 99 // 100],
            "late_most_s": late[-1],
            "resident_bytes": _resident_bytes(),
            "resident_before_bytes": before,
            "engine_live": engine.live_tasks,
        }
        print(msgspec.json.encode(figures).decode(), flush=True)
        await anyio.sleep_forever()
    return {}


async def recovery(arguments: Arguments) -> Figures:
    """From the start of the process until every task is driven and every job was looked at; then all jobs end."""
    connector = Connector(arguments.port)
    before = await connector.stats()
    began, cpu = time.perf_counter(), time.process_time()
    async with _engine(arguments) as (engine, cluster):
        while engine.live_tasks < arguments.live:
            await anyio.sleep(0.01)
        driven_s = time.perf_counter() - began
        seen = looked_at = 0
        while looked_at < arguments.live:
            await anyio.sleep(0.25)
            stats = await connector.stats()
            seen += stats.looks
            looked_at += stats.looked_at
        looked_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        resident_bytes = _resident_bytes()
        await connector.finish()
        await engine.settled()
        settled_s = time.perf_counter() - began - looked_s
        succeeded = await _count(cluster, b'"pluginPhase":"PhaseSuccess"')
        after = await connector.stats()
    return {
        "driven_s": driven_s,
        "looked_s": looked_s,
        "cpu_s": cpu_s,
        "settled_s": settled_s,
        "resident_bytes": resident_bytes,
        "succeeded": succeeded,
        "creates": after.creates,
        "creates_since": after.creates - before.creates,
    }


async def _count(cluster: EmbeddedCluster, text: bytes) -> int:
    """Tasks whose object holds ``text``."""
    page = await cluster.list(TASK_ACTION, limit=0)
    return sum(text in item.raw for item in page.items)


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


_SCENARIOS: Final = {f.__name__: f for f in (fill, crowd, recovery)}


def main() -> None:
    name, arguments = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Arguments)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    memory.collect_less_often()
    figures = anyio.run(_SCENARIOS[name], arguments, backend_options={"use_uvloop": True})
    print(msgspec.json.encode(figures).decode(), flush=True)


if __name__ == "__main__":
    main()
