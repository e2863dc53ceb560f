"""A cluster in memory and a process runtime on it, as the tests of pods' lives use them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from propfan.engine.cluster import POD, Cluster, WatchEventType
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.processes import BackOff, Capacity, ProcessRuntime
from propfan.engine.processes.process import ProcessRecord
from propfan.engine.processes.supervisor import start_ticks

Json = Mapping[str, Any]

AMPLE = Capacity(cpu="1000", memory="1Ti", pods=1000)
NAMESPACE = "tests"


def shell(script: str, name: str = "main", **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {
        "name": name,
        "image": "none",
        "command": ["/bin/sh", "-c", script],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **fields,
    }


def pod(name: str, *containers: Json, metadata: Json | None = None, **spec: Any) -> bytes:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": name, **(metadata or {})},
        "spec": {"restartPolicy": "Never", "containers": list(containers), **spec},
    }
    return json.dumps(body).encode()


async def until(cluster: Cluster, name: str, holds: Callable[[Json], bool]) -> Json:
    """The pod, as soon as it is so; ``{}`` when it has gone and that is what ``holds`` accepts."""
    with anyio.fail_after(20):
        listed = await cluster.list(POD, namespace=NAMESPACE, limit=0)
        found: Json = next((json.loads(o.raw) for o in listed.items if o.metadata.name == name), {})
        if holds(found):
            return found
        async with cluster.watch(POD, namespace=NAMESPACE, resource_version=listed.resource_version) as batches:
            async for batch in batches:
                for event in batch:
                    if event.object.metadata.name == name:
                        found = {} if event.type is WatchEventType.DELETED else json.loads(event.object.raw)
                        if holds(found):
                            return found
    raise AssertionError(f"the watch of pod {name} ended")


def has_ended(found: Json) -> bool:
    return found.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_running(found: Json) -> bool:
    return bool(found.get("status", {}).get("phase") == "Running")


def is_gone(found: Json) -> bool:
    return not found


def waits_because_of(reason: str) -> Callable[[Json], bool]:
    """Whether a container waits for this reason."""

    def holds(found: Json) -> bool:
        status = found.get("status", {})
        states = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        return any(s["state"].get("waiting", {}).get("reason") == reason for s in states)

    return holds


def is_unschedulable(found: Json) -> bool:
    conditions = found.get("status", {}).get("conditions", ())
    return any(c["type"] == "PodScheduled" and c["status"] == "False" for c in conditions)


def condition(found: Json, kind: str) -> Json:
    return next(c for c in found["status"]["conditions"] if c["type"] == kind)


def terminated(found: Json, index: int = 0, of: str = "containerStatuses") -> Json:
    state: Json = found["status"][of][index]["state"]["terminated"]
    return state


class Machine:
    def __init__(self, cluster: EmbeddedCluster, data_dir: Path, runtime: ProcessRuntime) -> None:
        self.cluster = cluster
        self.data_dir = data_dir
        self.runtime = runtime

    async def create(self, name: str, *containers: Json, metadata: Json | None = None, **spec: Any) -> str:
        """Returns its uid."""
        return (await self.cluster.create(POD, pod(name, *containers, metadata=metadata, **spec))).metadata.uid

    async def until(self, name: str, holds: Callable[[Json], bool]) -> Json:
        return await until(self.cluster, name, holds)

    async def run(self, name: str, *containers: Json, metadata: Json | None = None, **spec: Any) -> Json:
        """The pod after its end."""
        await self.create(name, *containers, metadata=metadata, **spec)
        return await self.until(name, has_ended)

    def log(self, name: str, container: str = "main", restart: int = 0) -> str:
        return (self.data_dir / "logs" / NAMESPACE / name / container / f"{restart}.log").read_text()


@asynccontextmanager
async def machine(tmp_path: Path, **options: Any) -> AsyncIterator[Machine]:
    options = {"capacity": AMPLE, "back_off": BackOff(initial_s=0.01, maximum_s=0.02), **options}
    data_dir = tmp_path / "processes"
    async with (
        EmbeddedCluster.open() as cluster,
        ProcessRuntime(cluster, data_dir=data_dir, **options) as runtime,
    ):
        yield Machine(cluster, data_dir, runtime)


def record_of(data_dir: Path, uid: str, container: str = "main", restart: int = 0) -> ProcessRecord:
    path = data_dir / "pods" / uid / "launches" / container / str(restart) / "process.json"
    return msgspec.json.decode(path.read_bytes(), type=ProcessRecord)


async def until_process_ends(pid: int, ticks: int) -> None:
    """Waits for any process, also one of somebody else's children."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_ticks(pid) == ticks:
            with anyio.fail_after(20):
                await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def until_file(path: Path) -> str:
    """What a process has written into a FIFO until it closed it."""
    with anyio.fail_after(20):
        return await anyio.to_thread.run_sync(path.read_text, abandon_on_cancel=True)
