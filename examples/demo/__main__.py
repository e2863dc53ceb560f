"""A hundred tasks on this machine, real functions of Flyte's SDK among them, and a picture at the end.

    python -m examples.demo [DATA_DIR]

Twenty functions compute strips of the Mandelbrot set, eighty containers throw darts for pi, one
task fails twice before it succeeds, one fails for good and one runs into its timeout. Exits with 1
when a task ends in another way than it should. It needs ``propfan[flyte]`` and ``awk``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from examples.demo import figure, tasks
from propfan.engine import Engine, EngineConfig, Outcome, Submission, TaskFile, TaskStatus, sdk_tasks
from propfan.engine.submission import new_run_name

STRIPS = 20
THROWS = 80
TIMEOUT_S = 3


class Group(msgspec.Struct, frozen=True):
    """Tasks of one kind, and how each of them should end."""

    title: str
    submissions: Sequence[Submission]
    outcome: Outcome = Outcome.COMPLETED
    attempts: int = 1


async def groups(run_name: str) -> Sequence[Group]:
    def submission(task: TaskFile, action: str) -> Submission:
        return Submission(template=task.template, inputs=task.inputs, run_name=run_name, action_name=action)

    rows = tasks.VIEW.rows // STRIPS
    strips = [await sdk_tasks.task_of(tasks.mandelbrot, tasks.VIEW, n * rows, rows) for n in range(STRIPS)]
    darts = tasks.darts()
    endless = Submission(template=tasks.endless(TIMEOUT_S), run_name=run_name, action_name="endless")
    return [
        Group("Mandelbrot strips", [submission(strip, f"strip{n}") for n, strip in enumerate(strips)]),
        Group(
            "darts for pi",
            [
                Submission(template=darts, inputs=tasks.seed(n), run_name=run_name, action_name=f"darts{n}")
                for n in range(THROWS)
            ],
        ),
        Group("fails twice", [submission(await sdk_tasks.task_of(tasks.flaky, succeeds_at=3), "flaky")], attempts=3),
        Group("fails for good", [submission(await sdk_tasks.task_of(tasks.broken, 7), "broken")], Outcome.FAILED),
        Group("runs too long", [endless], Outcome.TIMED_OUT),
    ]


async def run(
    engine: Engine, run_name: str, groups: Sequence[Group], progress: Progress
) -> Sequence[Sequence[TaskStatus]]:
    """All groups at once; the statuses come in the order of the submissions."""
    bars = {
        task.action_name: bar
        for group in groups
        for bar in [progress.add_task(group.title, total=len(group.submissions))]
        for task in group.submissions
    }
    keys = [[await engine.submit(task) for task in group.submissions] for group in groups]
    async with anyio.create_task_group() as following:
        following.start_soon(_move_bars, engine, run_name, progress, bars)
        statuses = [[await engine.wait(key) for key in group] for group in keys]
        await engine.settled()
        following.cancel_scope.cancel()
    for bar in set(bars.values()):
        progress.update(bar, completed=progress.tasks[bar].total)
    return statuses


async def _move_bars(engine: Engine, run_name: str, progress: Progress, bars: Mapping[str, TaskID]) -> None:
    seen = set()
    async with engine.events() as events:
        async for _, event in events:
            if event.is_final and event.run == run_name and event.action not in seen:
                seen.add(event.action)
                progress.advance(bars[event.action])


async def strips_of(engine: Engine, statuses: Sequence[TaskStatus]) -> Sequence[figure.Row]:
    rows: list[figure.Row] = []
    for status in statuses:
        if status.outcome is Outcome.COMPLETED:
            content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
            rows += await sdk_tasks.read_outputs(tasks.mandelbrot, content)
        else:
            rows += [None] * (tasks.VIEW.rows // STRIPS)
    return rows


async def pi_of(engine: Engine, statuses: Sequence[TaskStatus]) -> float:
    thrown = [status for status in statuses if status.outcome is Outcome.COMPLETED]
    hits = [int(await engine.store.get(f"{status.output_prefix}/{tasks.DARTS_FILE}")) for status in thrown]
    return 4 * sum(hits) / (tasks.DARTS * len(thrown)) if thrown else float("nan")


async def demo(data_dir: Path, console: Console) -> bool:
    """Whether every task ended as it should."""
    began = time.monotonic()
    run_name = new_run_name()
    planned = await groups(run_name)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with Engine(EngineConfig(data_dir=data_dir)) as engine:
        with Progress(*columns, console=console, transient=True) as progress:
            statuses = await run(engine, run_name, planned, progress)
        strips, throws = statuses[:2]
        is_coloured = console.color_system is not None
        console.print(figure.picture(await strips_of(engine, strips), tasks.VIEW.columns, is_coloured=is_coloured))
        console.print(figure.summary([(group.title, found) for group, found in zip(planned, statuses, strict=True)]))
        total = sum(map(len, statuses))
        pi = await pi_of(engine, throws)
        console.print(f"\n{total} tasks in {time.monotonic() - began:.1f} s; the darts say that pi is {pi:.4f}")
    return all(
        (status.outcome, status.attempts) == (group.outcome, group.attempts)
        for group, found in zip(planned, statuses, strict=True)
        for status in found
    )


def main() -> int:
    console = Console()
    if len(sys.argv) > 1:
        return 0 if anyio.run(demo, Path(sys.argv[1]), console) else 1
    with tempfile.TemporaryDirectory(prefix="propfan-demo-") as folder:
        return 0 if anyio.run(demo, Path(folder), console) else 1


if __name__ == "__main__":
    sys.exit(main())
