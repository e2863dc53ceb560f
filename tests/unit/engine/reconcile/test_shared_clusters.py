"""The end of shared clusters: only of those that nobody needs, whoever looks at them and in whatever order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propfan.engine.clock import SystemClock
from propfan.engine.cluster import TASK_ACTION, ObservedObject
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, identity_of
from propfan.engine.reconcile.shared_clusters import CONDEMNED_ANNOTATION, SHARED_LABEL, SharedClusters, is_going
from propfan.engine.task_state import Limits, TaskState
from propfan.pluginmachinery.entries import KubernetesPluginEntry, LoadedClusterPlugin
from propfan.pluginmachinery.errors import ConflictError, NotFoundError, UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import (
    CLUSTER_LABEL,
    LAST_USED_ANNOTATION,
    ObjectMeta,
    Properties,
    last_used,
)
from propfan.pluginmachinery.testing import observed
from tests.unit.engine.reconcile.shared_rig import TEAM, WORK, TeamPlugin, long_ago

KEY: Final = ("default", "team-red")


def clusters_on(cluster: Any, *, idle_s: float = 60.0, plugin: TeamPlugin | None = None) -> SharedClusters:
    plugin = plugin or TeamPlugin(idle_s)
    entry = KubernetesPluginEntry(
        id="work", task_types=("work",), watched=WORK, load_cluster=plugin, cluster_watched=TEAM
    )
    return SharedClusters(LoadedClusterPlugin(entry, plugin, Properties(), TEAM), cluster, SystemClock(), sweep_s=1.0)


async def add_team(cluster: Any, name: str = "team-red", *, used: datetime | None = None, **annotations: str) -> None:
    used_at = msgspec.to_builtins(used or long_ago())
    metadata = {
        "name": name,
        "namespace": "default",
        "labels": {SHARED_LABEL: "work"},
        "annotations": {LAST_USED_ANNOTATION: used_at, **annotations},
    }
    body = {"apiVersion": TEAM.api_version, "kind": TEAM.kind, "metadata": metadata}
    await cluster.create(TEAM, msgspec.json.encode(body))


async def add_work(cluster: Any, name: str = "w1", *, team: str = "team-red", state: str = "") -> None:
    metadata = {"name": name, "namespace": "default", "labels": {CLUSTER_LABEL: team}}
    body = {"apiVersion": WORK.api_version, "kind": WORK.kind, "metadata": metadata}
    await cluster.create(WORK, msgspec.json.encode(body))
    if state:
        await cluster.patch(WORK, "default", name, {"status": {"state": state}}, subresource="status")


async def teams_of(cluster: Any) -> list[str]:
    return sorted(team.metadata.name for team in (await cluster.list(TEAM)).items)


@asynccontextmanager
async def embedded() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster.open() as cluster:
        yield cluster


@pytest.mark.anyio
async def test_what_nobody_needs_is_deleted() -> None:
    async with embedded() as cluster:
        await add_team(cluster)
        await add_work(cluster, state="done")
        await add_work(cluster, "w2", team="team-blue")
        assert await clusters_on(cluster).sweep() == 1
        assert await teams_of(cluster) == []


@pytest.mark.anyio
async def test_a_living_job_keeps_its_cluster_and_marks_it_as_used() -> None:
    async with embedded() as cluster:
        await add_team(cluster)
        await add_work(cluster)
        assert await clusters_on(cluster).sweep() == 0
        used = last_used(await cluster.get(TEAM, *KEY))
        assert used is not None
        assert (SystemClock().now() - used).total_seconds() < 30


@pytest.mark.anyio
async def test_what_was_used_just_now_stays_whatever_the_plugin_says() -> None:
    async with embedded() as cluster:
        await add_team(cluster, used=SystemClock().now())
        assert await clusters_on(cluster, idle_s=0.0).sweep() == 0


@pytest.mark.anyio
async def test_strangers_clusters_stay() -> None:
    async with embedded() as cluster:
        body = {"apiVersion": TEAM.api_version, "kind": TEAM.kind, "metadata": {"name": "x", "namespace": "default"}}
        await cluster.create(TEAM, msgspec.json.encode(body))
        assert await clusters_on(cluster, idle_s=0.0).sweep() == 0
        assert await teams_of(cluster) == ["x"]


@pytest.mark.anyio
async def test_what_was_condemned_before_a_crash_is_deleted() -> None:
    async with embedded() as cluster:
        await add_team(cluster, used=SystemClock().now(), **{CONDEMNED_ANNOTATION: "2026-01-01T00:00:00Z"})
        assert await clusters_on(cluster).sweep() == 1


class Failing:
    """The cluster; the first call of a kind on a team fails."""

    def __init__(self, cluster: Any, **errors: Exception) -> None:
        self._cluster: Final = cluster
        self._errors: Final = errors

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._cluster, name)

        async def called(kind: Any, *args: Any, **more: Any) -> Any:
            error = self._errors.pop(name, None) if kind == TEAM else None
            if error is not None:
                raise error
            return await call(kind, *args, **more)

        return called


@pytest.mark.parametrize("call", ["get", "patch", "delete"])
@pytest.mark.parametrize("error", [UnavailableError("Team x", "down"), ConflictError("Team x", "is another")], ids=repr)
@pytest.mark.anyio
async def test_one_that_fails_is_left_to_the_next_sweep(call: str, error: Exception) -> None:
    async with embedded() as cluster:
        for name in ("team-blue", "team-red"):
            await add_team(cluster, name)
        clusters = clusters_on(Failing(cluster, **{call: error}))
        assert await clusters.sweep() == 1
        assert await teams_of(cluster) == ["team-blue"] or await teams_of(cluster) == ["team-red"]
        assert await clusters.sweep() == 1


@pytest.mark.anyio
async def test_what_a_task_needs_here_stays_even_if_that_can_not_be_written_down() -> None:
    seen = observed(TASK_ACTION, {}, name="r1-a0")
    state = TaskState("default/r1-a0", Limits(), SystemClock().now())
    live = LiveTask(TaskKey("default", "r1-a0"), seen, state, identity_of(seen, None))
    async with embedded() as cluster:
        await add_team(cluster)
        clusters = clusters_on(Failing(cluster, patch=UnavailableError("Team x", "down")))
        clusters.use(live, KEY)
        assert await clusters.sweep() == 0
        clusters.forget(live)
        await cluster.patch(TEAM, *KEY, {"metadata": {"annotations": {LAST_USED_ANNOTATION: long_ago()}}})
        assert await clusters.sweep() == 1


@pytest.mark.anyio
async def test_a_plugin_that_raises_costs_its_own_cluster_only() -> None:
    class Nervous(TeamPlugin):
        def is_idle(self, resource: ObservedObject, now: datetime) -> bool:
            if resource.metadata.name == "team-blue":
                raise RuntimeError("no idea")
            return super().is_idle(resource, now)

    async with embedded() as cluster:
        for name in ("team-blue", "team-red"):
            await add_team(cluster, name)
        assert await clusters_on(cluster, plugin=Nervous(60.0)).sweep() == 1
        assert await teams_of(cluster) == ["team-blue"]


def test_last_use_is_read_and_falls_back_to_the_creation() -> None:
    created = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    for written, expected in (
        ("2026-02-01T00:00:00Z", datetime.fromisoformat("2026-02-01T00:00:00+00:00")),
        ("2026-02-01T00:00:00", created),
        ("yesterday", created),
        ("", created),
    ):
        metadata = ObjectMeta(creation_timestamp=created, annotations={LAST_USED_ANNOTATION: written})
        seen = msgspec.structs.replace(observed(TEAM, {}), metadata=metadata)
        assert last_used(seen) == expected


class Turns:
    """Lets several actors work on one cluster, each doing one call when a schedule says so."""

    def __init__(self, cluster: Any, schedule: Sequence[int]) -> None:
        self._cluster: Final = cluster
        self._schedule: Final = list(schedule)
        self._waiting: Final[dict[int, anyio.Event]] = {}
        self._acting: Final[set[int]] = set()

    def of(self, actor: int) -> Any:
        turns = self

        class Actor:
            def __getattr__(self, name: str) -> Any:
                call = getattr(turns._cluster, name)

                async def called(*args: Any, **more: Any) -> Any:
                    await turns._turn(actor)
                    return await call(*args, **more)

                return called

        return Actor()

    async def _turn(self, actor: int) -> None:
        mine = self._waiting[actor] = anyio.Event()
        self._next()
        await mine.wait()

    def _next(self) -> None:
        """Goes on with whom the schedule names, once all that still act wait for their turn."""
        if not self._waiting or self._acting - self._waiting.keys():
            return
        ready = sorted(self._waiting)
        choice = self._schedule.pop(0) if self._schedule else 0
        self._waiting.pop(ready[choice % len(ready)]).set()

    async def run(self, *actions: Callable[[Any], Awaitable[None]]) -> None:
        self._acting.update(range(len(actions)))

        async def act(actor: int, action: Callable[[Any], Awaitable[None]]) -> None:
            await action(self.of(actor))
            self._acting.discard(actor)
            self._next()

        async with anyio.create_task_group() as tasks:
            for actor, action in enumerate(actions):
                tasks.start_soon(act, actor, action)


@given(st.lists(st.integers(0, 3), max_size=24))
@settings(max_examples=150, deadline=None)
def test_no_job_ever_stands_on_a_cluster_that_goes(schedule: list[int]) -> None:
    """Two engines sweep and two take the cluster for a job, call by call in any order."""

    async def sweep(cluster: Any) -> None:
        await clusters_on(cluster).sweep()

    def launch(number: int) -> Callable[[Any], Awaitable[None]]:
        async def launched(cluster: Any) -> None:
            try:
                taken = await clusters_on(cluster).take(KEY)
            except NotFoundError:
                return
            if not is_going(taken):
                await add_work(cluster, f"w{number}")

        return launched

    async def everything() -> None:
        async with embedded() as cluster:
            await add_team(cluster)
            await Turns(cluster, schedule).run(sweep, launch(1), sweep, launch(2))
            jobs = (await cluster.list(WORK)).items
            teams = (await cluster.list(TEAM)).items
            assert not jobs or [is_going(team) for team in teams] == [False]

    anyio.run(everything)
