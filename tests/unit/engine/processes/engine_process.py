"""An engine that a test kills: a cluster in a file, a process runtime on it, and the pods it is given.

``python -m tests.unit.engine.processes.engine_process <folder>`` reads pods as JSON, one per line,
from standard input, creates them and runs until it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from propfan.engine.cluster import POD
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.processes import ProcessRuntime
from tests.unit.engine.processes.machine import AMPLE


async def main(folder: Path, bodies: list[str]) -> None:
    async with (
        EmbeddedCluster.open(folder / "cluster.db") as cluster,
        ProcessRuntime(cluster, data_dir=folder / "processes", capacity=AMPLE),
    ):
        for body in bodies:
            await cluster.create(POD, body.encode())
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.stdin.read().splitlines())
