"""The bare loader: only the API calls that running tasks as pods takes, with no engine behind them.

It follows tasks and pods, makes a pod for each task, writes the status twice and labels the task at its end. What
it writes is what an engine wrote once, with other names: ``recording`` takes it from a task that is over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from propfan.engine import memory
from propfan.engine.cluster import POD, TASK_ACTION, Kind, ObservedObject, WatchEventType
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.pluginmachinery.taskaction import TERMINATION_STATUS_LABEL

READY: Final = "ready"
RUN_LABEL: Final = "run"


class Recording(msgspec.Struct):
    """What is written for one task, by whoever drives it.

    Attributes:
        pod: Its body, with ``@RUN@`` where the run is named, without a namespace.
        running, ended: The two values of the task's status.
        labels: Of the task at its end.
    """

    kubeconfig: str
    namespace: str
    pod: str
    running: dict[str, Any]
    ended: dict[str, Any]
    labels: dict[str, str]


def recording(
    kubeconfig: str, namespace: str, run: str, action: Mapping[str, Any], pod: Mapping[str, Any]
) -> Recording:
    """From a task that an engine has driven to its end."""
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    meta = {key: pod["metadata"].get(key, {}) for key in ("labels", "annotations")}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "name": "@RUN@-a0-0"}, "spec": spec}
    text = msgspec.json.encode(body).decode().replace(run, "@RUN@")
    status = action["status"]
    running = {**status, "pluginPhase": "PhaseRunning", "conditions": []}
    return Recording(kubeconfig, namespace, text, running, status, action["metadata"]["labels"])


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    status: _PodStatus = _PodStatus()


_phase: Final = msgspec.json.Decoder(_Pod).decode


class Loader:
    def __init__(self, cluster: KubernetesCluster, told: Recording) -> None:
        self._cluster: Final = cluster
        self._told: Final = told
        self._phases: Final[dict[str, str]] = {}

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for kind, take in ((TASK_ACTION, self._take_task), (POD, self._take_pod)):
                page = await self._cluster.list(kind, namespace=self._told.namespace)
                tasks.start_soon(self._follow, kind, take, page.resource_version)
            print(READY, flush=True)

    async def _follow(self, kind: Kind, take: Any, version: str) -> None:
        while True:
            watch = self._cluster.watch(kind, namespace=self._told.namespace, resource_version=version)
            async with watch as batches:
                async for batch in batches:
                    for event in batch:
                        version = event.object.metadata.resource_version
                        if event.type in (WatchEventType.ADDED, WatchEventType.MODIFIED):
                            take(event.object, event.type)

    def _take_task(self, task: ObservedObject, type: WatchEventType) -> None:
        if type is WatchEventType.ADDED:
            self._tasks.start_soon(self._create, task)

    async def _create(self, task: ObservedObject) -> None:
        body = msgspec.json.decode(self._told.pod.replace("@RUN@", task.metadata.name.removesuffix("-a0")))
        owner = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": task.metadata.name}
        body["metadata"] |= {
            "namespace": self._told.namespace,
            "ownerReferences": [{**owner, "uid": task.metadata.uid}],
        }
        await self._cluster.create(POD, msgspec.json.encode(body))

    def _take_pod(self, pod: ObservedObject, type: WatchEventType) -> None:
        phase = _phase(pod.raw).status.phase
        name = pod.metadata.name.removesuffix("-0")
        if phase in ("Running", "Succeeded") and self._phases.get(name) != phase:
            self._phases[name] = phase
            self._tasks.start_soon(self._write, name, phase)

    async def _write(self, name: str, phase: str) -> None:
        told = self._told
        status = told.running if phase == "Running" else told.ended
        await self._cluster.patch(TASK_ACTION, told.namespace, name, {"status": status}, subresource="status")
        if phase == "Succeeded":
            patch = {"metadata": {"labels": {**told.labels, TERMINATION_STATUS_LABEL: "terminated"}}}
            await self._cluster.patch(TASK_ACTION, told.namespace, name, patch)


async def main(told: Recording) -> None:
    config = KubernetesConfig(kubeconfig=told.kubeconfig, qps=0.0)
    async with KubernetesCluster.connect(config) as cluster:
        await Loader(cluster, told).run()


if __name__ == "__main__":
    memory.collect_less_often()
    given = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Recording)
    anyio.run(main, given, backend_options={"use_uvloop": True})
