"""Watches of a real API server that stops, stalls, forgets and is slow to be read."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from propfan.engine.cluster import POD, TASK_ACTION, Cluster, Kind, WatchEvent, WatchEventType
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.reconcile.watches import Watcher
from propfan.pluginmachinery.errors import ExpiredError, UnavailableError
from tests.cluster.control_plane import ControlPlane
from tests.contract.objects import ADDED, DELETED, body, next_events, told

pytestmark = pytest.mark.anyio

LATER = Kind("later.propfan.test", "v1", "Later", "laters")
_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{LATER.plural}.{LATER.group}"},
    "spec": {
        "group": LATER.group,
        "scope": "Namespaced",
        "names": {"kind": LATER.kind, "plural": LATER.plural},
        "versions": [
            {
                "name": LATER.version,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@asynccontextmanager
async def connected(plane: ControlPlane, **settings: Any) -> AsyncIterator[KubernetesCluster]:
    config = KubernetesConfig(kubeconfig=str(plane.kubeconfig), **settings)
    async with KubernetesCluster.connect(config) as cluster:
        yield cluster


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[KubernetesCluster]:
    async with connected(control_plane) as cluster:
        yield cluster


class View:
    """What a watcher has told of the pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, kind: Kind = POD) -> None:
        self.names: set[str] = set()
        self.lists = 0
        self._changed = anyio.Event()
        self.watcher = Watcher(
            cluster, kind, namespace=namespace, on_event=self._on_event, on_listed=self._on_listed, longest_wait_s=1.0
        )

    def _on_event(self, event: WatchEvent) -> None:
        name = event.object.metadata.name
        (self.names.discard if event.type is WatchEventType.DELETED else self.names.add)(name)
        self._changed.set()

    def _on_listed(self, keys: frozenset[tuple[str, str]]) -> None:
        self.lists += 1
        self.names &= {name for _, name in keys}
        self._changed.set()

    async def until(self, is_as_wanted: Callable[[], bool]) -> None:
        with anyio.fail_after(60):
            while not is_as_wanted():
                self._changed = anyio.Event()
                await self._changed.wait()

    async def shows(self, *names: str) -> None:
        await self.until(lambda: self.names == set(names))


@asynccontextmanager
async def watched(cluster: Cluster, namespace: str, kind: Kind = POD) -> AsyncIterator[View]:
    view = View(cluster, namespace, kind)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(view.watcher.run)
        yield view
        tasks.cancel_scope.cancel()


async def test_a_watcher_outlives_its_api_server_and_misses_nothing(
    control_plane: ControlPlane, cluster: KubernetesCluster, namespace: str
) -> None:
    await cluster.create(POD, body(POD, namespace, "a"))
    await cluster.create(POD, body(POD, namespace, "b"))
    async with watched(cluster, namespace) as view:
        await view.shows("a", "b")
        with control_plane.without_api_server(), pytest.raises(UnavailableError, match=control_plane.url):
            await cluster.get(POD, namespace, "a")
        await cluster.delete(POD, namespace, "a")
        await cluster.create(POD, body(POD, namespace, "c"))
        await view.shows("b", "c")


async def test_a_watcher_lists_again_once_its_version_is_forgotten(
    control_plane: ControlPlane, cluster: KubernetesCluster, namespace: str
) -> None:
    await cluster.create(POD, body(POD, namespace, "a"))
    await cluster.create(POD, body(POD, namespace, "b"))
    async with watched(cluster, namespace) as view:
        await view.shows("a", "b")
        await anyio.to_thread.run_sync(control_plane.expire_watches)
        await cluster.delete(POD, namespace, "a")
        await cluster.create(POD, body(POD, namespace, "c"))
        await view.shows("b", "c")


async def test_a_version_of_before_a_compaction_is_expired(
    control_plane: ControlPlane, cluster: KubernetesCluster, namespace: str
) -> None:
    created = await cluster.create(POD, body(POD, namespace, "a"))
    for name in ("b", "c"):
        await cluster.create(POD, body(POD, namespace, name))
    first = await cluster.list(POD, namespace=namespace, limit=1)
    await anyio.to_thread.run_sync(control_plane.expire_watches)
    with pytest.raises(ExpiredError):
        async with cluster.watch(
            POD, namespace=namespace, resource_version=created.metadata.resource_version
        ) as changes:
            await next_events(changes, 2)
    with pytest.raises(ExpiredError):
        await cluster.list(POD, namespace=namespace, limit=1, continue_token=first.continue_token)


async def test_an_api_server_that_hangs_costs_calls_their_time_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with connected(control_plane, request_timeout_s=1.0) as cluster:
        await cluster.create(POD, body(POD, namespace, "a"))

        async def ask() -> None:
            while True:  # its threads do not all stop at once
                await cluster.get(POD, namespace, "a")

        server = control_plane.api_server
        server.signal(signal.SIGSTOP)
        try:
            with anyio.fail_after(15):
                with pytest.raises(UnavailableError, match="did not answer in time"):
                    await ask()
                with pytest.raises(UnavailableError):
                    async with cluster.watch(POD, namespace=namespace, resource_version="0") as changes:
                        await anext(changes)
        finally:
            server.signal(signal.SIGCONT)
        assert (await cluster.get(POD, namespace, "a")).metadata.name == "a"


async def test_a_watch_is_ended_by_the_server_in_time(control_plane: ControlPlane, namespace: str) -> None:
    async with connected(control_plane, watch_s=2.0) as cluster:
        created = await cluster.create(POD, body(POD, namespace, "a"))
        version = created.metadata.resource_version
        with anyio.fail_after(15):
            async with cluster.watch(POD, namespace=namespace, resource_version=version) as changes:
                assert [told(batch) for batch in [b async for b in changes]] in ([], [[(WatchEventType.BOOKMARK, "")]])


async def test_a_watch_that_is_read_late_has_everything_or_ends(cluster: KubernetesCluster, namespace: str) -> None:
    """More than the sockets hold comes while nobody reads; the server ends watches that keep it waiting."""
    version = (await cluster.list(TASK_ACTION, namespace=namespace)).resource_version
    count, seen = 600, Counter[str]()
    spec = {"runName": "r", "project": "p", "domain": "d", "actionName": "a", "inputUri": "x" * 50_000}
    limiter = anyio.CapacityLimiter(16)

    async def create(number: int) -> None:
        async with limiter:
            await cluster.create(TASK_ACTION, body(TASK_ACTION, namespace, f"a{number}", spec))

    async def create_others() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(1, count):
                tasks.start_soon(create, number)

    with anyio.fail_after(120):
        while seen.total() < count:
            async with cluster.watch(TASK_ACTION, namespace=namespace, resource_version=version) as changes:
                if not seen:
                    await create(0)
                    first = await next_events(changes, 1)
                    version = first[-1].object.metadata.resource_version
                    seen.update(name for _, name in told(first))
                    await create_others()
                async for batch in changes:
                    version = batch[-1].object.metadata.resource_version
                    seen.update(name for type, name in told(batch) if type is ADDED)
                    if seen.total() >= count:
                        break
    assert seen == Counter(f"a{number}" for number in range(count))


async def test_a_kind_that_comes_later_is_watched_from_then_on(
    control_plane: ControlPlane, cluster: KubernetesCluster, namespace: str
) -> None:
    async with watched(cluster, namespace, LATER) as view:
        with anyio.fail_after(20):
            await view.watcher.is_synced.wait()
        await anyio.to_thread.run_sync(control_plane.install_crds, [_CRD])
        await cluster.create(LATER, body(LATER, namespace, "a"))
        await view.shows("a")


async def test_selected_pods_only_are_watched(cluster: KubernetesCluster, namespace: str) -> None:
    version = (await cluster.list(POD, namespace=namespace)).resource_version
    shards = {"propfan.org/shard": ["0", "3"]}
    async with cluster.watch(POD, namespace=namespace, labels=shards, resource_version=version) as changes:
        for number in range(5):
            labels = {"propfan.org/shard": str(number)}
            await cluster.create(POD, body(POD, namespace, f"a{number}", labels=labels))
        await cluster.delete(POD, namespace, "a1")
        await cluster.delete(POD, namespace, "a3")
        names = {(type, name) for type, name in told(await next_events(changes, 4))}
    assert {(ADDED, "a0"), (ADDED, "a3"), (DELETED, "a3")} <= names
    assert {name for _, name in names} == {"a0", "a3"}
