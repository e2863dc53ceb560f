"""A cluster that fails calls delays pods; it loses none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from propfan.engine.cluster import POD, Kind, ObjectList, ObservedObject, WatchEvent
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.processes import ProcessRuntime, pod_worker, runtime
from propfan.engine.processes.pod_worker import PodWorker
from propfan.engine.processes.supervisor import start_ticks
from propfan.pluginmachinery.errors import ConflictError, ExpiredError, UnavailableError
from tests.unit.engine.processes.machine import (
    AMPLE,
    NAMESPACE,
    has_ended,
    is_gone,
    is_running,
    pod,
    record_of,
    shell,
    terminated,
    until,
)

pytestmark = pytest.mark.anyio


class FaultyCluster(ForwardingCluster):
    """Every write of an object fails once before it is applied and once after; every second watch expires."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        super().__init__(cluster)
        self.calls: Counter[str] = Counter()

    async def list(self, kind: Kind, *, limit: int = 500, **options: Any) -> ObjectList:
        if self._is_turn("list", 1):
            raise UnavailableError("pods", "list")
        return await self._cluster.list(kind, limit=1, **options)

    @asynccontextmanager
    async def watch(self, kind: Kind, **options: Any) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        async with self._cluster.watch(kind, **options) as batches:
            yield self._brief(batches, expires=self._is_turn("watch", 1))

    async def _brief(
        self, batches: AsyncIterator[Sequence[WatchEvent]], *, expires: bool
    ) -> AsyncIterator[Sequence[WatchEvent]]:
        async for batch in batches:
            if expires:
                raise ExpiredError("pods", "too old")
            yield batch
            return

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Any, **options: Any) -> ObservedObject:
        call = f"patch {name} {options.get('subresource', '')}"
        if self._is_turn(call, 1):
            raise UnavailableError(name, "not applied")
        if self._is_turn(call + "again", 1):
            raise ConflictError(name, "somebody else was faster")
        patched = await self._cluster.patch(kind, namespace, name, patch, **options)
        if self._is_turn(call + "after", 1):
            raise UnavailableError(name, "applied, but nobody said so")
        return patched

    async def delete(self, kind: Kind, namespace: str, name: str, **options: Any) -> None:
        if self._is_turn(f"delete {name}", 1):
            raise UnavailableError(name, "not applied")
        await self._cluster.delete(kind, namespace, name, **options)

    def _is_turn(self, call: str, turn: int) -> bool:
        self.calls[call] += 1
        return self.calls[call] == turn


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RETRY_S", 0.001)


async def test_failing_calls_only_delay(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    async with (
        EmbeddedCluster.open() as cluster,
        ProcessRuntime(FaultyCluster(cluster), data_dir=tmp_path / "p", capacity=AMPLE),
    ):
        for index in range(5):
            await cluster.create(POD, pod(f"p{index}", shell(f"echo run >> {runs}; exit {index}")))
        for index in range(5):
            assert terminated(await until(cluster, f"p{index}", has_ended))["exitCode"] == index
        await cluster.create(POD, pod("deleted", shell("exec sleep 1000")))
        await until(cluster, "deleted", is_running)
        await cluster.delete(POD, NAMESPACE, "deleted")
        await until(cluster, "deleted", is_gone)
    assert runs.read_text() == "run\n" * 5


async def test_a_cluster_that_is_gone_does_not_keep_a_runtime_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise UnavailableError("Pod", "gone")

    monkeypatch.setattr(runtime, "LAST_WORDS_S", 0.1)
    async with EmbeddedCluster.open() as cluster:
        async with ProcessRuntime(cluster, data_dir=tmp_path / "p", capacity=AMPLE, stop_grace_s=0.1):
            uid = (await cluster.create(POD, pod("p", shell("exec sleep 1000")))).metadata.uid
            await until(cluster, "p", is_running)
            record = record_of(tmp_path / "p", uid)
            monkeypatch.setattr(cluster, "patch", fail)
        assert not start_ticks(record.pid)


async def test_a_pod_of_the_same_name_is_another_pod(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster.open() as cluster,
        ProcessRuntime(cluster, data_dir=tmp_path / "p", capacity=AMPLE),
    ):
        for index in range(10):
            body = pod("same", shell("exec sleep 1000" if index < 9 else "exit 3"))
            await cluster.create(POD, body)
            if index < 9:
                if index % 3:
                    await until(cluster, "same", is_running)
                await cluster.delete(POD, NAMESPACE, "same", grace_period_s=0)
        found = await until(cluster, "same", has_ended)
        assert terminated(found)["exitCode"] == 3


async def test_a_worker_that_breaks_fails_its_own_pod_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = PodWorker._run_containers

    async def broken(worker: PodWorker) -> None:
        if worker.pod.metadata.name == "unlucky":
            raise ZeroDivisionError
        await ordinary(worker)

    monkeypatch.setattr(pod_worker.PodWorker, "_run_containers", broken)
    async with (
        EmbeddedCluster.open() as cluster,
        ProcessRuntime(cluster, data_dir=tmp_path / "p", capacity=AMPLE),
    ):
        await cluster.create(POD, pod("unlucky", shell("true")))
        await cluster.create(POD, pod("lucky", shell("true")))
        assert (await until(cluster, "lucky", has_ended))["status"]["phase"] == "Succeeded"
        found = await until(cluster, "unlucky", has_ended)
        assert (found["status"]["phase"], found["status"]["reason"]) == ("Failed", "RuntimeFailure")


async def test_three_writes_bring_a_healthy_pod_to_its_end(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster.open() as cluster,
        ProcessRuntime(cluster, data_dir=tmp_path / "p", capacity=AMPLE),
    ):
        created = await cluster.create(POD, pod("p", shell("true")))
        found = await until(cluster, "p", has_ended)
        writes = int(json.dumps(found["metadata"]["resourceVersion"]).strip('"')) - int(
            created.metadata.resource_version
        )
        assert writes <= 3
