"""``python -m tests.cluster.soak --minutes N``: tasks and faults for as long as one likes.

Tasks of every kind of end come at a steady rate and are driven by two replicas on a real API server. Every few
seconds something breaks: a replica, the API server, its watches, the nodes, pods, tasks that people delete. At the end
every task must have been told one verdict, and the right one; no object may be left; and the replica that was never
restarted must not have grown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from flyteidl2.common import phase_pb2

from tests.cluster import programs
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import FINAL, Control, Replica, Tasks, until
from tests.unit.engine.flyte.services import served

SAMPLE_S: Final = 5.0
SETTLE_S: Final = 240.0
GROWTH: Final = 1.25
"""How much larger the steady replica may be in the last quarter than in the second one."""
DELETED_SHARE: Final = 0.05
MOST_LEASES: Final = 16 + 4
"""One for each shard and each member, and some of members that died a moment ago."""

ENDS: Final[Mapping[str, tuple[Mapping[str, str], str]]] = {
    "ok": ({"outcome": "succeeded", "run_for": "2s"}, "SUCCEEDED"),
    "slow": ({"outcome": "succeeded", "run_for": "20s"}, "SUCCEEDED"),
    "exits": ({"outcome": "failed", "exit_code": "3"}, "FAILED"),
    "oom": ({"outcome": "oom-killed", "run_for": "1s"}, "FAILED"),
    "image": ({"outcome": "image-pull-error"}, "FAILED"),
}
"""Wishes for a task's pods, and its verdict. Pods that vanish cost a retry, so none of these lacks any."""

Result = TypeVar("Result")


class Sample(msgspec.Struct, frozen=True):
    """What was there at a moment; bytes of the replica that is never restarted."""

    at_s: float
    resident_bytes: int
    live: int
    actions: int
    pods: int


class Soak:
    def __init__(self, cluster: ControlPlane, folder: Path, events_url: str, *, per_s: float, seed: int) -> None:
        self.cluster = cluster
        self.namespace = cluster.create_namespace("soak")
        settings = {
            "namespaces": [self.namespace],
            "flyte": {"events-url": events_url},
            "sharding": {"namespace": self.namespace, "lease-duration-s": 5.0},
            "plugins": {"k8s": {"image-pull-backoff-grace-period": "2s"}},
            "max-system-failures": 50,
            "gc-interval-s": 10.0,
            "gc-ttl-s": 0.0,
        }
        quiet = {"serving": {"log-level": "warning"}}
        self.steady = Replica("steady", folder, cluster.kubeconfig, {**settings, **quiet})
        self.victim = Replica("victim", folder, cluster.kubeconfig, {**settings, **quiet})
        self.tasks = Tasks(cluster.api, self.namespace, f"file://{folder}/outputs")
        self.random = random.Random(seed)
        self.per_s = per_s
        self.submitted: dict[str, str] = {}
        """Runs, and the verdicts that they shall have."""
        self.deleted: set[str] = set()
        self.faults: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.began = time.monotonic()

    def run(self, seconds: float) -> None:
        for replica in (self.steady, self.victim):
            replica.start()
        for replica in (self.steady, self.victim):
            replica.await_ready()
        self.began = time.monotonic()
        next_fault = next_sample = self.began + SAMPLE_S
        faults: Sequence[Callable[[], None]] = (
            self.kill_replica,
            self.hang_replica,
            self.break_api_server,
            self.expire_watches,
            self.stop_nodes,
            self.delete_pods,
        )
        while (now := time.monotonic()) < self.began + seconds:
            self.submit(len(self.submitted))
            if now >= next_sample:
                self.sample()
                next_sample = now + SAMPLE_S
            if now >= next_fault:
                self.random.choice(faults)()
                next_fault = time.monotonic() + self.random.uniform(5, 15)
            time.sleep(max(0.0, 1 / self.per_s - (time.monotonic() - now)))

    def submit(self, number: int) -> None:
        kind = self.random.choice([*ENDS])
        wishes, verdict = ENDS[kind]
        run = f"{kind}{number}"
        self.submitted[run] = verdict
        self._persist(lambda: self.tasks.submit(run, wishes))
        if self.random.random() < DELETED_SHARE:
            self.deleted.add(run)
            self._persist(lambda: self.tasks.delete(run))

    def _persist(self, call: Callable[[], Result]) -> Result | None:
        """Through outages; ``None`` when what shall be made is there, made by a call without an answer."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                return call()
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    return None
                if time.monotonic() > deadline:
                    raise
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    # -- Faults ------------------------------------------------------------------------------------

    def kill_replica(self) -> None:
        self.faults["replica killed"] += 1
        self.victim.kill()
        self.victim.start()

    def hang_replica(self) -> None:
        self.faults["replica hangs"] += 1
        if self.victim.process.is_running:
            self.victim.hang()
            time.sleep(7.0)
            self.victim.go_on()

    def break_api_server(self) -> None:
        self.faults["API server killed"] += 1
        with self.cluster.without_api_server():
            time.sleep(1.0)

    def expire_watches(self) -> None:
        self.faults["watches expired"] += 1
        self._persist(self.cluster.expire_watches)

    def stop_nodes(self) -> None:
        self.faults["nodes hang"] += 1
        kwok = self.cluster.processes["kwok"]
        kwok.signal(signal.SIGSTOP)
        time.sleep(3.0)
        kwok.signal(signal.SIGCONT)

    def delete_pods(self) -> None:
        self.faults["pods deleted"] += 1
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        pods = self._persist(self.tasks.pods) or []
        for pod in self.random.sample(pods, min(5, len(pods))):
            self._persist(lambda pod=pod: self.cluster.api.delete(f"{path}/{pod}"))  # type: ignore[misc]

    # -- What is seen ------------------------------------------------------------------------------

    def sample(self) -> None:
        actions, pods = self._persist(self.objects) or (0, 0)
        resident = int(Path(f"/proc/{self.steady.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
        live = int(self.steady.metric("propfan_tasks"))
        self.samples.append(Sample(time.monotonic() - self.began, resident, live, actions, pods))

    def objects(self) -> tuple[int, int]:
        """TaskActions and pods that are there."""
        actions = f"/apis/flyte.org/v1/namespaces/{self.namespace}/taskactions"
        return len(self.cluster.api.list(actions)), len(self.tasks.pods())

    def problems(self, events: Control) -> list[str]:
        """What is not as it must be, once everything has had its time to end."""
        found = []
        try:
            until(lambda: self._persist(self.objects) == (0, 0), "no task and no pod is left", timeout_s=SETTLE_S)
        except TimeoutError:
            found.append(f"(TaskActions, pods) left: {self.objects()}")
        verdicts: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for event in events.events:
            name = phase_pb2.ActionPhase.Name(event.phase).removeprefix("ACTION_PHASE_")
            if name in FINAL:
                verdicts[event.id.run.name].add((event.attempt, name))
        for run, wanted in self.submitted.items():
            told = sorted(name for _, name in verdicts[run])
            is_right = told == [wanted] or (run in self.deleted and told in ([], ["ABORTED"]))
            if not is_right:
                found.append(f"{run}: told {told}, not {wanted}")
        if not self.steady.process.is_running:
            found.append("the steady replica has ended")
        quarter = len(self.samples) // 4
        if quarter:
            early = max(sample.resident_bytes for sample in self.samples[quarter : 2 * quarter])
            late = max(sample.resident_bytes for sample in self.samples[-quarter:])
            if late > GROWTH * early:
                found.append(f"the steady replica grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
        leases = self.cluster.api.list(f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases")
        if len(leases) > MOST_LEASES:
            found.append(f"{len(leases)} Leases: those of members that are dead were left")
        found += [f"{log}: Traceback" for log in ("steady", "victim") if "Traceback" in getattr(self, log).log]
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description="Tasks amid faults.")
    parser.add_argument("--minutes", type=float, default=5.0, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=5.0, help="tasks per second; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    for module in programs.CLUSTER_MODULES:
        programs.build(module)
    events = Control()
    with tempfile.TemporaryDirectory(prefix="propfan-soak-") as name, served(events.app) as url:
        folder = Path(name)
        with ControlPlane(folder / "cluster") as cluster:
            soak = Soak(cluster, folder, url, per_s=options.rate, seed=options.seed)
            try:
                soak.run(60 * options.minutes)
                problems = soak.problems(events)
            finally:
                soak.steady.stop()
                soak.victim.stop()
    if options.json:
        options.json.write_bytes(msgspec.json.encode(soak.samples))
    sizes = [sample.resident_bytes / 1e6 for sample in soak.samples]
    figures = {
        "minutes": options.minutes,
        "tasks": len(soak.submitted),
        "deleted": len(soak.deleted),
        "faults": dict(soak.faults),
        "resident MB": {"first": round(sizes[0]), "most": round(max(sizes)), "last": round(sizes[-1])} if sizes else {},
        "most TaskActions": max((sample.actions for sample in soak.samples), default=0),
        "most pods": max((sample.pods for sample in soak.samples), default=0),
        "problems": len(problems),
    }
    print(json.dumps(figures, indent=2))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
