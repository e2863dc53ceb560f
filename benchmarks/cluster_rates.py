"""How many tasks in a second, and how late a change is told: propfan, the bare loader, kopf."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from benchmarks.cluster_stage import Stage, calls, usage
from benchmarks.peers.bare_loader import READY
from propfan.engine.cluster import POD, TASK_ACTION
from tests.cluster import environments
from tests.cluster.control_plane import ControlPlane
from tests.cluster.process import Process

ROOT: Final = Path(__file__).parent.parent
KOPF: Final = "kopf==1.45.2"
CONTENDERS: Final = ("propfan", "loader", "kopf")
READY_S: Final = 180.0
SLOWEST_PER_S: Final = 3.0
"""A driver that is slower than this has hung."""


class Told(msgspec.Struct, frozen=True):
    """What propfan writes for one task.

    Attributes:
        pod: With ``@RUN@`` where the run is named, without a namespace.
        running, ended: The two values of the task's status.
        labels: Of the task at its end.
    """

    pod: str
    running: Mapping[str, Any]
    ended: Mapping[str, Any]
    labels: Mapping[str, str]
    pod_bytes: int
    task_bytes: int

    def write(self, file: Path, stage: Stage) -> None:
        """For the contenders, as ``peers/api.py`` reads it."""
        place = {"kubeconfig": str(stage.cluster.kubeconfig), "namespace": stage.namespace}
        file.write_bytes(msgspec.json.encode(msgspec.structs.asdict(self) | place))


def warm_up(stage: Stage) -> Told:
    """Runs one task, which also shows that all works, and keeps what was written for it."""
    return anyio.run(_warm_up, stage)


async def _warm_up(stage: Stage) -> Told:
    replica = stage.replica()
    replica.start()
    try:
        async with stage.watched() as (client, seen):
            replica.await_ready()
            await stage.submit(client, ["recorded"])
            await seen.until(lambda: len(seen.over) == 1, limit_s=READY_S)
            action = await client.get(TASK_ACTION, stage.namespace, "recorded-a0")
            pod = await client.get(POD, stage.namespace, "recorded-a0-0")
    finally:
        replica.stop()
    made, task = msgspec.json.decode(pod.raw), msgspec.json.decode(action.raw)
    spec = {key: value for key, value in made["spec"].items() if key != "nodeName"}
    meta = {key: made["metadata"].get(key, {}) for key in ("labels", "annotations")}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "name": "@RUN@-a0-0"}, "spec": spec}
    return Told(
        msgspec.json.encode(body).decode().replace("recorded", "@RUN@"),
        {**task["status"], "pluginPhase": "PhaseRunning", "conditions": []},
        task["status"],
        task["metadata"]["labels"],
        len(pod.raw),
        len(action.raw),
    )


def burst(contender: str, stage: Stage, told: Told, tasks: int) -> Mapping[str, Any]:
    """All tasks at once, driven by one of the contenders, which is ready before."""
    driver = _driver(contender, stage, told)
    try:
        return anyio.run(_burst, contender, driver, stage, tasks)
    finally:
        driver.kill()


async def _burst(contender: str, driver: Process, stage: Stage, tasks: int) -> Mapping[str, Any]:
    async with stage.watched() as (client, seen):
        before, used = calls(stage.cluster), usage(driver)
        begin = time.monotonic()
        await stage.submit(client, [f"t{number}" for number in range(tasks)])
        submitted_s = time.monotonic() - begin
        await seen.until(lambda: len(seen.over) == tasks, limit_s=READY_S + tasks / SLOWEST_PER_S)
        took_s = max(at for (_, what), at in seen.at.items() if what == "task over") - begin
        cpu_s = usage(driver).cpu_s - used.cpu_s
    made = calls(stage.cluster).since(before)
    return {
        "driver": contender,
        "tasks": tasks,
        "tasks/s": round(tasks / took_s, 1),
        "submitted in s": round(submitted_s, 1),
        "succeeded": sum(seen.over.values()),
        "pods": sum(seen.pods.values()),
        "409": made.conflicts,
        "writes/task": round(made.of_engine / tasks, 2),
        "CPU ms/task": round(1000 * cpu_s / tasks, 2),
        "resident MB": round(usage(driver).resident_bytes / 1e6),
        "calls": made.shown(),
    }


def _driver(contender: str, stage: Stage, told: Told) -> Process:
    """Runs and is ready."""
    if contender == "propfan":
        replica = stage.replica()
        replica.start()
        replica.await_ready()
        return replica.process
    path = stage.folder / "recording.json"
    told.write(path, stage)
    log = stage.folder / f"{contender}.log"
    ready = stage.folder / "ready"
    if contender == "loader":
        command: Sequence[str | Path] = [sys.executable, "-m", "benchmarks.peers.bare_loader", path]
        process = Process(contender, command, log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        process.start()
        process.await_ready(lambda: READY in log.read_text(), timeout_s=READY_S)
        return process
    home = environments.environment("kopf", KOPF)
    program = ROOT / "benchmarks" / "peers" / "kopf_operator.py"
    command = [home / "bin" / "kopf", "run", "--quiet", "-n", stage.namespace, program]
    variables = {
        "KUBECONFIG": str(stage.cluster.kubeconfig),
        "PYTHONPATH": str(ROOT),
        "CLUSTER_RECORDING": str(path),
        "CLUSTER_READY": str(ready),
    }
    process = Process(contender, command, log, env={**os.environ, **variables})
    process.start()
    process.await_ready(ready.exists, timeout_s=READY_S)
    return process


async def latency(stage: Stage, per_s: float, seconds: float) -> Sequence[Mapping[str, Any]]:
    """Tasks that come at a steady rate and run for a second."""
    replica = stage.replica()
    replica.start()
    try:
        async with stage.watched() as (client, seen):
            replica.await_ready()
            runs = [f"t{number}" for number in range(int(per_s * seconds))]
            before = calls(stage.cluster)
            await stage.submit(client, runs, per_s=per_s, run_for="1s")
            await seen.until(lambda: len(seen.over) == len(runs), limit_s=READY_S)
    finally:
        replica.stop()
    writes = calls(stage.cluster).since(before).of_engine / len(runs)
    rows = []
    for pod, task in (("pod Running", "task Running"), ("pod Succeeded", "task ended")):
        late_ms = sorted(1000 * (seen.at[run, task] - seen.at[run, pod]) for run in runs if (run, pod) in seen.at)
        rows.append(
            {
                "tasks/s": per_s,
                "change": f"{pod} to {task}",
                "p50 ms": round(late_ms[len(late_ms) // 2], 1),
                "p99 ms": round(late_ms[int(len(late_ms) * 0.99)], 1),
                "most ms": round(late_ms[-1], 1),
                "samples": len(late_ms),
                "writes/task": round(writes, 2),
            }
        )
    return rows


def versions(cluster: ControlPlane) -> Mapping[str, str]:
    url = next(word.partition("=")[2] for word in cluster.etcd.command if word.startswith("--listen-client-urls="))
    with urllib.request.urlopen(f"{url}/version", timeout=10) as answer:
        etcd = json.load(answer)["etcdserver"]
    return {"kube-apiserver": cluster.api.get("/version")["gitVersion"], "etcd": etcd}
