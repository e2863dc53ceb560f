"""``propfan up`` as its users meet it: start, runs of the real SDK, enqueued actions, watchers.

The control plane is a process of its own and its clients talk to it over HTTP. Actions of the load are of the type
``core-sleep``: they need no process, so what is left is services, engine and databases.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
import msgspec
from flyteidl2.actions.actions_service_connect import ActionsServiceClient
from flyteidl2.actions.actions_service_pb2 import Action, EnqueueRequest, WatchForUpdatesRequest
from flyteidl2.common import identifier_pb2, phase_pb2
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2
from flyteidl2.task import common_pb2, task_definition_pb2
from flyteidl2.workflow import run_service_pb2
from flyteidl2.workflow.run_service_connect import RunServiceClient

from benchmarks.harness import Report, Table, Target

READY_S: Final = 3.0
ACTION_CPU_MS: Final = 20.0
ENQUEUED_PER_S: Final = 200.0
WATCHERS: Final = 1000

_AT_ONCE: Final = 20
"""Enqueues under way, as many as the SDK's controller has workers."""

_PIPELINE: Final = """
import asyncio, sys, time
import flyte
env = flyte.TaskEnvironment(name="bench", image="python:3.11", resources=flyte.Resources(cpu="900m", memory="128Mi"))
@env.task
async def one(x: int) -> int:
    return x
@env.task
async def main(n: int) -> int:
    return sum(await asyncio.gather(*(one(x) for x in range(n))))
if __name__ == "__main__":
    flyte.init(endpoint=sys.argv[1], insecure=True, project="demo", domain="development")
    began = time.monotonic()
    run = flyte.run(one, 1) if sys.argv[2] == "0" else flyte.run(main, int(sys.argv[2]))
    run.wait(quiet=True)
    print(run.name, time.monotonic() - began, run.phase)
"""


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything. ``fan_out`` 0 leaves the SDK's runs out."""

    starts: int = 5
    actions: int = 2000
    watchers: int = WATCHERS
    fan_out: int = 100


_QUICK: Final = Sizes(1, 200, 100, 0)


def run(*, quick: bool) -> Report:
    sizes = _QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="propfan-bench-") as folder:
        starts = _starts(sizes, Path(folder))
        load = _load(sizes, Path(folder))
        runs = _sdk_runs(sizes, Path(folder)) if sizes.fan_out else None
    tables = [starts[0], load[0], *([runs] if runs is not None else [])]
    return Report("control-plane", tables, [starts[1], *load[1]])


def _starts(sizes: Sizes, folder: Path) -> tuple[Table, Target]:
    taken = []
    for number in range(sizes.starts):
        began = time.monotonic()
        with _up(folder / f"start{number}"):
            taken.append(time.monotonic() - began)
    median = statistics.median(taken)
    row = {"starts": len(taken), "median s": f"{median:.2f}", "least": f"{min(taken):.2f}", "most": f"{max(taken):.2f}"}
    table = Table("from the shell's prompt to the first answer", list(row), [row])
    return table, Target("propfan up is ready", f"{READY_S:g} s", f"{median:.2f} s", median <= READY_S)


def _load(sizes: Sizes, folder: Path) -> tuple[Table, list[Target]]:
    with _up(folder / "load") as (url, pid):
        enqueued_s, ended_s, cpu_s = anyio.run(_enqueue, url, pid, sizes.actions)
        told_s = anyio.run(_watch, url, sizes.watchers)
    per_s, cpu_ms = sizes.actions / enqueued_s, cpu_s / sizes.actions * 1000
    row = {
        "actions": sizes.actions,
        "enqueued /s": f"{per_s:.0f}",
        "ended after s": f"{ended_s:.1f}",
        "CPU ms each": f"{cpu_ms:.2f}",
        "watchers": sizes.watchers,
        "all told after s": f"{told_s:.2f}",
    }
    table = Table("children of one run that need no process, and watchers of another", list(row), [row])
    goal = f"all of {sizes.watchers} in 5 s"
    return table, [
        Target("enqueued actions", f"{ENQUEUED_PER_S:g} /s", f"{per_s:.0f} /s", per_s >= ENQUEUED_PER_S),
        Target("engine and services, an action", f"{ACTION_CPU_MS:g} ms", f"{cpu_ms:.1f} ms", cpu_ms <= ACTION_CPU_MS),
        Target("watchers of one run are told of its end", goal, f"{told_s:.2f} s", told_s <= 5.0),
    ]


def _sdk_runs(sizes: Sizes, folder: Path) -> Table:
    program = folder / "code" / "pipeline.py"
    program.parent.mkdir()
    program.write_text(_PIPELINE, encoding="utf-8")
    rows = []
    with _up(folder / "sdk") as (url, _):
        for what, count in (("one task", 0), (f"{sizes.fan_out} children", sizes.fan_out)):
            home = folder / "home"
            home.mkdir(exist_ok=True)
            done = subprocess.run(
                [sys.executable, str(program), url.partition("://")[2], str(count)],
                cwd=program.parent,
                env={**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
            name, taken_s, phase = done.stdout.split()[-3:]
            own_s = anyio.run(_process_seconds, url, name)
            rows.append(
                {
                    "run": what,
                    "phase": phase.rpartition(".")[2],
                    "s": f"{float(taken_s):.1f}",
                    "s in the SDK's processes, added up": f"{own_s:.1f}",
                    "processes": count + 1,
                    "s a process": f"{own_s / (count + 1):.2f}",
                }
            )
    return Table("runs of the released SDK, by a client of its own", list(rows[0]), rows)


@contextmanager
def _up(folder: Path) -> Iterator[tuple[str, int]]:
    """URL and process of a control plane in a new folder."""
    propfan = Path(sys.executable).parent / "propfan"
    folder.mkdir()
    command = [str(propfan), "up", "--port", "0", "--data-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split()[2].rstrip(","), process.pid
    finally:
        process.terminate()
        process.wait()


def _sleep_task() -> task_definition_pb2.TaskSpec:
    template = tasks_pb2.TaskTemplate(type="core-sleep")
    template.id.project, template.id.domain, template.id.name, template.id.version = "demo", "development", "sleep", "v"
    template.interface.inputs.variables.add(key="duration").value.type.simple = types_pb2.DURATION
    return task_definition_pb2.TaskSpec(task_template=template, short_name="sleep")


def _run_request(name: str, seconds: float) -> run_service_pb2.CreateRunRequest:
    literal = literals_pb2.Literal()
    literal.scalar.primitive.duration.FromTimedelta(timedelta(seconds=seconds))
    inputs = common_pb2.Inputs(literals=[common_pb2.NamedLiteral(name="duration", value=literal)])
    return run_service_pb2.CreateRunRequest(run_id=_run_id(name), task_spec=_sleep_task(), inputs=inputs)


def _run_id(name: str) -> identifier_pb2.RunIdentifier:
    return identifier_pb2.RunIdentifier(org="local", project="demo", domain="development", name=name)


async def _enqueue(url: str, pid: int, count: int) -> tuple[float, float, float]:
    """Seconds to enqueue children, until all have ended, and of the server's CPU in that time."""
    runs, actions = RunServiceClient(url), ActionsServiceClient(url)
    done = await runs.create_run(_run_request("r0", 0))  # its inputs serve all
    await runs.create_run(_run_request("r1", 3600))
    uris = run_service_pb2.GetActionDataURIsRequest(action_id=done.run.action.id)
    inputs_uri = (await runs.get_action_data_u_r_is(uris)).inputs_uri
    parent = identifier_pb2.ActionIdentifier(run=_run_id("r1"), name="a0")
    ended = anyio.Event()

    async def follow() -> None:
        left = count
        async for message in actions.watch_for_updates(WatchForUpdatesRequest(parent_action_id=parent)):
            left -= message.action_update.phase >= phase_pb2.ACTION_PHASE_SUCCEEDED
            if not left:
                break
        ended.set()

    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            action = Action(
                action_id=identifier_pb2.ActionIdentifier(run=_run_id("r1"), name=f"c{number}"),
                parent_action_name="a0",
                input_uri=inputs_uri,
                run_output_base=inputs_uri.rpartition("/a0/")[0],
            )
            action.task.spec.CopyFrom(_sleep_task())
            await actions.enqueue(EnqueueRequest(action=action))

    cpu_s, began = _cpu_s(pid), time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        async with anyio.create_task_group() as workers:
            for _ in range(_AT_ONCE):
                workers.start_soon(work)
        enqueued_s = time.monotonic() - began
        await ended.wait()
        ended_s = time.monotonic() - began
        tasks.cancel_scope.cancel()
    return enqueued_s, ended_s, _cpu_s(pid) - cpu_s


async def _watch(url: str, watchers: int) -> float:
    """Seconds from a run's end until its last watcher knows."""
    runs = RunServiceClient(url)
    await runs.create_run(_run_request("watched", 3600))
    action_id = identifier_pb2.ActionIdentifier(run=_run_id("watched"), name="a0")
    watching, told = 0, 0
    all_watch = anyio.Event()

    async def watch() -> None:
        nonlocal watching, told
        is_first = True
        request = run_service_pb2.WatchActionDetailsRequest(action_id=action_id)
        async for message in RunServiceClient(url).watch_action_details(request):
            if is_first:
                is_first, watching = False, watching + 1
                if watching == watchers:
                    all_watch.set()
            if message.details.status.phase == phase_pb2.ACTION_PHASE_ABORTED:
                told += 1
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(watchers):
            tasks.start_soon(watch)
        await all_watch.wait()
        began = time.monotonic()
        await runs.abort_run(run_service_pb2.AbortRunRequest(run_id=_run_id("watched"), reason="measured"))
    assert told == watchers
    return time.monotonic() - began


async def _process_seconds(url: str, run: str) -> float:
    """How long the processes of a run's actions took, added up."""
    runs = RunServiceClient(url)
    listed = await runs.list_actions(run_service_pb2.ListActionsRequest(run_id=_run_id(run)))
    total = 0.0
    for action in listed.actions:
        request = run_service_pb2.GetActionDetailsRequest(action_id=action.id)
        for attempt in (await runs.get_action_details(request)).details.attempts:
            for step in attempt.phase_transitions:
                if step.phase == phase_pb2.ACTION_PHASE_RUNNING:
                    total += (step.end_time.ToMilliseconds() - step.start_time.ToMilliseconds()) / 1000
    return total


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
