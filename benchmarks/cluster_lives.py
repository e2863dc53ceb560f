"""What tasks cost that only run, how a new process takes over, and how one replica takes over from another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import anyio

from benchmarks.cluster_stage import Stage, calls, usage
from tests.cluster.replicas import Replica, until

READY_S: Final = 180.0
SETTLE_S: Final = 5.0
"""What is late is over after this."""
SHARDS: Final = 16


async def lives(
    stage: Stage, sizes: Sequence[int], idle_s: float
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    """Rows of idle costs, and of the new process that drives them all."""
    rows: list[Mapping[str, Any]] = []
    replica = stage.replica()
    replica.start()
    try:
        async with stage.watched() as (client, seen):
            await _until(lambda: replica.ask("/readyz")[0] == 200)
            live = 0
            for size in sizes:
                await stage.submit(client, [f"t{number}" for number in range(live, size)], outcome="running")
                await seen.until(lambda size=size: seen.count("task Running") == size, limit_s=READY_S + size / 5)  # type: ignore[misc]
                live = size
                await anyio.sleep(SETTLE_S)
                rows.append(await _idle(stage, replica, live, idle_s))
            restart = await _restarted(stage, replica, live)
    finally:
        replica.kill()
    return rows, restart


async def _idle(stage: Stage, replica: Replica, live: int, idle_s: float) -> Mapping[str, Any]:
    before, used, begin = calls(stage.cluster), usage(replica.process), time.monotonic()
    await anyio.sleep(idle_s)
    after, seconds = usage(replica.process), time.monotonic() - begin
    made = calls(stage.cluster).since(before)
    return {
        "live tasks": live,
        "idle s": round(seconds, 1),
        "idle writes": made.of_engine,
        "renewals of Leases": made.leases,
        "idle % of a core": round(100 * (after.cpu_s - used.cpu_s) / seconds, 2),
        "resident MB": round(after.resident_bytes / 1e6),
    }


async def _restarted(stage: Stage, replica: Replica, live: int) -> Mapping[str, Any]:
    begin = time.monotonic()
    replica.terminate()
    await _until(lambda: not replica.process.is_running)
    drained_s = time.monotonic() - begin
    replica.stop()
    before, begin = calls(stage.cluster), time.monotonic()
    replica.start()
    await _until(lambda: replica.ask("/readyz")[0] == 200)
    ready_s = time.monotonic() - begin
    await _until(lambda: replica.metric("propfan_tasks") == live and replica.metric("workqueue_depth") == 0)
    driven_s = time.monotonic() - begin
    used = usage(replica.process)
    await anyio.sleep(SETTLE_S)
    made = calls(stage.cluster).since(before)
    return {
        "live tasks": live,
        "drained s": round(drained_s, 1),
        "ready s": round(ready_s, 1),
        "all driven s": round(driven_s, 1),
        "CPU s": round(used.cpu_s, 1),
        "resident MB": round(used.resident_bytes / 1e6),
        "writes": made.of_engine,
        "calls": made.shown(),
    }


async def failover(stage: Stage, tasks: int) -> Mapping[str, Any]:
    """Half of the tasks end while one of two replicas is dead, the others run on for a while."""
    first, second = stage.replica("first"), stage.replica("second")
    try:
        async with stage.watched() as (client, seen):
            for replica in (first, second):
                replica.start()
            await _until(lambda: [owned(first), owned(second)] == [SHARDS / 2, SHARDS / 2])
            before = calls(stage.cluster)
            await stage.submit(client, [f"short{number}" for number in range(tasks // 2)], run_for="5s")
            await stage.submit(client, [f"long{number}" for number in range(tasks - tasks // 2)], run_for="20s")
            await seen.until(lambda: seen.count("task Running") == tasks, limit_s=READY_S)
            begin = time.monotonic()
            first.kill()
            await _until(lambda: owned(second) == SHARDS)
            taken_s = time.monotonic() - begin
            await seen.until(lambda: len(seen.over) == tasks, limit_s=READY_S)
            late = [
                seen.at[run, "task over"] - max(begin, seen.at[run, "pod Succeeded"])
                for run in seen.over
                if seen.at[run, "task over"] > begin
            ]
            made = calls(stage.cluster).since(before)
    finally:
        first.kill()
        second.kill()
    return {
        "tasks": tasks,
        "succeeded": sum(seen.over.values()),
        "taken over s": round(taken_s, 1),
        "latest verdict s": round(max(late, default=0.0), 1),
        "done twice": sum(1 for made in seen.pods.values() if made > 1) + sum(seen.pods.values()) - len(seen.pods),
        "pods": sum(seen.pods.values()),
        "409": made.conflicts,
        "writes/task": round(made.of_engine / tasks, 2),
        "calls": made.shown(),
    }


def owned(replica: Replica) -> float:
    return replica.metric("propfan_shards_owned")


async def _until(is_so: Callable[[], bool]) -> None:
    """Asked in a thread, as the questions block."""
    await anyio.to_thread.run_sync(lambda: until(is_so, "a replica is where it should be", timeout_s=READY_S))
