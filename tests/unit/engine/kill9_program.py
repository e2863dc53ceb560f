"""``python kill9_program.py DATA_DIR MARKS COUNT``: runs that many tasks as processes, and says so when all are over.

Run again after its death it submits the same tasks, and so goes on with them. Each container leaves
a line with its attempt in a file of its own; every fifth fails at its first attempt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from flyteidl2.core import tasks_pb2

from propfan.engine import Engine, EngineConfig, Submission
from propfan.engine.processes import Capacity

_SCRIPT = """
echo "$FLYTE_ATTEMPT_NUMBER" >> {mark}
sleep 0.{pause}
test {index} != 0 || test "$FLYTE_ATTEMPT_NUMBER" != 0
"""


def template(index: int, marks: Path) -> bytes:
    made = tasks_pb2.TaskTemplate(type="raw-container")
    made.id.project, made.id.domain, made.id.name, made.id.version = "p", "d", "mark", "1"
    made.metadata.retries.retries = 2
    script = _SCRIPT.format(mark=marks / str(index), pause=index % 7, index=index % 5)
    made.container.image = "none"
    made.container.command[:] = ["/bin/sh", "-c", script]
    return made.SerializeToString(deterministic=True)


async def main(data_dir: Path, marks: Path, count: int) -> None:
    config = EngineConfig(data_dir=data_dir, capacity=Capacity(cpu="32"))
    async with Engine(config) as engine:
        keys = [
            await engine.submit(Submission(template=template(index, marks), run_name=f"r{index}"))
            for index in range(count)
        ]
        print("submitted", flush=True)
        for key in keys:
            status = await engine.wait(key)
            print(key.name, status.outcome.value if status.outcome else "none", status.attempts, flush=True)
    print("over", flush=True)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
