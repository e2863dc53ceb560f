"""Replicas under a stream of tasks while they and the API server are killed, stopped and restarted.

``python -m tests.cluster.soak --minutes 10 --seed 1``: a cluster of its own, three replicas, and every few seconds a
mishap. At the end every task must have ended right, with one pod per attempt, told once, and nothing may be left over.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster import programs
from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import Control, Replica, Tasks, until
from tests.unit.engine.flyte.services import served

REPLICAS: Final = ("a", "b", "c")
LEASE_S: Final = 5.0
SHARDS: Final = 16
END_TIMEOUT_S: Final = 180.0


class Soak:
    """``expected`` is the verdict, and the number of pods, that each run must come to."""

    def __init__(self, cluster: ControlPlane, events: Control, url: str, folder: Path, seed: int) -> None:
        self.cluster = cluster
        self.events = events
        self.dice = random.Random(seed)
        self.namespace = cluster.create_namespace("soak")
        settings = {
            "namespaces": [self.namespace],
            "flyte": {"events-url": url},
            "sharding": {"namespace": self.namespace, "lease-duration-s": LEASE_S},
        }
        self.replicas = [Replica(name, folder, cluster.kubeconfig, settings) for name in REPLICAS]
        self.tasks = Tasks(cluster.api, self.namespace, f"file://{folder}/outputs")
        self.expected: dict[str, tuple[str, int]] = {}
        self.mishaps: Counter[str] = Counter()

    def run(self, minutes: float) -> Sequence[str]:
        """What went wrong."""
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.await_ready()
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            for _ in range(self.dice.randint(5, 20)):
                self.submit()
            name, mishap = self.dice.choice(
                [("kill", self.kill), ("kill", self.kill), ("hang", self.hang), ("leave", self.leave),
                 ("API server", self.restart_api_server), ("expire", self.cluster.expire_watches), ("sink", self.sink)]
            )  # fmt: skip
            self.mishaps[name] += 1
            print(f"{ends - time.monotonic():6.0f} s left, {len(self.expected)} tasks, now: {name}", flush=True)
            mishap()
            time.sleep(self.dice.uniform(0, 5))
        return self.judge()

    def submit(self) -> None:
        run = f"s{len(self.expected)}"
        kinds: list[tuple[dict[str, str], int, str, int]] = [
            ({"run_for": f"{self.dice.uniform(0, 10):.1f}s"}, 0, "Completed", 1),
            ({"run_for": f"{self.dice.uniform(0, 10):.1f}s"}, 0, "Completed", 1),
            ({"outcome": "failed"}, 1, "PermanentFailure", 2),
            ({"outcome": "oom-killed"}, 0, "PermanentFailure", 1),
        ]
        wishes, retries, verdict, pods = self.dice.choice(kinds)
        self.tasks.submit(run, wishes, retries=retries)
        self.expected[run] = (verdict, pods)

    # -- Mishaps -----------------------------------------------------------------------------------

    def kill(self) -> None:
        replica = self.dice.choice(self.replicas)
        replica.kill()
        time.sleep(self.dice.uniform(0, 2 * LEASE_S))
        replica.start()

    def hang(self) -> None:
        replica = self.dice.choice(self.replicas)
        if replica.process.is_running:
            replica.hang()
            time.sleep(self.dice.uniform(0, 3 * LEASE_S))
            replica.go_on()

    def leave(self) -> None:
        replica = self.dice.choice(self.replicas)
        replica.stop()
        replica.start()

    def restart_api_server(self) -> None:
        with self.cluster.without_api_server():
            time.sleep(self.dice.uniform(0, LEASE_S))

    def sink(self) -> None:
        with self.events.down():
            time.sleep(self.dice.uniform(0, 10))

    # -- What must hold ----------------------------------------------------------------------------

    def judge(self) -> Sequence[str]:
        problems: list[str] = []
        verdicts = self.tasks.await_all_over(list(self.expected), timeout_s=END_TIMEOUT_S)
        for run, (verdict, pods) in self.expected.items():
            if verdicts[run] != verdict:
                problems.append(f"{run}: {verdicts[run]}, not {verdict}")
            told = self.events.verdicts(run)
            if told != ["SUCCEEDED" if verdict == "Completed" else "FAILED"]:
                problems.append(f"{run}: told as {told}")
            attempts = self.tasks.get(run)["status"]["attempts"]
            if attempts != pods:
                problems.append(f"{run}: {attempts} attempts, not {pods}")
        until(lambda: sum(r.metric("propfan_shards_owned") for r in self.replicas) == SHARDS, "all shards are owned")
        until(lambda: sum(r.metric("propfan_tasks") for r in self.replicas) == 0, "no task is live")
        left = [pod for pod in self.tasks.pods() if pod.rpartition("-a0-")[0] not in self.expected]
        problems += [f"pod {pod} is nobody's" for pod in left]
        problems += [
            f"{replica.process.name} logged a traceback" for replica in self.replicas if "Traceback" in replica.log
        ]
        return problems

    def stop(self) -> None:
        for replica in self.replicas:
            replica.kill()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for module in programs.CLUSTER_MODULES:
        programs.build(module)
    folder = Path(tempfile.mkdtemp(prefix="propfan-soak-"))
    events = Control()
    with ControlPlane(folder / "cluster") as cluster, served(events.app) as url:
        soak = Soak(cluster, events, url, folder, options.seed)
        try:
            problems = soak.run(options.minutes)
        finally:
            soak.stop()
    print(f"{len(soak.expected)} tasks, mishaps: {dict(soak.mishaps)}, logs in {folder}")
    print("\n".join(problems) or "all well")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
