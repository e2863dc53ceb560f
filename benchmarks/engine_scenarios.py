"""What the engine suite measures, each in a process of its own: ``python -m benchmarks.engine_scenarios NAME ARGUMENTS``.

The engine is the real one with the real pod plugin and an embedded cluster in a file; pods are played
by a ``SimulatedKubelet`` in the same process. Arguments and figures are JSON objects.
"""

# ruff: noqa: ASYNC110 - what is waited for is seen from outside only

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog
from flyteidl2.core import tasks_pb2

from benchmarks.simulated_kubelet import Script, SimulatedKubelet, State, Step, succeeds
from propfan.engine import EmbeddedCluster, Engine, EngineConfig, Submission, TaskKey, memory
from propfan.engine.cluster import POD, TASK_ACTION, ObservedObject

_SUBMITTERS: Final = 64
_KUBELET_WRITES: Final = 512
"""Under way at once: many nodes, none of which waits for another."""

_RUNS_FOR_EVER: Final = (Step(0.0, State.SCHEDULED), Step(0.0, State.RUNNING))
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Figures = Mapping[str, float]


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of all scenarios.

    Attributes:
        folder: For the database, and the outputs when ``has_files``.
        tasks: How many to run.
        live: How many others to have running meanwhile.
        idle_s: How long to look at a cluster in which nothing happens.
        rate: Tasks that are submitted in a second.
    """

    folder: str
    tasks: int = 0
    live: int = 0
    idle_s: float = 0.0
    rate: float = 0.0
    has_files: bool = False


def template() -> bytes:
    """A small container task."""
    task = tasks_pb2.TaskTemplate(type="container")
    task.id.project, task.id.domain, task.id.name, task.id.version = "shop", "production", "orders.clean", "v7"
    task.container.image = "ghcr.io/example/orders:v7"
    task.container.args.extend(["clean", "--inputs", "{{.input}}", "--to", "{{.outputPrefix}}"])
    for name, value in ((tasks_pb2.Resources.CPU, "500m"), (tasks_pb2.Resources.MEMORY, "512Mi")):
        task.container.resources.requests.add(name=name, value=value)
    return task.SerializeToString()


def _script(pod: ObservedObject) -> Script:
    return _RUNS_FOR_EVER if pod.metadata.name.startswith("live") else succeeds()


class World:
    """An engine, its cluster and the kubelet."""

    def __init__(self, engine: Engine, cluster: EmbeddedCluster) -> None:
        self.engine: Final = engine
        self.cluster: Final = cluster
        self._template: Final = template()

    async def submit(self, run: str, count: int) -> Sequence[TaskKey]:
        """Submits ``count`` tasks as fast as the engine takes them."""
        keys: list[TaskKey] = []

        async def some(first: int) -> None:
            keys.extend([await self.submit_one(run, number) for number in range(first, count, _SUBMITTERS)])

        async with anyio.create_task_group() as tasks:
            for first in range(_SUBMITTERS):
                tasks.start_soon(some, first)
        return keys

    async def submit_one(self, run: str, number: int) -> TaskKey:
        return await self.engine.submit(Submission(template=self._template, run_name=run, action_name=f"a{number}"))


@asynccontextmanager
async def world(arguments: Arguments, script: Callable[[ObservedObject], Script] = _script) -> AsyncIterator[World]:
    config = EngineConfig(data_dir=Path(arguments.folder) if arguments.has_files else None)
    async with (
        EmbeddedCluster.open(Path(arguments.folder, "cluster.db")) as cluster,
        anyio.create_task_group() as tasks,
        Engine(config, cluster=cluster) as engine,
    ):
        tasks.start_soon(SimulatedKubelet(cluster, script, workers=_KUBELET_WRITES).run)
        yield World(engine, cluster)
        tasks.cancel_scope.cancel()


async def burst(arguments: Arguments) -> Figures:
    """Tasks all at once, until every verdict is written and everything that had to go is gone."""
    async with world(arguments) as it:
        await it.submit("warm", _SUBMITTERS)
        await it.engine.settled()
        wall, cpu = time.perf_counter(), time.process_time()
        await it.submit("burst", arguments.tasks)
        await it.engine.settled()
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        statuses = await it.engine.list()
    succeeded = sum(status.outcome is not None and status.outcome.is_success for status in statuses)
    if succeeded != arguments.tasks + _SUBMITTERS:
        raise SystemExit(f"{succeeded} of {len(statuses)} tasks succeeded")
    return {"wall_s": wall_s, "cpu_s": cpu_s}


async def kubelet(arguments: Arguments) -> Figures:
    """What the kubelet's part of a burst costs: the same pods, that nobody looks at."""
    async with EmbeddedCluster.open(Path(arguments.folder, "cluster.db")) as cluster:
        bodies = await _bodies(arguments)
        for number in range(0, len(bodies), _SUBMITTERS):
            async with anyio.create_task_group() as creations:
                for body in bodies[number : number + _SUBMITTERS]:
                    creations.start_soon(cluster.create, POD, body)
        player = SimulatedKubelet(cluster, workers=_KUBELET_WRITES)
        cpu = time.process_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(player.run)
            while player.finished < arguments.tasks:
                await anyio.sleep(0.01)
            cpu_s = time.process_time() - cpu
            tasks.cancel_scope.cancel()
    return {"cpu_s": cpu_s}


async def _bodies(arguments: Arguments) -> Sequence[bytes]:
    """Pods as the pod plugin builds them, under many names and without their owner."""
    async with world(msgspec.structs.replace(arguments, folder=f"{arguments.folder}/sample")) as it:
        key = await it.submit_one("sample", 0)
        await it.engine.wait(key)
        pod = msgspec.json.decode((await it.cluster.get(POD, key.namespace, f"{key.name}-0")).raw)
    del pod["status"]
    labels = pod["metadata"]["labels"]
    return [
        msgspec.json.encode({**pod, "metadata": {"name": f"pod{n}", "namespace": key.namespace, "labels": labels}})
        for n in range(arguments.tasks)
    ]


async def crowd(arguments: Arguments) -> Figures:
    """Live tasks that run and run: their memory, their cost at rest, and that of others beside them."""
    async with world(arguments) as it:
        await it.submit("warm", 4 * _SUBMITTERS)
        await it.engine.settled()
        before = _resident_bytes()
        keys = await it.submit("live", arguments.live)
        await _until_quiet(it, keys)
        resident_bytes = _resident_bytes() - before
        cpu = time.process_time()
        await anyio.sleep(arguments.idle_s)
        idle_cpu_s = time.process_time() - cpu
        cpu = time.process_time()
        churned = await it.submit("churn", arguments.tasks)
        for key in churned:
            await it.engine.wait(key)
        while it.engine.live_tasks > arguments.live:
            await anyio.sleep(0.01)
        cpu_s = time.process_time() - cpu
    return {
        "resident_bytes": resident_bytes / max(arguments.live, 1),
        "idle_cpu_s": idle_cpu_s,
        "idle_s": arguments.idle_s,
        "cpu_s": cpu_s,
    }


async def _until_quiet(it: World, keys: Sequence[TaskKey]) -> None:
    """Until all tasks run and that is written, and nothing is under way any more."""
    while (await _count(it.cluster, b'"pluginPhase":"PhaseRunning"')) < len(keys):
        await anyio.sleep(0.2)
    gc.collect()
    used_s = 1.0
    while used_s > 0.002:
        cpu = time.process_time()
        await anyio.sleep(0.3)
        used_s = time.process_time() - cpu


async def _count(cluster: EmbeddedCluster, text: bytes) -> int:
    """Tasks whose object holds ``text``."""
    page = await cluster.list(TASK_ACTION, limit=0)
    return sum(text in item.raw for item in page.items)


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


async def crash(arguments: Arguments) -> Figures:
    """Brings tasks to where they run, says so, and waits to be killed."""
    async with world(arguments) as it:
        keys = await it.submit("live", arguments.live)
        await _until_quiet(it, keys)
        print("running", flush=True)
        await anyio.sleep_forever()
    return {}


async def recovery(arguments: Arguments) -> Figures:
    """From the start of the process until every task is listed, loaded, watched and was looked at."""
    cpu = time.process_time()
    opened = time.perf_counter()
    async with EmbeddedCluster.open(Path(arguments.folder, "cluster.db")) as cluster:
        entered = time.perf_counter()
        async with Engine(EngineConfig(), cluster=cluster) as engine:
            page = await cluster.list(TASK_ACTION, limit=0)
            keys = [TaskKey(item.metadata.namespace, item.metadata.name) for item in page.items]
            while engine.live_tasks < len(keys) or (await engine.explain(keys[-1])).observed_at is None:
                await anyio.sleep(0.005)
            done, cpu_s = time.perf_counter(), time.process_time() - cpu
            seen = [key for key in keys if (await engine.explain(key)).observed_at is not None]
    if len(seen) != arguments.live:
        raise SystemExit(f"{len(seen)} tasks are driven again, not {arguments.live}")
    return {"database_s": entered - opened, "driven_s": done - entered, "cpu_s": cpu_s}


async def latency(arguments: Arguments) -> Figures:
    """From the commit of a pod's status to that of its task's status, both as a watch shows them."""
    steps = (Step(0.2, State.SCHEDULED), Step(0.3, State.RUNNING), Step(0.3, State.SUCCEEDED))
    seen: dict[tuple[str, str], float] = {}
    waits: dict[str, list[float]] = {"running": [], "final": []}
    marks = (
        ("running", b'"phase":"Running"', b'"pluginPhase":"PhaseRunning"'),
        ("final", b'"phase":"Succeeded"', b'"pluginPhase":"PhaseSuccess"'),
    )

    async def follow_pods(cluster: EmbeddedCluster, since: str) -> None:
        async with cluster.watch(POD, resource_version=since) as changes:
            async for batch in changes:
                now = time.perf_counter()
                for event in batch:
                    name = event.object.metadata.name.removesuffix("-0")
                    for what, text, _ in marks:
                        if text in event.object.raw:
                            seen.setdefault((what, name), now)

    async def follow_tasks(cluster: EmbeddedCluster, since: str) -> None:
        async with cluster.watch(TASK_ACTION, resource_version=since) as changes:
            async for batch in changes:
                now = time.perf_counter()
                for event in batch:
                    for what, _, text in marks:
                        if text in event.object.raw:
                            changed = seen.pop((what, event.object.metadata.name), None)
                            if changed is not None:
                                waits[what].append(now - changed)

    async with world(arguments, lambda _: steps) as it:
        await it.submit("warm", _SUBMITTERS)
        await it.engine.settled()
        async with anyio.create_task_group() as tasks:
            version = (await it.cluster.list(POD, limit=1)).resource_version
            tasks.start_soon(follow_pods, it.cluster, version)
            tasks.start_soon(follow_tasks, it.cluster, version)
            begin = anyio.current_time()
            for number in range(arguments.tasks):
                early_s = begin + number / arguments.rate - anyio.current_time()
                if early_s > 0:
                    await anyio.sleep(early_s)
                tasks.start_soon(it.submit_one, "timed", number)
            submitted_s = anyio.current_time() - begin
            await anyio.sleep(1.0)
            await it.engine.settled()
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
    figures = {"rate": arguments.tasks / submitted_s}
    for what, values in waits.items():
        values.sort()
        figures[f"{what}_count"] = len(values)
        figures[f"{what}_p50_ms"] = 1000 * values[len(values) // 2]
        figures[f"{what}_p99_ms"] = 1000 * values[len(values) * 99 // 100]
    return figures


_SCENARIOS: Final = {f.__name__: f for f in (burst, kubelet, crowd, crash, recovery, latency)}


def main() -> None:
    name, arguments = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Arguments)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    memory.collect_less_often()
    figures = anyio.run(_SCENARIOS[name], arguments, backend_options={"use_uvloop": True})
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
