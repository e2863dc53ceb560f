"""``propfan serve`` on a real API server, beside a bare loader and an operator of kopf that do the same work.

etcd, kube-apiserver, scheduler and controllers are the real ones, on this machine; kwok plays the kubelets (see
docs/testing.md). Calls are counted by the API server itself. All of it shares the processors, so rates are those of
the whole machine: what compares is the ratio of two rates of one run, and the CPU time of the process that drives.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from benchmarks import cluster_lives, cluster_rates
from benchmarks.cluster_stage import Stage
from benchmarks.harness import Report, Table, Target
from propfan.engine.kubernetes.config import KubernetesConfig
from tests.cluster import programs
from tests.cluster.control_plane import ControlPlane

WRITES: Final = 5
OF_LOADER: Final = 1.0
OF_KOPF: Final = 1.1
CPU_MS: Final = 3.0
LATENCY_MS: Final = 100.0
IDLE_OF_CORE: Final = 0.02
RESIDENT_MB: Final = 300.0
RESTART_S: Final = 20.0
FAILOVER_S: Final = 15.0

_SHARED: Final = "everything shares the processors of this machine"


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything.

    Attributes:
        bursts: Tasks that come at once.
        rate: Tasks in a second, and for how long.
        lives: Numbers of tasks that run and run.
        failover: Tasks that two replicas share.
    """

    bursts: tuple[int, ...] = (300, 1_000, 5_000)
    rate: tuple[float, float] = (20.0, 30.0)
    lives: tuple[int, ...] = (1_000, 5_000, 10_000)
    idle_s: float = 20.0
    failover: int = 400


_QUICK: Final = Sizes((60,), (10.0, 6.0), (100, 200), 5.0, 60)


def run(*, quick: bool) -> Report:
    sizes = _QUICK if quick else Sizes()
    for module in programs.CLUSTER_MODULES:
        programs.build(module)
    with tempfile.TemporaryDirectory(prefix="propfan-cluster-") as name:
        folder = Path(name)
        with ControlPlane(folder / "cluster") as cluster:
            return _report(cluster, folder, sizes)


def _report(cluster: ControlPlane, folder: Path, sizes: Sizes) -> Report:
    began = time.monotonic()
    told = cluster_rates.warm_up(Stage(cluster, folder, "first"))
    bursts = [
        cluster_rates.burst(contender, Stage(cluster, folder, f"burst-{contender.lower()}-{tasks}"), told, tasks)
        for tasks in sizes.bursts
        for contender in cluster_rates.CONTENDERS
    ]
    latency = anyio.run(cluster_rates.latency, Stage(cluster, folder, "rate"), *sizes.rate)
    lives, restart = anyio.run(cluster_lives.lives, Stage(cluster, folder, "lives"), sizes.lives, sizes.idle_s)
    failover = anyio.run(cluster_lives.failover, Stage(cluster, folder, "failover"), sizes.failover)
    config = KubernetesConfig()
    versions = cluster_rates.versions(cluster)
    return Report(
        "cluster",
        [
            _table("tasks that come at once, until the last is over", bursts),
            _table("from the event of a pod to that of its task, as a client sees both", latency),
            _table("tasks that run and run", lives),
            _table("a new process for live tasks, after SIGTERM", [restart]),
            _table("two replicas, one is killed amid its tasks", [failover]),
        ],
        [*_of_bursts(bursts), *_of_latency(latency), *_of_lives(lives), *_of_recovery(restart, failover)],
        [
            f"API server {versions['kube-apiserver']}, etcd {versions['etcd']} (without fsync), kwok for kubelets",
            f"objects on the wire: pod {told.pod_bytes} bytes, TaskAction {told.task_bytes} bytes, without managedFields",
            f"limits of propfan: {config.qps:g} calls/s, {config.burst} after a quiet time, {config.max_in_flight} in flight",
            "limits of loader and kopf: 64 calls in flight",
            "limits of the cluster: scheduler 5000 calls/s, controllers 2000 calls/s, kwok 16 stages at once",
            "limits of the API server: its own, 400 reads and 200 writes in flight",
            "calls are those that the API server counted (apiserver_request_total); renewals of Leases are told apart",
            f"took {time.monotonic() - began:.0f} s",
        ],
        {"cluster": versions},
    )


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(title, list(rows[0]), [dict(row) for row in rows])


def _target(name: str, goal: str, measured: str, *, is_met: bool, note: str = _SHARED) -> Target:
    return Target(name, goal, measured, is_met, "" if is_met else note)


def _of_bursts(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    own = [row for row in rows if row["driver"] == "propfan"]
    succeeded = sum(row["succeeded"] for row in own)
    tasks = sum(row["tasks"] for row in own)
    pods = sum(row["pods"] for row in own)
    conflicts = sum(row["409"] for row in own)
    writes = max(row["writes/task"] for row in own)
    cpu_ms = [row["CPU ms/task"] for row in own]
    found = [
        _target("tasks that succeed", "all", f"{succeeded} of {tasks}", is_met=succeeded == tasks, note="see the log"),
        _target("pods of a task", "1", f"{pods} for {tasks}", is_met=pods == tasks, note="see the log"),
        _target("conflicts (409) on tasks and pods", "0", str(conflicts), is_met=conflicts == 0, note="see the log"),
        _target("writes per task", f"<= {WRITES}", f"{writes:g}", is_met=writes <= WRITES, note="see the table"),
        _target(
            "CPU of propfan per task",
            f"<= {CPU_MS:g} ms",
            f"{statistics.median(cpu_ms):.2f} ms ({', '.join(f'{ms:.2f}' for ms in cpu_ms)})",
            is_met=max(cpu_ms) <= CPU_MS,
        ),
    ]
    for goal, other in ((OF_LOADER, "loader"), (OF_KOPF, "kopf")):
        for tasks in dict.fromkeys(row["tasks"] for row in rows):
            rates = {row["driver"]: row["tasks/s"] for row in rows if row["tasks"] == tasks}
            ratio = rates["propfan"] / rates[other]
            found.append(
                _target(
                    f"tasks/s against {'the bare loader' if other == 'loader' else other}, {tasks} tasks",
                    f">= {goal:g}x",
                    f"{ratio:.2f}x ({rates['propfan']:g} / {rates[other]:g})",
                    is_met=ratio >= goal,
                )
            )
    return found


def _of_latency(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    worst = max(row["p99 ms"] for row in rows)
    name = f"p99 from a pod's change to its task's, {rows[0]['tasks/s']:g} tasks/s"
    return [_target(name, f"<= {LATENCY_MS:g} ms", f"{worst:.0f} ms", is_met=worst <= LATENCY_MS)]


def _of_lives(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    writes = sum(row["idle writes"] for row in rows)
    of_core = max(row["idle % of a core"] for row in rows)
    last = rows[-1]
    return [
        _target("writes for tasks that only run", "0", str(writes), is_met=writes == 0, note="see the table"),
        _target(
            "CPU for them", f"< {IDLE_OF_CORE:.0%} of a core", f"{of_core:.2f} %", is_met=of_core < 100 * IDLE_OF_CORE
        ),
        _target(
            f"memory with {last['live tasks']} of them",
            f"< {RESIDENT_MB:g} MB",
            f"{last['resident MB']} MB",
            is_met=last["resident MB"] < RESIDENT_MB,
        ),
    ]


def _of_recovery(restart: Mapping[str, Any], failover: Mapping[str, Any]) -> list[Target]:
    tasks = restart["live tasks"]
    return [
        _target(
            f"a new process drives {tasks} tasks",
            f"< {RESTART_S:g} s",
            f"{restart['all driven s']:.1f} s",
            is_met=restart["all driven s"] < RESTART_S,
        ),
        _target(
            "its needless writes", "0", str(restart["writes"]), is_met=restart["writes"] == 0, note="see the table"
        ),
        _target(
            "tasks of a killed replica are driven by the other",
            f"< {FAILOVER_S:g} s",
            f"{failover['taken over s']:.1f} s",
            is_met=failover["taken over s"] < FAILOVER_S,
        ),
        _target(
            "tasks done twice",
            "0",
            str(failover["done twice"]),
            is_met=failover["done twice"] == 0 and failover["succeeded"] == failover["tasks"],
            note=f"{failover['succeeded']} of {failover['tasks']} succeeded",
        ),
    ]
