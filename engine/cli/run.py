"""``propfan run``: runs tasks from files on this machine."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import anyio
import msgspec
import rich_click as click
from rich.console import Console
from rich.live import Live

from propfan.engine import config_file as config_files
from propfan.engine import control
from propfan.engine.api import Engine
from propfan.engine.cli import progress
from propfan.engine.cli.app import EXIT_FAILED, EXIT_INTERRUPTED, config_option, data_dir_option, fail, output, run_async
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import Submission, TaskStatus, new_run_name
from propfan.engine.taskfiles import TaskFile, read_tasks
from propfan.pluginmachinery.errors import ConfigError, PropfanError

MAX_COPIES: Final = 100_000

_SUBMITTED_AT_ONCE: Final = 256


@click.command()
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--inputs", type=click.Path(dir_okay=False, path_type=Path), help="Inputs: JSON or YAML of name: value, or an inputs.pb.")
@click.option("-n", "copies", type=click.IntRange(1, MAX_COPIES), default=1, help="Run each task this many times.")
@click.option("--retries", type=click.IntRange(0, 1000), help="In place of the template's.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds an attempt may run, in place of the template's.")
@click.option("--run-name", default="", help="Name of the run, 1 to 30 characters; made up when absent.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set in every container; may be repeated.")
@click.option("--capacity", default="", metavar="cpu=N,memory=SIZE", help="What tasks may request together; this machine's when absent.")
@click.option("--store", help="Where outputs go (file://, s3://, gs://, az:// URI); below the data directory when absent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per task at its end and one for the whole, nothing else.")
@config_option
@data_dir_option
def run(
    files: Sequence[Path],
    inputs: Path | None,
    copies: int,
    retries: int | None,
    timeout: float | None,
    run_name: str,
    env: Sequence[str],
    capacity: str,
    store: str | None,
    as_json: bool,
    config_file: Path | None,
    data_dir: Path,
) -> None:
    """Runs tasks from FILES, and shows them until all have ended.

    A file is a `TaskTemplate`: as binary protobuf, or the same message as JSON or YAML.
    Without a file it goes on with what an earlier run left in the data directory.

    Ctrl-C aborts the tasks and waits until they have stopped; a second one leaves at once.
    """

    try:
        overrides = {"data-dir": str(data_dir), "store": store, "capacity": _capacity(capacity) or None}
        config = config_files.load(config_file, overrides)
        variables = _variables(env)
        tasks = [
            task for path in files for task in read_tasks(path, inputs=inputs, retries=retries, timeout_s=timeout)
        ]
    except PropfanError as error:
        fail(error)
    run_async(lambda: _run(config, tasks, copies=copies, run_name=run_name, variables=variables, as_json=as_json))


def _capacity(text: str) -> dict[str, object]:
    known: dict[str, object] = {}
    others: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, separator, amount = part.partition("=")
        if not separator or not amount:
            raise ConfigError("--capacity", f"'{part}' is not NAME=AMOUNT, e.g. cpu=4,memory=8Gi")
        if name in ("cpu", "memory"):
            known[name] = amount
        elif name == "pods":
            known[name] = int(amount) if amount.isdigit() else amount
        else:
            others[name] = amount
    return {**known, **({"resources": others} if others else {})}


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError("--env", f"'{pair}' is not NAME=VALUE")
        variables[name] = value
    return variables


async def _run(
    config: EngineConfig,
    tasks: Sequence[TaskFile],
    *,
    copies: int,
    run_name: str,
    variables: Mapping[str, str],
    as_json: bool,
) -> int:
    console = output(to_stderr=as_json)
    began = time.monotonic()
    interrupts = _Interrupts()
    async with anyio.create_task_group() as group:
        group.start_soon(interrupts.listen, group.cancel_scope)
        async with Engine(config) as engine, control.serve(engine, control.data_dir_of(config)):
            keys = [status.key for status in await engine.list() if status.outcome is None]
            if keys:
                console.print(f"going on with {len(keys)} tasks of an earlier run", style="dim")
            run = run_name or new_run_name()
            submissions = [
                Submission(
                    template=task.template,
                    inputs=task.inputs,
                    run_name=run,
                    action_name=f"a{number}",
                    env_vars=variables,
                )
                for number, task in enumerate(task for _ in range(copies) for task in tasks)
            ]
            keys += await _submit(engine, submissions)
            statuses = await _follow(engine, keys, console, interrupts, as_json=as_json)
        group.cancel_scope.cancel()
    if not keys:
        console.print("nothing to do: name a task file (see propfan run --help)", style="yellow")
        return 0
    if len(statuses) < len(keys):  # the second Ctrl-C
        console.print("left at once; 'propfan run' goes on with what is unfinished", style="yellow")
        return EXIT_INTERRUPTED
    summary = progress.summarise(statuses, time.monotonic() - began)
    if as_json:
        _print_json({"summary": summary})
    else:
        progress.show_summary(console, statuses, summary)
    if interrupts.count:
        return EXIT_INTERRUPTED
    return 0 if summary.succeeded == summary.tasks else EXIT_FAILED


async def _submit(engine: Engine, submissions: Sequence[Submission]) -> Sequence[TaskKey]:
    """Many at a time, because they share the cost of becoming durable."""
    keys: list[TaskKey] = []

    async def submit(one: Submission) -> None:
        keys.append(await engine.submit(one))

    for start in range(0, len(submissions), _SUBMITTED_AT_ONCE):
        async with anyio.create_task_group() as group:
            for one in submissions[start : start + _SUBMITTED_AT_ONCE]:
                group.start_soon(submit, one)
    return keys


async def _follow(
    engine: Engine, keys: Sequence[TaskKey], console: Console, interrupts: _Interrupts, *, as_json: bool
) -> Sequence[TaskStatus]:
    """Shows the tasks until all have ended and what they owned is gone."""
    board = progress.Board([key.name for key in keys])
    statuses: list[TaskStatus] = []

    async def abort_on_interrupt() -> None:
        await interrupts.first.wait()
        board.notice = "aborting; Ctrl-C again to leave at once"
        for key in keys:
            await engine.abort(key, "interrupted")

    async def watch() -> None:
        async with engine.events() as events:
            async for _, event in events:
                board.take(event)

    is_shown = console.is_terminal and not as_json
    live: AbstractContextManager[object] = Live(board, console=console, refresh_per_second=8) if is_shown else nullcontext()
    with live:
        async with anyio.create_task_group() as group:
            group.start_soon(abort_on_interrupt)
            group.start_soon(watch)
            for key in keys:
                statuses.append(await engine.wait(key))
                if as_json:
                    _print_json(statuses[-1])
            await engine.settled()
            group.cancel_scope.cancel()
    return statuses


class _Interrupts:
    """The first Ctrl-C (or SIGTERM) asks, the second one does not."""

    def __init__(self) -> None:
        self.count = 0
        self.first = anyio.Event()

    async def listen(self, everything: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.count += 1
                self.first.set()
                if self.count > 1:
                    everything.cancel()


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()
