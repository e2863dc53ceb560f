"""What runs the tasks: a kubelet for pods and a service for tasks without objects.

Both outlive every engine, talk to the true cluster and act out the scripts of the plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import anyio
import anyio.abc
import msgspec
from flyteidl2.core import execution_pb2

from propfan.engine.cluster import ObservedObject, WatchEventType
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.errors import ConflictError, NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.testing.fakes import InMemoryStore
from tests.simulation.dice import Dice
from tests.simulation.life import Tell
from tests.simulation.plan import CODES, Result, Task

NODE: Final = "sim"


class Pod(msgspec.Struct):
    """One pod on the node. ``going`` is set when it was asked to terminate."""

    name: str
    uid: str
    task: Task
    attempt: int
    going: Any
    is_over: bool = False
    has_node: bool = True


class Kubelet:
    """Runs the pods. ``launches`` and ``ended`` count by task and attempt; ``violations`` should stay empty."""

    def __init__(
        self,
        truth: EmbeddedCluster,
        store: InMemoryStore,
        tasks: Mapping[str, Task],
        dice: Dice,
        stuck: float,
        tell: Tell,
    ) -> None:
        self._truth: Final = truth
        self._store: Final = store
        self._tasks: Final = tasks
        self._dice: Final = dice
        self._stuck: Final = stuck
        self._tell: Final = tell
        self._pods: Final[dict[str, Pod]] = {}
        self.launches: Final[dict[tuple[str, int], int]] = {}
        self._ended: Final[dict[tuple[str, int], int]] = {}
        self.violations: Final[list[str]] = []

    async def run(self) -> None:
        async with (
            anyio.create_task_group() as group,
            self._truth.watch(POD, resource_version="0") as stream,
        ):
            async for batch in stream:
                for event in batch:
                    self._see(event.type, event.object, group)

    def _see(self, kind: WatchEventType, seen: ObservedObject, group: anyio.abc.TaskGroup) -> None:
        meta = seen.metadata
        if kind is WatchEventType.ADDED:
            pod = Pod(
                meta.name,
                meta.uid,
                self._tasks[meta.owner_references[0].name],
                int(meta.name.rpartition("-")[2]) + 1,
                anyio.Event(),
            )
            key = pod.task.name, pod.attempt
            self.launches[key] = self.launches.get(key, 0) + 1
            for other in self._pods.values():
                if other.task is pod.task and not other.is_over:
                    self.violations.append(f"{pod.name} was made while {other.name} was still alive")
            self._pods[pod.uid] = pod
            self._tell(f"node: {pod.name} is launch {self.launches[key]} of its attempt")
            group.start_soon(self._run, pod)
        elif kind is WatchEventType.DELETED:
            gone = self._pods.pop(meta.uid)
            gone.is_over = True
            gone.going.set()
            self._tell(f"node: {gone.name} is away")
        elif meta.deletion_timestamp is not None:
            self._pods[meta.uid].going.set()

    async def _run(self, pod: Pod) -> None:
        key = pod.task.name, pod.attempt
        what = (*key, self.launches[key])
        try:
            with anyio.CancelScope() as life:
                async with anyio.create_task_group() as group:
                    group.start_soon(_cancel_when, pod.going, life)
                    await self._act(pod, key, what)
                    group.cancel_scope.cancel()
            if pod.is_over or not pod.going.is_set():
                return
            if self._dice.chance(self._stuck, "stuck", *what):
                await anyio.sleep(self._dice.uniform(10.0, 120.0, "stuck for", *what))
            elif self._dice.chance(0.7, "terminates slowly", *what):
                await anyio.sleep(self._dice.uniform(0.0, 3.0, "terminates", *what))
            pod.is_over = True
            self._tell(f"node: {pod.name} was stopped")
            await self._truth.delete(POD, "default", pod.name, uid=pod.uid, grace_period_s=0)
        except (NotFoundError, ConflictError):
            pod.is_over = True

    async def _act(self, pod: Pod, key: tuple[str, int], what: tuple[object, ...]) -> None:
        dice = self._dice
        result = pod.task.attempts[pod.attempt - 1].ending(self._ended.get(key, 0) + 1)
        if result is Result.NEVER_STARTS:
            await anyio.sleep_forever()
        if result is Result.UNSTARTABLE:
            await anyio.sleep(dice.uniform(0.0, 2.0, "start", *what))
            await self._report(pod, "Pending", CODES[result], "unstartable")
            await anyio.sleep_forever()
        if dice.chance(0.5, "pulls", *what):
            await self._report(pod, "Pending", "Pulling", "pulling")
        is_quick = dice.chance(0.3, "quick", *what)
        if not is_quick:
            await anyio.sleep(dice.uniform(0.0, 5.0, "start", *what))
        await self._report(pod, "Running")
        if result is Result.NEVER_ENDS:
            await anyio.sleep_forever()
        if not is_quick:
            await anyio.sleep(dice.uniform(0.0, 20.0, "run", *what))
        self._leave(pod, result)
        succeeded = result in (Result.SUCCESS, Result.ERROR_FILE, Result.FATAL_ERROR_FILE, Result.NO_OUTPUTS)
        phase = "Succeeded" if succeeded else "Failed"
        pod.is_over = True
        self._ended[key] = self._ended.get(key, 0) + 1
        await self._report(pod, phase, CODES.get(result, ""), result.value)

    def _leave(self, pod: Pod, result: Result) -> None:
        """What the task writes before it ends."""
        prefix = f"memory:///out/{pod.task.name}/a0/{pod.attempt}"
        if result is Result.SUCCESS:
            self._store.objects[f"{prefix}/outputs.pb"] = b""
        if result in (Result.ERROR_FILE, Result.FATAL_ERROR_FILE):
            is_recoverable = result is Result.ERROR_FILE
            error = execution_pb2.ContainerError(
                code=CODES[result],
                message="simulated",
                kind=execution_pb2.ContainerError.RECOVERABLE
                if is_recoverable
                else execution_pb2.ContainerError.NON_RECOVERABLE,
                origin=execution_pb2.ExecutionError.USER,
            )
            document = execution_pb2.ErrorDocument(error=error)
            self._store.objects[f"{prefix}/error.pb"] = document.SerializeToString()

    async def _report(self, pod: Pod, phase: str, reason: str = "", message: str = "") -> None:
        self._tell(f"node: {pod.name} is {phase} {reason}")
        patch = {"metadata": {"uid": pod.uid}, "status": {"phase": phase, "reason": reason, "message": message}}
        await self._truth.patch(POD, "default", pod.name, patch, subresource="status")


class Job(msgspec.Struct):
    task: Task
    attempt: int
    result: Result
    ends_at_s: float


class Service:
    """Runs tasks that have no object, under a name; to begin a job twice is to begin it once."""

    def __init__(self, tasks: Mapping[str, Task], dice: Dice, tell: Tell) -> None:
        self._tasks: Final = tasks
        self._dice: Final = dice
        self._tell: Final = tell
        self.jobs: Final[dict[str, Job]] = {}
        self.launches: Final[dict[tuple[str, int], int]] = {}
        self._ended: Final[dict[tuple[str, int], int]] = {}
        self.violations: Final[list[str]] = []

    async def begin(self, name: str) -> None:
        if name in self.jobs:
            return
        owner, _, number = name.rpartition("-")
        task = self._tasks[owner]
        key = task.name, int(number) + 1
        for other_name, other in self.jobs.items():
            if other.task is task:
                self.violations.append(f"job {name} was begun beside {other_name}")
        self.launches[key] = launch = self.launches.get(key, 0) + 1
        result = task.attempts[key[1] - 1].ending(self._ended.get(key, 0) + 1)
        lasts_s = float("inf") if result is Result.NEVER_ENDS else self._dice.uniform(0.0, 20.0, "job", *key, launch)
        self._tell(f"service: {name} is launch {launch} of its attempt, {result.value}")
        self.jobs[name] = Job(task, key[1], result, asyncio.get_running_loop().time() + lasts_s)

    async def look(self, name: str) -> Result | None:
        """How the job ended; ``None`` while it runs."""
        job = self.jobs[name]
        return job.result if asyncio.get_running_loop().time() >= job.ends_at_s else None

    async def stop(self, name: str) -> None:
        job = self.jobs.pop(name, None)
        if job is not None:
            self._tell(f"service: {name} is away")
            if asyncio.get_running_loop().time() >= job.ends_at_s:
                key = job.task.name, job.attempt
                self._ended[key] = self._ended.get(key, 0) + 1


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
