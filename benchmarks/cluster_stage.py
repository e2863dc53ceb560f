"""A cluster of real parts for measurements: tasks that come, what becomes of them, and what the API server counted."""

from __future__ import annotations

import base64
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from propfan.engine.cluster import POD, TASK_ACTION, Kind, ObservedObject, WatchEventType
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.pluginmachinery.errors import ExpiredError
from propfan.pluginmachinery.taskaction import FINALIZER, TERMINATION_STATUS_LABEL
from propfan.pluginmachinery.testing.builders import task_template
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import asked
from tests.cluster.process import Process
from tests.cluster.replicas import Replica

SUBMITTERS: Final = 32
_SAMPLE: Final = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Calls(Counter[tuple[str, str, str, str]]):
    """How often the API server was asked: by verb, resource, subresource and code."""

    def of(self, verb: str = "", resource: str = "", subresource: str | None = None, code: str = "") -> int:
        """The sum of all that match; an empty subresource is none, ``None`` is any."""
        return sum(
            count
            for (a_verb, a_resource, a_subresource, a_code), count in self.items()
            if verb in ("", a_verb)
            and resource in ("", a_resource)
            and subresource in (None, a_subresource)
            and a_code.startswith(code)
        )

    @property
    def of_engine(self) -> int:
        """Writes that only those make who drive tasks: kwok and the scheduler write pods' subresources only."""
        return (
            self.of("POST", "pods", "")
            + self.of("DELETE", "pods", "")
            + self.of("PATCH", "pods", "")
            + self.of("PATCH", "taskactions")
            + self.of("PUT", "taskactions")
            + self.of("DELETE", "taskactions")
        )

    @property
    def leases(self) -> int:
        return self.of("PATCH", "leases") + self.of("PUT", "leases") + self.of("POST", "leases")

    @property
    def conflicts(self) -> int:
        return self.of(resource="taskactions", code="409") + self.of(resource="pods", code="409")

    def since(self, before: Calls) -> Calls:
        found = Calls(self)
        found.subtract(before)
        return found

    def shown(self) -> str:
        """The engine's own, in words."""
        words: Counter[str] = Counter()
        for (verb, resource, subresource, code), count in self.items():
            is_own = resource == "taskactions" and verb in ("PATCH", "PUT", "DELETE")
            is_own |= resource == "pods" and not subresource and verb in ("POST", "PATCH", "DELETE")
            if count and is_own:
                path = f"{resource}/{subresource}" if subresource else resource
                words[f"{verb} {path}" + ("" if code.startswith("2") else f" {code}")] += count
        return ", ".join(f"{what} {count}" for what, count in sorted(words.items())) or "none"


def calls(cluster: ControlPlane) -> Calls:
    found = Calls()
    for labels, value in _SAMPLE.findall(cluster.api.request("GET", "/metrics")):
        named = dict(_LABEL.findall(labels))
        key = (named.get("verb", ""), named.get("resource", ""), named.get("subresource", ""), named.get("code", ""))
        found[key] += int(float(value))
    return found


class Usage(msgspec.Struct, frozen=True):
    """Of a process: CPU seconds so far, and what it has in memory."""

    cpu_s: float
    resident_bytes: int


def usage(process: Process) -> Usage:
    pid = process.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, resident)


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _ActionStatus(msgspec.Struct, frozen=True, rename="camel"):
    plugin_phase: str = ""
    conditions: tuple[_Condition, ...] = ()


class _Action(msgspec.Struct, frozen=True):
    status: _ActionStatus = _ActionStatus()


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    status: _PodStatus = _PodStatus()


_action: Final = msgspec.json.Decoder(_Action).decode
_pod: Final = msgspec.json.Decoder(_Pod).decode


class Seen:
    """What was seen of a namespace's tasks and pods, and when, on the monotonic clock.

    Attributes:
        over: Tasks whose verdict is written and whose label says so.
        at: By name of the run and what happened first then: ``pod Running``, ``task Running``, ``task ended``, ...
        pods: Times that a pod of a name was made.
    """

    def __init__(self) -> None:
        self.over: dict[str, bool] = {}
        self.at: dict[tuple[str, str], float] = {}
        self.pods: Counter[str] = Counter()
        self.largest: dict[str, int] = {}
        self._changed = anyio.Event()

    def take(self, seen: ObservedObject, *, is_new: bool) -> None:
        now = time.monotonic()
        meta = seen.metadata
        self.largest[seen.kind.kind] = max(self.largest.get(seen.kind.kind, 0), len(seen.raw))
        if seen.kind == POD:
            self.pods[meta.name] += is_new
            self.at.setdefault((meta.labels.get("run", ""), f"pod {_pod(seen.raw).status.phase}"), now)
            return
        run = meta.name.removesuffix("-a0")
        status = _action(seen.raw).status
        ended = [c.type for c in status.conditions if c.type in ("Succeeded", "Failed") and c.status == "True"]
        if status.plugin_phase == "PhaseRunning" or ended:
            self.at.setdefault((run, "task Running"), now)
        if ended:
            self.at.setdefault((run, "task ended"), now)
            if TERMINATION_STATUS_LABEL in meta.labels and FINALIZER not in meta.finalizers:
                self.at.setdefault((run, "task over"), now)
                self.over[run] = ended == ["Succeeded"]
        self._changed.set()

    def count(self, what: str) -> int:
        return sum(1 for _, name in self.at if name == what)

    async def until(self, is_so: Callable[[], bool], *, limit_s: float) -> None:
        """Raises ``TimeoutError``."""
        with anyio.fail_after(limit_s):
            while not is_so():
                self._changed = anyio.Event()
                with anyio.move_on_after(1.0):
                    await self._changed.wait()


class Stage:
    """One namespace of a cluster, with somebody who drives its tasks."""

    def __init__(self, cluster: ControlPlane, folder: Path, prefix: str) -> None:
        self.cluster = cluster
        self.folder = folder / prefix
        self.folder.mkdir()
        self.namespace = cluster.create_namespace(prefix)
        self.outputs = f"file://{self.folder}/outputs"

    def replica(self, name: str = "one", **settings: Any) -> Replica:
        whole = {
            "namespaces": [self.namespace],
            "enabled-plugins": ["pod"],
            "sharding": {"group": self.namespace, "namespace": self.namespace},
            "gc-interval-s": 0,
            **settings,
            "serving": {"log-level": "warning"},
        }
        return Replica(name, self.folder, self.cluster.kubeconfig, whole)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[tuple[KubernetesCluster, Seen]]:
        """A client without limits, and what is seen as long as the context lasts."""
        seen = Seen()
        config = KubernetesConfig(kubeconfig=str(self.cluster.kubeconfig), qps=0.0)
        async with KubernetesCluster.connect(config) as client, anyio.create_task_group() as tasks:
            for kind in (TASK_ACTION, POD):
                await tasks.start(self._follow, client, kind, seen)
            yield client, seen
            tasks.cancel_scope.cancel()

    async def _follow(
        self, client: KubernetesCluster, kind: Kind, seen: Seen, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        version, token = "", ""
        while True:
            page = await client.list(kind, namespace=self.namespace, continue_token=token)
            for item in page.items:
                seen.take(item, is_new=True)
            version, token = page.resource_version, page.continue_token
            if not token:
                break
        task_status.started()
        while True:
            try:
                async with client.watch(kind, namespace=self.namespace, resource_version=version) as batches:
                    async for batch in batches:
                        for event in batch:
                            version = event.object.metadata.resource_version
                            if event.type in (WatchEventType.ADDED, WatchEventType.MODIFIED):
                                seen.take(event.object, is_new=event.type is WatchEventType.ADDED)
            except ExpiredError:
                raise SystemExit(f"the watch of {kind} fell behind: too slow to measure") from None

    async def submit(self, client: KubernetesCluster, runs: list[str], *, per_s: float = 0.0, **wishes: str) -> None:
        """Makes a task for each run, as fast as it goes or so many in a second."""
        begin = time.monotonic()
        waiting = list(enumerate(runs))
        waiting.reverse()

        async def some() -> None:
            while waiting:
                number, run = waiting.pop()
                if per_s:
                    await anyio.sleep(max(0.0, begin + number / per_s - time.monotonic()))
                await client.create(TASK_ACTION, self.action(run, wishes))

        async with anyio.create_task_group() as tasks:
            for _ in range(SUBMITTERS):
                tasks.start_soon(some)

    def action(self, run: str, wishes: Mapping[str, str]) -> bytes:
        template = task_template("container", image="busybox", args=["true"])
        return msgspec.json.encode(
            {
                "apiVersion": TASK_ACTION.api_version,
                "kind": TASK_ACTION.kind,
                "metadata": {"name": f"{run}-a0", "namespace": self.namespace, "annotations": asked(**wishes)},
                "spec": {
                    "runName": run,
                    "project": "p",
                    "domain": "development",
                    "actionName": "a0",
                    "taskType": "container",
                    "taskTemplate": base64.b64encode(template.SerializeToString()).decode(),
                    "inputUri": f"{self.outputs}/{run}/inputs.pb",
                    "runOutputBase": f"{self.outputs}/{run}/",
                },
            }
        )
