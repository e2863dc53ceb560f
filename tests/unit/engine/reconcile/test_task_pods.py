"""Pods that an operator runs: they reach their task's plugin from the watch, and wake it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import POD, Kind, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import LiveTask, TaskKey
from propfan.engine.reconcile.task_pods import TaskPods
from propfan.engine.task_events import Identity
from propfan.engine.task_state import Limits, TaskState
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import PluginContext, TaskContext
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.names import sanitize_label_value
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.testing.fakes import setup_context
from tests.unit.engine.reconcile.rig import PodPlugin, Rig
from tests.unit.engine.reconcile.single_task import single_task

pytestmark = pytest.mark.anyio

JOB = Kind("batch", "v1", "Job", "jobs")


# -- Which task a pod is of ------------------------------------------------------------------------


class Index:
    """An index, and the names of the tasks that it told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.pods = TaskPods(lambda live: self.told.append(live.key.name))

    def task(self, run: str, action: str = "a0", namespace: str = "n") -> LiveTask:
        identity = Identity(namespace, f"{run}-{action}", f"uid-{run}", run, action, "p", "d")
        seen = ObservedObject(POD, ObjectMeta(resource_version="1"), b"{}")
        state = TaskState(run, Limits(), datetime.now(UTC))
        live = LiveTask(TaskKey(namespace, f"{run}-{action}"), seen, state, identity)
        self.pods.add(live)
        return live

    def event(
        self,
        name: str,
        run: str,
        *,
        type: str = "MODIFIED",
        raw: bytes = b"{}",
        namespace: str = "n",
        action: str = "a0",
    ) -> None:
        meta = ObjectMeta(name=name, namespace=namespace, labels={"run": run, "action": action})
        self.pods.on_event(WatchEvent(WatchEventType(type), ObservedObject(POD, meta, raw)))


def test_a_pod_belongs_to_the_task_of_its_run_and_action() -> None:
    index = Index()
    one, other = index.task("r1"), index.task("r1", "a1")
    index.event("w0", "r1", raw=b"1")
    index.event("w1", "r1", raw=b"2", action="a1")
    index.event("w2", "r2")
    index.event("w3", "r1", namespace="m")
    assert (one.pods, other.pods) == ({"w0": b"1"}, {"w1": b"2"})
    assert index.told == ["r1-a0", "r1-a1"]


def test_names_that_are_no_labels_are_found_by_what_an_execution_makes_of_them() -> None:
    index = Index()
    live = index.task("-run!", "what/a")
    index.event("w0", sanitize_label_value("-run!"), action=sanitize_label_value("what/a"))
    assert live.pods == {"w0": b"{}"}


def test_only_news_are_told() -> None:
    index = Index()
    live = index.task("r1")
    for raw in (b"1", b"1", b"2", b"2"):
        index.event("w0", "r1", raw=raw)
    index.event("w0", "r1", type="DELETED")
    index.event("w0", "r1", type="DELETED")
    assert index.told == ["r1-a0"] * 3
    assert live.pods == {}


def test_pods_that_are_seen_before_their_tasks_are_theirs_once_they_come() -> None:
    index = Index()
    index.event("w0", "r1", type="ADDED", raw=b"1")
    index.event("w1", "r1", type="ADDED", raw=b"2")
    index.event("w1", "r1", type="DELETED")
    assert index.task("r1").pods == {"w0": b"1"}


def test_nothing_is_kept_of_tasks_that_are_not_driven_here() -> None:
    index = Index()
    index.event("w0", "over", type="ADDED")
    index.pods.all_tasks_known()
    index.event("w1", "over", type="ADDED")
    index.pods.expect_tasks()
    assert index.task("over").pods == {}


def test_what_a_list_does_not_show_is_gone() -> None:
    index = Index()
    one, other, elsewhere = index.task("r1"), index.task("r2"), index.task("r3", namespace="m")
    for name, run, namespace in (("a", "r1", "n"), ("b", "r1", "n"), ("c", "r2", "n"), ("d", "r3", "m")):
        index.event(name, run, namespace=namespace)
    index.told.clear()
    index.pods.on_listed("n", frozenset({("n", "a"), ("n", "c")}))
    assert [set(live.pods or ()) for live in (one, other, elsewhere)] == [{"a"}, {"c"}, {"d"}]
    assert index.told == ["r1-a0"]
    index.pods.on_listed("", frozenset())
    assert [live.pods for live in (one, other, elsewhere)] == [{}, {}, {}]


def test_a_task_that_was_taken_up_anew_is_told_and_not_the_old_one() -> None:
    index = Index()
    old = index.task("r1")
    new = index.task("r1")
    index.pods.drop(old)
    index.event("w0", "r1")
    assert new.pods == {"w0": b"{}"}
    index.pods.drop(new)
    index.event("w1", "r1")
    assert index.told == ["r1-a0"]


# -- What a plugin sees ----------------------------------------------------------------------------


async def test_a_plugin_sees_the_tasks_own_pod_with_the_others() -> None:
    async with single_task() as it:
        await it.launch()
        it.live.pods = {"w0": b"w0"}
        own = it.live.object
        assert own is not None
        assert it.live.seen_pods() == {"w0": b"w0", own.metadata.name: own.raw}
        it.live.object_was_deleted = True
        assert it.live.seen_pods() == {"w0": b"w0"}
        it.live.pods = None
        assert it.live.seen_pods() is None


class JobPlugin(PodPlugin):
    """Runs when its first pod does, and is over when all two have ended."""

    async def build_resource(self, ctx: TaskContext) -> Mapping[str, Any]:
        return {"apiVersion": "batch/v1", "kind": "Job", "spec": {}}

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        pods = [msgspec.json.decode(raw) for raw in await ctx.kubernetes.list_pods()]
        states = [pod.get("status", {}).get("phase") for pod in pods]
        assert [pod["metadata"]["name"] for pod in pods] == sorted(pod["metadata"]["name"] for pod in pods)
        first = await ctx.kubernetes.get_pod(f"{resource.metadata.name}-w0")
        assert (first is None) == (not pods)
        if states == ["Succeeded"] * 2:
            return phases.success(ctx.now)
        return phases.running(ctx.now, 0) if "Running" in states else phases.queued(ctx.now, 0, "no pod runs")

    def is_terminal(self, resource: ObservedObject) -> bool:
        return True


@asynccontextmanager
async def jobs() -> AsyncIterator[tuple[Rig, list[str]]]:
    plugin = JobPlugin()
    registry = Registry()
    registry.register(KubernetesPluginEntry(id="jobs", task_types=("pod",), watched=JOB, load=plugin))
    registry.load(setup_context())
    async with EmbeddedCluster.open() as cluster:
        it = Rig(cluster, EngineConfig(workers=4, status_linger_s=0.02), registry, plugin, frozenset({JOB}))
        pod_reads: list[str] = []

        for name in ("get", "list"):
            real = getattr(cluster, name)

            async def counted(kind: Kind, *args: Any, _real: Any = real, _name: str = name, **more: Any) -> Any:
                if kind == POD:
                    pod_reads.append(_name)
                return await _real(kind, *args, **more)

            setattr(it.cluster, name, counted)
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            yield it, pod_reads
            group.cancel_scope.cancel()


async def make_pod(it: Rig, name: str, labels: Mapping[str, str]) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": labels}}
    await it.truth.create(POD, msgspec.json.encode({**body, "spec": {"containers": []}}))


async def test_pods_of_an_operator_wake_their_task_and_cost_no_calls() -> None:
    async with jobs() as (it, pod_reads):
        await it.submit()
        await it.until_reason("Queued")
        (job,) = (await it.truth.list(JOB)).items
        for number in range(2):
            await make_pod(it, f"{job.metadata.name}-w{number}", job.metadata.labels)
        await it.move(f"{job.metadata.name}-w0", "Running")
        await it.until_reason("Executing")
        for number in range(2):
            await it.move(f"{job.metadata.name}-w{number}", "Succeeded")
        status = await it.until_over()
        assert [entry.phase for entry in status.phase_history][-1] == "Completed"
        assert pod_reads == ["list"], "the watcher's own"
