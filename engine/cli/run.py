"""``propfan run``: runs tasks from files on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import rich_click as click

from propfan.engine import config_file as config_files
from propfan.engine import control, submission
from propfan.engine.api import Engine
from propfan.engine.cli import progress
from propfan.engine.cli.app import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    config_option,
    data_dir_option,
    fail,
    output,
    print_json,
    run_async,
)
from propfan.engine.cli.check import unserved
from propfan.engine.cli.follow import Follower, interrupted
from propfan.engine.cli.tables import in_order
from propfan.engine.config import EngineConfig
from propfan.engine.submission import Submission, new_run_name
from propfan.engine.taskfiles import TaskFile, read_tasks
from propfan.pluginmachinery.errors import ConfigError, PropfanError

MAX_COPIES: Final = 100_000


@click.command()
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--inputs",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Inputs of every task: JSON or YAML of name: value, or an inputs.pb.",
)
@click.option("-n", "copies", type=click.IntRange(1, MAX_COPIES), default=1, help="Run each task this many times.")
@click.option(
    "--retries", type=click.IntRange(0, 1000), help="Attempts after the first one, in place of the template's."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long an attempt may run, in place of the template's.",
)
@click.option(
    "--run-name",
    default="",
    metavar="NAME",
    help="Name of the run, 1 to 30 characters; made up when absent. The same again finds the same tasks.",
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set in every container; may be repeated.")
@click.option(
    "--capacity",
    default="",
    metavar="cpu=N,memory=SIZE",
    help="What tasks may request together, also pods=N and others by name; this machine's when absent.",
)
@click.option(
    "--store",
    metavar="URI",
    help="Where outputs go (file://, s3://, gs://, az://); below the data directory when absent.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line per task at its end, then one with the summary.")
@config_option
@data_dir_option
def run(
    *,
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

    A file is Flyte's TaskTemplate: as binary protobuf (.pb), or the same message as JSON or YAML.
    Without a file it goes on with what an earlier run left in the data directory; with one, too.

    Ctrl-C (or SIGTERM) aborts the tasks and waits until they have stopped; a second one kills what
    still runs and leaves at once.

    \b
    Examples:
      propfan run hello.yaml
      propfan run train.pb --inputs inputs.json --retries 2 --timeout 600
      propfan run hello.yaml -n 1000 --capacity cpu=8,memory=16Gi
      propfan run hello.yaml --json | jq .outcome
      propfan run                     goes on with what is unfinished
    """
    try:
        overrides = {"data-dir": str(data_dir), "store": store, "capacity": _capacity(capacity) or None}
        config = config_files.load(config_file, overrides)
        if not files and (inputs or copies > 1 or retries is not None or timeout is not None or run_name or env):
            raise ConfigError(
                "FILES", "name one: --inputs, -n, --retries, --timeout, --run-name and --env are for new tasks"
            )
        variables = _variables(env)
        tasks = [task for path in files for task in read_tasks(path, inputs=inputs, retries=retries, timeout_s=timeout)]
        submissions = _submissions(config, tasks, copies, run_name or new_run_name(), variables)
    except PropfanError as error:
        fail(error)
    run_async(lambda: _run(config, tasks, submissions, as_json=as_json))


def _capacity(text: str) -> dict[str, object]:
    known: dict[str, object] = {}
    others: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, amount = part.partition("=")
        if not name or not amount:
            raise ConfigError("--capacity", f"'{part}' is not NAME=AMOUNT, e.g. cpu=4,memory=8Gi")
        if name in known or name in others:
            raise ConfigError("--capacity", f"'{name}' is given twice")
        if name in ("cpu", "memory"):
            known[name] = amount
        elif name != "pods":
            others[name] = amount
        elif amount.isascii() and amount.isdecimal():
            known[name] = int(amount)
        else:
            raise ConfigError("--capacity", f"pods must be a whole number, is '{amount}'")
    return {**known, **({"resources": others} if others else {})}


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError("--env", f"'{pair}' is not NAME=VALUE")
        variables[name] = value
    return variables


def _submissions(
    config: EngineConfig, tasks: Sequence[TaskFile], copies: int, run_name: str, variables: Mapping[str, str]
) -> Sequence[Submission]:
    """Every copy of every task, refused here if any could never run."""
    made = [
        Submission(
            template=task.template,
            inputs=task.inputs,
            run_name=run_name,
            action_name=f"a{number}",
            env_vars=variables,
        )
        for number, task in enumerate(task for _ in range(copies) for task in tasks)
    ]
    for one in made[: len(tasks)]:
        submission.to_task_action(one, namespace=config.namespace, store="")
    return made


async def _run(
    config: EngineConfig, tasks: Sequence[TaskFile], submissions: Sequence[Submission], *, as_json: bool
) -> int:
    console = output(to_stderr=as_json)
    began = time.monotonic()
    data_dir = control.data_dir_of(config)
    async with interrupted() as interrupts, Engine(config) as engine, control.serve(engine, data_dir):
        if refused := unserved(tasks, engine.registry, config):
            raise refused[0]
        found = [status.key for status in await engine.list() if status.outcome is None]
        if found:
            click.echo(
                f"going on with {len(found)} unfinished task{'s' if len(found) > 1 else ''} of {data_dir}", err=True
            )
        follower = Follower(engine, console, interrupts, as_json=as_json)
        await follower.run(found, submissions)
    if not found and not submissions:
        click.echo(f"nothing to do in {data_dir}: name a task file, see 'propfan run --help'", err=True)
        return 0
    if unfinished := follower.unfinished:
        click.echo(f"left {unfinished} unfinished: 'propfan run' goes on with them{_at(data_dir)}", err=True)
        return EXIT_INTERRUPTED
    statuses = in_order(list(follower.statuses.values()))
    summary = progress.summarise(statuses, time.monotonic() - began)
    if as_json:
        print_json({"summary": summary})
    else:
        progress.show_summary(console, statuses, summary)
    if interrupts.first.is_set():
        return EXIT_INTERRUPTED
    return 0 if summary.succeeded == summary.tasks else EXIT_FAILED


def _at(data_dir: Path) -> str:
    """How another command finds the directory, where it would not by itself."""
    is_default = str(data_dir) == os.environ.get("PROPFAN_DATA_DIR", "propfan-data")
    return "" if is_default else f", with --data-dir {data_dir}"
