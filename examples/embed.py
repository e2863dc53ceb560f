"""A small program with an event loop of its own that runs tasks with an embedded engine.

python -m examples.embed
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from flyteidl2.core import tasks_pb2

from propfan.engine import Engine, EngineConfig, Submission


def shell_task(name: str, script: str, retries: int = 0) -> bytes:
    """A task that runs a shell script, as a control plane would have it from its client."""
    template = tasks_pb2.TaskTemplate(type="raw-container")
    template.id.name = name
    template.container.image = "busybox"
    template.container.command.extend(["/bin/sh", "-c", script])
    resources = template.container.resources
    resources.requests.add(name=tasks_pb2.Resources.CPU, value="100m")
    resources.requests.add(name=tasks_pb2.Resources.MEMORY, value="32Mi")
    template.metadata.retries.retries = retries
    return template.SerializeToString()


async def follow(engine: Engine) -> None:
    """What a control plane would store or show."""
    async with engine.events() as events:
        async for _, event in events:
            print(f"{event.name}  attempt {event.attempt}  {event.phase.name}  {event.reason}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as data_dir:
        async with Engine(EngineConfig(data_dir=Path(data_dir))) as engine, asyncio.TaskGroup() as group:
            following = group.create_task(follow(engine))
            good = await engine.submit(Submission(template=shell_task("hello", "echo hello")))
            bad = await engine.submit(Submission(template=shell_task("flaky", "exit 3", retries=1)))
            for key in (good, bad):
                status = await engine.wait(key)
                why = f": {status.error.message.strip()}" if status.error else ""
                print(
                    f"{status.task_name}: {status.outcome.value if status.outcome else ''} after {status.attempts} attempts{why}"
                )
            following.cancel()


if __name__ == "__main__":
    asyncio.run(main())
