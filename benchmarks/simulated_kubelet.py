"""A kubelet that runs nothing: it moves pods through the states that their script says.

One heap of deadlines for all pods and a fixed number of workers, so that 50,000 pods cost little
more than their patches. Works with every ``Cluster``; binding a pod to a node by a patch (``node``)
is for the embedded one, an API server has a scheduler for that.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import Any, Final

import anyio
import msgspec

from propfan.engine.cluster import POD, Cluster, ObservedObject, WatchEventType
from propfan.pluginmachinery.errors import (
    ConflictError,
    ExpiredError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)

RETRY_S: Final = 0.2


class State(enum.Enum):
    UNSCHEDULABLE = "Unschedulable"
    SCHEDULED = "Scheduled"
    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GONE = "Gone"


class Step(msgspec.Struct, frozen=True, gc=False):
    """One state of a pod.

    Attributes:
        delay_s: Seconds since the step before, or since the pod was seen.
        exit_code: Of all containers, when ``FAILED``.
        reason: Of the containers' waiting or terminated state, e.g. ``ImagePullBackOff``, ``OOMKilled``.
    """

    delay_s: float
    state: State
    exit_code: int = 1
    reason: str = ""
    message: str = ""


Script = Sequence[Step]


def succeeds(scheduled_s: float = 0.0, running_s: float = 0.0, finished_s: float = 0.0) -> Script:
    return (Step(scheduled_s, State.SCHEDULED), Step(running_s, State.RUNNING), Step(finished_s, State.SUCCEEDED))


def fails(exit_code: int = 1, reason: str = "Error", message: str = "", *, after_s: float = 0.0) -> Script:
    return (
        Step(0.0, State.SCHEDULED),
        Step(0.0, State.RUNNING),
        Step(after_s, State.FAILED, exit_code, reason, message),
    )


def waits(reason: str, message: str = "") -> Script:
    """Never starts, e.g. for ``ImagePullBackOff``."""
    return (Step(0.0, State.SCHEDULED), Step(0.0, State.WAITING, reason=reason, message=message))


class _Container(msgspec.Struct, gc=False):
    name: str
    image: str = ""


class _Spec(msgspec.Struct, rename="camel", gc=False):
    containers: Sequence[_Container] = ()
    node_name: str = ""


class _Status(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""


class _PodParts(msgspec.Struct, gc=False):
    spec: _Spec
    status: _Status = _Status()


_decode: Final = msgspec.json.Decoder(_PodParts).decode


class _Pod(msgspec.Struct):
    namespace: str
    name: str
    uid: str
    containers: Sequence[_Container]
    steps: Iterator[Step]
    node: str = ""
    started_at: str = ""
    is_stopping: bool = False


class SimulatedKubelet:
    """Plays every pod that matches, as ``script`` says for it.

    Attributes:
        patches: Writes that were made.
        finished: Pods that came to the end of their script.
    """

    def __init__(
        self,
        cluster: Cluster,
        script: Callable[[ObservedObject], Script] = lambda _: succeeds(),
        *,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        node: str = "",
        stopping_s: float = 0.0,
        workers: int = 64,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """How it plays.

        Args:
            node: Bind pods to this node first, so that their deletion waits for this kubelet.
            stopping_s: How long a pod that is being deleted takes to stop, seconds.
            workers: Writes that are under way at once.
        """
        self.patches = 0
        self.finished = 0
        self._cluster = cluster
        self._script = script
        self._namespace = namespace
        self._labels = labels
        self._node = node
        self._stopping_s = stopping_s
        self._workers = workers
        self._clock = clock
        self._pods: dict[str, _Pod] = {}
        self._deadlines: list[tuple[float, int, _Pod, Step]] = []
        self._count = 0
        self._due: deque[tuple[_Pod, Step]] = deque()
        self._is_due = anyio.Event()
        self._is_sooner = anyio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self._workers):
                tasks.start_soon(self._work)
            tasks.start_soon(self._keep_time)
            while True:
                version = await self._list()
                try:
                    await self._watch(version)
                except ExpiredError:
                    continue

    async def _list(self) -> str:
        token, seen = "", set()
        while True:
            page = await self._cluster.list(POD, namespace=self._namespace, labels=self._labels, continue_token=token)
            for pod in page.items:
                seen.add(pod.metadata.uid)
                self._observe(pod)
            token = page.continue_token
            if not token:
                break
        for uid in self._pods.keys() - seen:
            del self._pods[uid]
        return page.resource_version

    async def _watch(self, version: str) -> None:
        while True:
            async with self._cluster.watch(
                POD, namespace=self._namespace, labels=self._labels, resource_version=version
            ) as changes:
                async for batch in changes:
                    for event in batch:
                        if event.type is WatchEventType.DELETED:
                            self._pods.pop(event.object.metadata.uid, None)
                        elif event.type is not WatchEventType.BOOKMARK:
                            self._observe(event.object)
                    version = batch[-1].object.metadata.resource_version

    def _observe(self, observed: ObservedObject) -> None:
        metadata = observed.metadata
        pod = self._pods.get(metadata.uid)
        if pod is None:
            parts = _decode(observed.raw)
            pod = _Pod(metadata.namespace, metadata.name, metadata.uid, parts.spec.containers, iter(()))
            pod.node = parts.spec.node_name
            self._pods[metadata.uid] = pod
            if parts.status.phase not in ("Succeeded", "Failed"):
                pod.steps = iter(self._script(observed))
                if parts.status.phase == "Running":
                    pod.started_at = _timestamp(self._clock())
                    for step in pod.steps:
                        if step.state is State.RUNNING:
                            break
                self._advance(pod)
        if metadata.deletion_timestamp is not None and not pod.is_stopping:
            pod.is_stopping = True
            self._at(self._stopping_s, pod, Step(self._stopping_s, State.GONE))

    def _advance(self, pod: _Pod) -> None:
        step = next(pod.steps, None)
        if step is None:
            self.finished += 1
        else:
            self._at(step.delay_s, pod, step)

    def _at(self, delay_s: float, pod: _Pod, step: Step) -> None:
        if delay_s <= 0:
            self._due.append((pod, step))
            self._is_due.set()
            return
        self._count += 1
        deadline = anyio.current_time() + delay_s
        if not self._deadlines or deadline < self._deadlines[0][0]:
            self._is_sooner.set()
        heappush(self._deadlines, (deadline, self._count, pod, step))

    async def _keep_time(self) -> None:
        while True:
            self._is_sooner = anyio.Event()
            now = anyio.current_time()
            while self._deadlines and self._deadlines[0][0] <= now:
                _, _, pod, step = heappop(self._deadlines)
                self._due.append((pod, step))
            if self._due:
                self._is_due.set()
            wait_s = self._deadlines[0][0] - now if self._deadlines else float("inf")
            with anyio.move_on_after(wait_s):
                await self._is_sooner.wait()

    async def _work(self) -> None:
        while True:
            while not self._due:
                self._is_due = anyio.Event() if self._is_due.is_set() else self._is_due
                await self._is_due.wait()
            pod, step = self._due.popleft()
            if pod.uid in self._pods and (step.state is State.GONE or not pod.is_stopping):
                await self._play(pod, step)

    async def _play(self, pod: _Pod, step: Step) -> None:
        try:
            if step.state is State.GONE:
                await self._cluster.delete(POD, pod.namespace, pod.name, uid=pod.uid, grace_period_s=0)
            else:
                if self._node and not pod.node:
                    binding = {"metadata": {"uid": pod.uid}, "spec": {"nodeName": self._node}}
                    await self._patch(pod, binding, "")
                    pod.node = self._node
                await self._patch(pod, {"metadata": {"uid": pod.uid}, "status": self._status(pod, step)}, "status")
        except (NotFoundError, ConflictError):
            self._pods.pop(pod.uid, None)  # it is gone, perhaps with another in its place
        except (UnavailableError, ThrottledError) as error:
            self._at(max(error.retry_after_s, RETRY_S), pod, step)
        else:
            self._advance(pod)

    async def _patch(self, pod: _Pod, patch: Mapping[str, Any], subresource: str) -> None:
        await self._cluster.patch(POD, pod.namespace, pod.name, patch, subresource=subresource)
        self.patches += 1

    def _status(self, pod: _Pod, step: Step) -> Mapping[str, Any]:
        now = _timestamp(self._clock())
        state = step.state
        if state is State.UNSCHEDULABLE:
            return {"phase": "Pending", "conditions": [_condition("PodScheduled", now, step, is_true=False)]}
        conditions = [_condition("PodScheduled", now), _condition("Initialized", now)]
        if state is State.RUNNING:
            pod.started_at = now
            conditions.append(_condition("Ready", now))
            return {
                "phase": "Running",
                "startTime": now,
                "conditions": conditions,
                "containerStatuses": _containers(pod, {"running": {"startedAt": now}}, is_ready=True),
            }
        if state is State.SUCCEEDED or state is State.FAILED:
            ended = {
                "exitCode": 0 if state is State.SUCCEEDED else step.exit_code,
                "reason": step.reason or ("Completed" if state is State.SUCCEEDED else "Error"),
                "message": step.message,
                "startedAt": pod.started_at or now,
                "finishedAt": now,
            }
            conditions.append(_condition("Ready", now, step, is_true=False))
            return {
                "phase": state.value,
                "conditions": conditions,
                "containerStatuses": _containers(pod, {"terminated": ended}),
            }
        conditions.append(_condition("Ready", now, step, is_true=False))
        waiting = {"reason": step.reason or "ContainerCreating", "message": step.message}
        return {
            "phase": "Pending",
            "conditions": conditions,
            "containerStatuses": _containers(pod, {"waiting": waiting}),
        }


def _condition(name: str, now: str, step: Step | None = None, *, is_true: bool = True) -> Mapping[str, str]:
    condition = {"type": name, "status": "True" if is_true else "False", "lastTransitionTime": now}
    if step is not None and not is_true:
        condition["reason"] = "Unschedulable" if name == "PodScheduled" else "ContainersNotReady"
        condition["message"] = step.message
    return condition


def _containers(pod: _Pod, state: Mapping[str, Any], *, is_ready: bool = False) -> Sequence[Mapping[str, Any]]:
    return [
        {
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "ready": is_ready,
            "restartCount": 0,
            "state": state,
        }
        for container in pod.containers
    ]


def _timestamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
