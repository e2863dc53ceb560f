"""``propfan get``, ``logs``, ``explain`` and ``abort``: questions to the tasks of a data directory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import rich_click as click
from rich.table import Table
from rich.text import Text

from propfan.engine import control
from propfan.engine.api import Explanation
from propfan.engine.cli.app import data_dir_option, output, print_json, run_async
from propfan.engine.cli.tables import TaskTable, as_json, in_order, phase_of
from propfan.engine.processes import logs as process_logs
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.pluginmachinery.errors import ConfigError


@click.command()
@click.argument("tasks", nargs=-1)
@click.option("--json", "is_json", is_flag=True, help="One JSON line per task.")
@data_dir_option
def get(*, tasks: Sequence[str], is_json: bool, data_dir: Path) -> None:
    """Lists tasks: all, or those named. The beginning of a name is enough where it is the only one."""

    async def body() -> int:
        async with control.open_tasks(data_dir) as directory:
            found = await directory.list()
        shown = [_find(found, name) for name in tasks] if tasks else in_order(found)
        if is_json:
            for status in shown:
                print_json(as_json(status))
        elif shown:
            output().print(TaskTable(shown))
        else:
            output().print("no tasks yet: 'propfan run FILE' makes some", style="dim")
        return 0

    run_async(body)


@click.command()
@click.argument("task")
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt; the last one when absent.")
@click.option("--container", default="", help="Of this container only.")
@data_dir_option
def logs(*, task: str, attempt: int | None, container: str, data_dir: Path) -> None:
    """Prints what a TASK wrote to standard output and error, also while it runs."""

    async def body() -> int:
        async with control.open_tasks(data_dir) as directory:
            status = _find(await directory.list(), task)
        number = attempt or status.attempts
        if number > status.attempts:
            had = f"{status.attempts} attempt{'s' if status.attempts > 1 else ''}"
            raise ConfigError("--attempt", f"there is no {number}: {status.key.name} has had {had} so far")
        pod = f"{status.key.name}-{number - 1}"
        folder = process_logs.log_path(data_dir / "processes", status.key.namespace, pod, "c", 0).parent.parent
        files = [file for file in sorted(folder.glob("*/*.log")) if not container or file.parent.name == container]
        if not files:
            if container and (others := sorted({file.parent.name for file in folder.glob("*/*.log")})):
                raise ConfigError("--container", f"there is no '{container}'; there are {', '.join(others)}")
            raise ConfigError(
                "TASK", f"{status.key.name}, attempt {number}, has no logs in {folder}: it has not started"
            )
        for file in files:
            if len(files) > 1:
                click.echo(f"==> {file.relative_to(folder)} <==")
            with file.open("rb") as content:
                shutil.copyfileobj(content, sys.stdout.buffer)
        sys.stdout.flush()
        return 0

    run_async(body)


@click.command()
@click.argument("task")
@click.option("--json", "is_json", is_flag=True, help="As one JSON object.")
@click.option("--kubeconfig", metavar="PATH", help="Of a cluster in the place of the data directory.")
@click.option("--context", metavar="NAME", help="Of the kubeconfig; its current one by default.")
@click.option("-n", "--namespace", "namespaces", multiple=True, metavar="NAME", help="Of the cluster; all by default.")
@data_dir_option
def explain(
    *, task: str, is_json: bool, kubeconfig: str | None, context: str | None, namespaces: Sequence[str], data_dir: Path
) -> None:
    """Says why a TASK is where it is: last observation, next wake-up and its reason.

    With --kubeconfig or --context it looks at a cluster: the TaskAction, its objects and pods, and their Events.

    \b
    Examples:
      propfan explain r4xk9
      propfan explain r4xk9 --kubeconfig ~/.kube/config -n flyte
    """

    async def body() -> int:
        if kubeconfig or context:
            explanation = await _explained_by_cluster(task, kubeconfig or "", context or "", namespaces)
        else:
            async with control.open_tasks(data_dir) as directory:
                found = _find(await directory.list(), task)
                explanation = await directory.explain(found.key)
        if is_json:
            print_json({**msgspec.to_builtins(explanation), "status": as_json(explanation.status)})
        else:
            _show(explanation)
        return 0

    run_async(body)


async def _explained_by_cluster(task: str, kubeconfig: str, context: str, namespaces: Sequence[str]) -> Explanation:
    from propfan.engine import assembly
    from propfan.engine.config import EngineConfig
    from propfan.engine.kubernetes import explaining
    from propfan.engine.kubernetes.cluster import KubernetesCluster
    from propfan.engine.kubernetes.config import KubernetesConfig

    kinds = assembly.installed_plugins(EngineConfig()).kinds
    async with KubernetesCluster.connect(KubernetesConfig(kubeconfig=kubeconfig, context=context)) as cluster:
        return await explaining.explain(cluster, await explaining.find(cluster, task, namespaces), kinds)


@click.command()
@click.argument("tasks", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every task that is not over.")
@click.option("--reason", default="", metavar="TEXT", help="Told wherever the task's end is.")
@data_dir_option
def abort(*, tasks: Sequence[str], everything: bool, reason: str, data_dir: Path) -> None:
    """Stops TASKS. Without a running engine they are stopped by the next one.

    \b
    Examples:
      propfan abort r4xk9 --reason 'wrong inputs'
      propfan abort --all
    """

    async def body() -> int:
        if not tasks and not everything:
            raise ConfigError("TASKS", "name at least one, or --all")
        async with control.open_tasks(data_dir) as directory:
            found = await directory.list()
            chosen = [s for s in found if s.outcome is None] if everything else [_find(found, name) for name in tasks]
            for status in chosen:
                if status.outcome is not None:
                    click.echo(f"{status.key.name} is over already: {status.outcome.value}")
                    continue
                await directory.abort(status.key, reason)
                click.echo(
                    f"{status.key.name}: {'aborting' if directory.is_live else 'will be aborted by the next run'}"
                )
        return 0

    run_async(body)


def _find(found: Sequence[TaskStatus], name: str) -> TaskStatus:
    """By name, ``namespace/name``, or the only beginning that fits.

    Raises:
        ConfigError: none or several are meant.
    """
    namespace, _, short = name.rpartition("/")
    named = [s for s in found if not namespace or s.key.namespace == namespace]
    exact = [s for s in named if s.key.name == short]
    matches = exact or [s for s in named if s.key.name.startswith(short)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise ConfigError("TASK", f"there is no task '{name}'; 'propfan get' lists those there are")
    listed = ", ".join(str(TaskKey(*s.key)) for s in matches[:5])
    raise ConfigError("TASK", f"'{name}' could be {len(matches)} tasks: {listed}{' …' if len(matches) > 5 else ''}")


def _show(explanation: Explanation) -> None:
    status = explanation.status
    now = datetime.now(UTC)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("task", f"{TaskKey(*status.key)}  ({status.task_type} {status.task_name})"),
        ("phase", f"{phase_of(status)}, attempt {status.attempts}"),
        ("because", status.reason),
        ("stage", f"{explanation.stage}, to {explanation.goal}" if explanation.goal != "none" else explanation.stage),
        ("waiting for", explanation.waiting_for),
        ("unsaved", "" if explanation.is_durable else "the latest change is not written down yet"),
        ("object", explanation.object),
        ("last observed", _ago(explanation.observed_at, now)),
        (
            "next look",
            f"{_ago(explanation.next_wake, now)}: {explanation.next_wake_reason}" if explanation.next_wake else "",
        ),
        ("system failures", str(status.system_failures) if status.system_failures else ""),
        ("error", f"[{status.error.code}] {status.error.message}" if status.error else ""),
        ("outputs", status.output_prefix),
    ]
    rows += [("earlier", text) for text in explanation.attempt_errors]
    rows += [("seen", text) for text in explanation.details]
    rows += [
        ("history", f"{entry.occurred_at:%H:%M:%S.%f}"[:-3] + f"  {entry.phase}  {entry.message}")
        for entry in status.history
    ]
    for name, text in rows:
        if text:
            table.add_row(name, Text(text.replace("\r\n", "\n").strip()))
    output().print(table)


def _ago(when: datetime | None, now: datetime) -> str:
    if when is None:
        return ""
    seconds = (now - when).total_seconds()
    return f"{seconds:.1f} s ago" if seconds >= 0 else f"in {-seconds:.1f} s"
