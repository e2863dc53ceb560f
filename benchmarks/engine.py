"""Tasks through the whole engine: how many in a second, what live ones cost, recovery, latency.

Every figure comes from a process of its own (``engine_scenarios``). CPU time is that of the whole process:
engine, embedded cluster with its file, and the kubelet that plays the pods, whose own share is measured
alone and told. A *core-second* is a second of CPU time, so tasks per core-second are what one core does that
is left alone.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness import Report, Table, Target

_ROOT: Final = Path(__file__).parent.parent

TASKS_PER_S: Final = 2000.0
RESIDENT_BYTES: Final = 12 * 1024
FLAT: Final = 1.3
IDLE_OF_CORE: Final = 0.005
_IDLE: Final = 10_000
RECOVERY_S: Final = 5.0


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything.

    Attributes:
        crowds: Numbers of live tasks; the first and the last are compared.
        rates: Submitted tasks in a second, and how many in all.
    """

    burst: int = 10_000
    repeats: int = 3
    crowds: tuple[int, ...] = (1_000, 10_000, 50_000)
    churn: int = 3_000
    idle_s: float = 10.0
    in_flight: int = 10_000
    rates: tuple[tuple[float, int], ...] = ((20.0, 200), (500.0, 5_000))


_QUICK: Final = Sizes(400, 1, (100, 1_000), 200, 0.5, 500, ((50.0, 40), (500.0, 400)))


def run(*, quick: bool) -> Report:
    sizes = _QUICK if quick else Sizes()
    burst, tasks_per_s = _burst(sizes)
    crowds, of_crowds = _crowds(sizes)
    recovery, recovered = _recovery(sizes)
    return Report(
        "engine",
        [burst, crowds, recovery, _latency(sizes)],
        [tasks_per_s, *of_crowds, recovered],
        [
            "durable: objects and events are in SQLite (WAL, synchronous=NORMAL) before anybody sees them",
            "the kubelet writes three states of each pod; its share is that of the same pods without an engine",
        ],
    )


def _burst(sizes: Sizes) -> tuple[Table, Target]:
    repeats = sizes.repeats
    memory = [_burst_once(sizes, has_files=False) for _ in range(repeats)]
    files = [_burst_once(sizes, has_files=True)]
    kubelet_us = min(_in_new_folder("kubelet", tasks=sizes.burst)["cpu_s"] for _ in range(repeats)) / sizes.burst * 1e6
    rows: list[dict[str, str | int]] = []
    for store, figures in (("memory", memory), ("files", files)):
        cpu_us = sorted(f["cpu_s"] / sizes.burst * 1e6 for f in figures)
        rows.append(
            {
                "outputs in": store,
                "tasks": sizes.burst,
                "tasks/s (wall)": round(statistics.median(sizes.burst / f["wall_s"] for f in figures)),
                "CPU us/task": round(statistics.median(cpu_us)),
                "least": round(cpu_us[0]),
                "most": round(cpu_us[-1]),
                "kubelet's": round(kubelet_us),
                "engine's": round(statistics.median(cpu_us) - kubelet_us),
                "tasks/core-second": round(1e6 / (statistics.median(cpu_us) - kubelet_us)),
            }
        )
    engine_us = sorted(f["cpu_s"] / sizes.burst * 1e6 - kubelet_us for f in memory)
    reached = 1e6 / statistics.median(engine_us)
    return Table("a burst, from submit to settled", list(rows[0]), rows), Target(
        "tasks through one core, durably, without the kubelet",
        f">= {TASKS_PER_S:.0f}/core-second",
        f"{reached:.0f} (best of {repeats}: {1e6 / engine_us[0]:.0f})",
        reached >= TASKS_PER_S,
        ""
        if reached >= TASKS_PER_S
        else "bounded by Python: some 1200 calls a task, no part of which is above a tenth",
    )


def _burst_once(sizes: Sizes, *, has_files: bool) -> Mapping[str, float]:
    return _in_new_folder("burst", tasks=sizes.burst, has_files=has_files)


def _crowds(sizes: Sizes) -> tuple[Table, Sequence[Target]]:
    rows: list[dict[str, float]] = []
    for live in sizes.crowds:
        figures = _in_new_folder("crowd", live=live, tasks=sizes.churn, idle_s=sizes.idle_s)
        rows.append(
            {
                "live tasks": live,
                "resident bytes each": round(figures["resident_bytes"]),
                "idle, % of a core": round(100 * figures["idle_cpu_s"] / figures["idle_s"], 3),
                "CPU us/task beside them": round(figures["cpu_s"] / sizes.churn * 1e6),
            }
        )
    first, before, last = rows[0], rows[-2], rows[-1]
    ratio = last["CPU us/task beside them"] / first["CPU us/task beside them"]
    used = last["idle, % of a core"] * _IDLE / last["live tasks"]
    totals = [row["live tasks"] * row["resident bytes each"] for row in (before, last)]
    size = (totals[1] - totals[0]) / (last["live tasks"] - before["live tasks"])
    return Table("live tasks that run and run", list(rows[0]), rows), [
        Target(
            f"cost of a task beside {last['live tasks']} live ones, against {first['live tasks']}",
            f"<= {FLAT:g}x",
            f"{ratio:.2f}x",
            ratio <= FLAT,
        ),
        Target(
            f"memory of each live task beyond {before['live tasks']}",
            f"< {RESIDENT_BYTES} bytes",
            f"{size:.0f} bytes, with its objects in the cluster",
            size < RESIDENT_BYTES,
            ""
            if size < RESIDENT_BYTES
            else "in a brief run the history of changes, up to 20,000 of a kind, is not full yet",
        ),
        Target(
            f"CPU for {_IDLE} idle tasks",
            f"< {100 * IDLE_OF_CORE:g} % of a core",
            f"{used:.3f} %",
            used < 100 * IDLE_OF_CORE,
        ),
    ]


def _recovery(sizes: Sizes) -> tuple[Table, Target]:
    with tempfile.TemporaryDirectory() as folder:
        with _started("crash", folder=folder, live=sizes.in_flight) as doomed:
            assert doomed.stdout is not None
            if doomed.stdout.readline() != "running\n":
                raise SystemExit("the engine to be killed did not come up")
            doomed.kill()
        begin = time.perf_counter()
        figures = _figures("recovery", folder=folder, live=sizes.in_flight)
        took_s = time.perf_counter() - begin
    known_s = figures["database_s"] + figures["driven_s"]
    row = {
        "tasks": sizes.in_flight,
        "start and imports, s": round(took_s - known_s, 2),
        "read the database, s": round(figures["database_s"], 2),
        "until all are driven, s": round(figures["driven_s"], 2),
        "CPU s": round(figures["cpu_s"], 2),
        "all, s": round(took_s, 2),
    }
    return Table("a new process after kill -9", list(row), [row]), Target(
        f"recovery of {sizes.in_flight} tasks in flight", f"< {RECOVERY_S:g} s", f"{took_s:.2f} s", took_s < RECOVERY_S
    )


def _latency(sizes: Sizes) -> Table:
    rows: list[dict[str, str | float]] = []
    for rate, tasks in sizes.rates:
        figures = _in_new_folder("latency", tasks=tasks, rate=rate)
        rows.extend(
            {
                "tasks/s": round(figures["rate"]),
                "change": what,
                "p50 ms": round(figures[f"{what}_p50_ms"], 1),
                "p99 ms": round(figures[f"{what}_p99_ms"], 1),
                "samples": int(figures[f"{what}_count"]),
            }
            for what in ("running", "final")
        )
    return Table("from the commit of a pod's status to that of its task's", list(rows[0]), rows)


def _in_new_folder(scenario: str, **arguments: object) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return _figures(scenario, folder=folder, **arguments)


def _figures(scenario: str, **arguments: object) -> Mapping[str, float]:
    with _started(scenario, **arguments) as process:
        answer, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"scenario {scenario} ended with exit code {process.returncode}")
    return msgspec.json.decode(answer, type=dict[str, float])


@contextmanager
def _started(scenario: str, **arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.engine_scenarios", scenario, msgspec.json.encode(arguments).decode()]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
