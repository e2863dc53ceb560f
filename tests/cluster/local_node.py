"""``propfan node`` beside a real API server."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.process import Process
from tests.cluster.replicas import READY_TIMEOUT_S, until

PROPFAN = (sys.executable, "-c", "from propfan.engine.cli import main; main()")
TOLERATIONS = [{"key": "propfan.dev/process", "operator": "Exists", "effect": "NoSchedule"}]


class LocalNode:
    """One ``propfan node`` that can be started again."""

    def __init__(self, cluster: ControlPlane, name: str, folder: Path, *options: str) -> None:
        self.cluster = cluster
        self.name = name
        self.path = f"/api/v1/nodes/{name}"
        command = [*PROPFAN, "node", "--kubeconfig", str(cluster.kubeconfig), "--name", name, "--data-dir", str(folder)]
        self.process = Process(name, [*command, *options], folder.with_suffix(".log"))

    def start(self) -> None:
        self.process.start(grace_s=30)
        self.process.await_ready(self.is_ready, timeout_s=READY_TIMEOUT_S)

    def is_ready(self) -> bool:
        lines = self.process.log.read_text(encoding="utf-8").splitlines()
        starts = [line for line in lines if "node is ready" in line]
        return len(starts) > self._starts

    _starts = 0

    def end(self, number: signal.Signals) -> int | None:
        """Its exit code after a signal."""
        self._starts += 1
        self.process.signal(number)
        return self.ended()

    def ended(self) -> int | None:
        """Waits for its end; its exit code."""
        until(lambda: not self.process.is_running, "the node has ended")
        code = self.process.exit_code
        self.process.stop()
        return code

    @property
    def object(self) -> Object:
        return self.cluster.api.get(self.path)
