"""What the sweep deletes, and what it survives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import TASK_ACTION, Kind, ObjectList
from propfan.engine.config import LONGEST_S, EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.garbage import GarbageCollector
from propfan.pluginmachinery.errors import ApiError, ConflictError, UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.taskaction import FINALIZER

NOW = datetime(2026, 1, 2, 12, 30, 20, tzinfo=UTC)
STATUS, TIME = "flyte.org/termination-status", "flyte.org/completed-time"
LONG_AGO = {STATUS: "terminated", TIME: "2026-01-01.00-00"}


class FixedClock:
    def now(self) -> datetime:
        return NOW


class Cluster(ForwardingCluster):
    """An embedded cluster whose lists and deletions can be made to fail."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        super().__init__(cluster)
        self.refused: dict[str, ApiError] = {}
        self.failing_lists = 0
        self.lists = 0
        self.listed = anyio.Event()

    async def list(self, kind: Kind, **selection: Any) -> ObjectList:
        self.lists += 1
        if self.lists <= self.failing_lists:
            raise UnavailableError(f"list of {kind}", "down")
        self.listed.set()
        return await self._cluster.list(kind, **selection, limit=2)

    async def delete(self, kind: Kind, namespace: str, name: str, **options: Any) -> None:
        if name in self.refused:
            raise self.refused[name]
        await self._cluster.delete(kind, namespace, name, **options)

    async def add(self, name: str, labels: dict[str, str], *finalizers: str) -> None:
        metadata = {"name": name, "namespace": "ns", "labels": labels, "finalizers": finalizers}
        body = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": metadata, "spec": {}}
        await self._cluster.create(TASK_ACTION, msgspec.json.encode(body))

    async def names(self) -> Sequence[str]:
        listed = await self._cluster.list(TASK_ACTION)
        return sorted(item.metadata.name for item in listed.items)


class Sweeper(GarbageCollector):
    """Remembers whom it was about to delete."""

    def __init__(self, cluster: Cluster, **config: float) -> None:
        self.announced: list[str] = []
        self.problem: ApiError | None = None
        super().__init__(cluster, EngineConfig(**config), FixedClock(), before_delete=self.announce)  # type: ignore[arg-type]

    async def announce(self, task: ObjectMeta) -> None:
        self.announced.append(task.name)
        if self.problem is not None:
            raise self.problem


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    with anyio.fail_after(10):
        async with EmbeddedCluster.open() as inner:
            yield Cluster(inner)


@pytest.mark.anyio
async def test_only_what_is_over_for_long_enough_is_deleted() -> None:
    async with cluster() as known:
        await known.add("old", LONG_AGO)
        await known.add("due", {STATUS: "terminated", TIME: "2026-01-02.11-29"})
        await known.add("keeps-its-minute", {STATUS: "terminated", TIME: "2026-01-02.11-30"})
        await known.add("fresh", {STATUS: "terminated", TIME: "2026-01-02.12-30"})
        await known.add("running", {})
        await known.add("never-ended", {STATUS: "terminated"})
        await known.add("not-terminated", {TIME: "2026-01-01.00-00"})
        await known.add("not-let-go", LONG_AGO, FINALIZER)
        sweeper = Sweeper(known, gc_ttl_s=3600)
        assert await sweeper.sweep() == 2
        assert await known.names() == [
            "fresh",
            "keeps-its-minute",
            "never-ended",
            "not-let-go",
            "not-terminated",
            "running",
        ]
        assert sorted(sweeper.announced) == ["due", "old"]


@pytest.mark.anyio
async def test_no_time_to_live_deletes_at_once() -> None:
    async with cluster() as known:
        await known.add("just-now", {STATUS: "terminated", TIME: "2026-01-02.12-30"})
        await known.add("running", {})
        assert await Sweeper(known, gc_ttl_s=0).sweep() == 1
        assert await known.names() == ["running"]


@pytest.mark.anyio
async def test_all_pages_are_swept() -> None:
    async with cluster() as known:
        for number in range(7):
            await known.add(f"old-{number}", LONG_AGO)
        assert await Sweeper(known, gc_ttl_s=3600).sweep() == 7
        assert await known.names() == []


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ConflictError("TaskAction ns/b", "another uid"), UnavailableError("b", "down")])
async def test_one_that_can_not_be_deleted_does_not_keep_the_others(error: ApiError) -> None:
    async with cluster() as known:
        for name in "abc":
            await known.add(name, LONG_AGO)
        known.refused["b"] = error
        sweeper = Sweeper(known, gc_ttl_s=3600)
        assert await sweeper.sweep() == 2
        assert await known.names() == ["b"]
        known.refused.clear()
        assert await sweeper.sweep() == 1


@pytest.mark.anyio
async def test_one_that_can_not_be_announced_is_kept_for_the_next_sweep() -> None:
    async with cluster() as known:
        await known.add("old", LONG_AGO)
        sweeper = Sweeper(known, gc_ttl_s=3600)
        sweeper.problem = UnavailableError("events", "disk full")
        assert await sweeper.sweep() == 0
        sweeper.problem = None
        assert await sweeper.sweep() == 1
        assert sweeper.announced == ["old", "old"]


@pytest.mark.anyio
async def test_one_that_was_made_anew_meanwhile_stays() -> None:
    async with cluster() as known:
        await known.add("a", LONG_AGO)
        listed = await known.list(TASK_ACTION)
        await known.delete(TASK_ACTION, "ns", "a")
        await known.add("a", {})
        sweeper = Sweeper(known, gc_ttl_s=3600)
        assert not await sweeper._delete(listed.items[0].metadata)
        assert await known.names() == ["a"]


@pytest.mark.anyio
async def test_cluster_that_is_down_does_not_end_the_collector() -> None:
    async with cluster() as known:
        await known.add("old", LONG_AGO)
        known.failing_lists = 3
        sweeper = Sweeper(known, gc_ttl_s=3600, gc_interval_s=0.001)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweeper.run)
            await known.listed.wait()
            tasks.cancel_scope.cancel()
        assert known.lists == 4


@pytest.mark.anyio
async def test_interval_of_zero_never_sweeps() -> None:
    async with cluster() as known:
        await known.add("old", LONG_AGO)
        await Sweeper(known, gc_ttl_s=3600, gc_interval_s=0).run()
        assert await known.names() == ["old"]


@pytest.mark.anyio
async def test_longest_time_to_live_keeps_everything() -> None:
    async with cluster() as known:
        await known.add("old", LONG_AGO)
        assert await Sweeper(known, gc_ttl_s=LONGEST_S).sweep() == 0
