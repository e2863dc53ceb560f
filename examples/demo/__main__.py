"""A pipeline of Flyte's released SDK on a control plane in one process: live progress, and a picture at the end.

    python -m examples.demo [DATA_DIR]

Starts what ``propfan up`` starts, on a free port, and runs ``pipeline.py`` against it: twelve children compute
strips of the Mandelbrot set, one fails twice before it succeeds, one fails for good and one takes too long. Exits
with 1 when a task ends in another way than it should. It needs ``propfan[flyte]``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import msgspec
from flyteidl2.common import phase_pb2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from examples.demo import figure
from propfan.engine import EngineConfig
from propfan.engine.control_plane import ControlPlane, ControlPlaneConfig, serving
from propfan.engine.control_plane.records import ActionRecord

PIPELINE = Path(__file__).parent / "pipeline.py"

STRIPS = 12
TASKS = {"main": 1, "strip": STRIPS, "flaky": 1, "broken": 1, "endless": 1}
"""How often each function runs."""

EXPECTED: Mapping[str, tuple[int, int]] = {
    "main": (phase_pb2.ACTION_PHASE_SUCCEEDED, 1),
    "strip": (phase_pb2.ACTION_PHASE_SUCCEEDED, 1),
    "flaky": (phase_pb2.ACTION_PHASE_SUCCEEDED, 3),
    "broken": (phase_pb2.ACTION_PHASE_FAILED, 1),
    "endless": (phase_pb2.ACTION_PHASE_TIMED_OUT, 1),
}
"""How each function should end, and after how many attempts."""


class Answer(msgspec.Struct):
    """What the client prints."""

    run: str
    picture: list[list[int]]
    outcomes: list[str]


@asynccontextmanager
async def control_plane(data_dir: Path) -> AsyncIterator[tuple[ControlPlane, str]]:
    """One that is served on a free port, and its URL."""
    listener = serving.Listener(port=0)
    bound = listener.bind()
    url = listener.url(bound)
    config = EngineConfig(data_dir=data_dir, keep_work=True)
    async with ControlPlane(config, ControlPlaneConfig(endpoint=url)) as plane, serving.serving(plane, bound):
        yield plane, url


async def client(url: str, data_dir: Path) -> Answer:
    """Runs the pipeline as its author would: with the SDK, in a process of its own."""
    home = data_dir / "home"
    home.mkdir(parents=True, exist_ok=True)
    done = await anyio.run_process(
        [sys.executable, str(PIPELINE), url.partition("://")[2]],
        cwd=PIPELINE.parent,
        env={**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"},  # the SDK remembers in HOME what it has uploaded
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the pipeline failed: {(done.stderr or done.stdout).decode()}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Answer)


async def follow(plane: ControlPlane, progress: Progress, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    """Moves a bar for each function, as its actions end."""
    bars: dict[str, TaskID] = {name: progress.add_task(name, total=count) for name, count in TASKS.items()}
    task_status.started()
    while not (runs := await plane.runs()):  # noqa: ASYNC110  # the client takes a moment to make one
        await anyio.sleep(0.1)
    view = await plane.ledger.view(runs[0])
    async with aclosing(view.follow()) as changes:  # type: ignore[type-var]
        async for _ in changes:
            ended = Counter(name_of(record) for record in view.actions.values() if record.is_over)
            for name, bar in bars.items():
                progress.update(bar, completed=ended[name])


def name_of(record: ActionRecord) -> str:
    return record.details.metadata.task.short_name


async def demo(data_dir: Path, console: Console) -> bool:
    """Whether every task ended as it should."""
    began_s = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with control_plane(data_dir) as (plane, url):
        console.print(f"control plane at {url} after {time.monotonic() - began_s:.1f} s")
        with Progress(*columns, console=console, transient=True) as progress:
            async with anyio.create_task_group() as tasks:
                await tasks.start(follow, plane, progress)
                answer = await client(url, data_dir)
                tasks.cancel_scope.cancel()
        records = list((await plane.ledger.view(answer.run)).actions.values())
        is_coloured = console.color_system is not None
        console.print(figure.picture(answer.picture, len(answer.picture[0]), is_coloured=is_coloured))
        console.print(figure.summary({name: [r for r in records if name_of(r) == name] for name in TASKS}))
        console.print(f"\nto its parent: {', '.join(answer.outcomes)}")
        console.print(f"{len(records)} actions in {time.monotonic() - began_s:.1f} s")
    found = {(name_of(record), record.phase, record.details.status.attempts) for record in records}
    return len(records) == sum(TASKS.values()) and found == {(name, *how) for name, how in EXPECTED.items()}


def main() -> int:
    console = Console()
    if len(sys.argv) > 1:
        return 0 if anyio.run(demo, Path(sys.argv[1]), console) else 1
    with tempfile.TemporaryDirectory(prefix="propfan-demo-") as folder:
        return 0 if anyio.run(demo, Path(folder), console) else 1


if __name__ == "__main__":
    sys.exit(main())
