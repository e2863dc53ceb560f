"""Connector tasks through the whole engine: jobs created in a second, what live ones cost, how late looks are, recovery.

The connector is another process (``connector_server``) that counts what comes in; how late a look is, is told by
its own clock: the time between two looks at one job, less the interval. CPU time and memory are those of the
engine's process: engine, plugin, gRPC, and embedded cluster with its file and its history of changes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.harness import Report, Table, Target

_ROOT: Final = Path(__file__).parent.parent

LATE_P99_S: Final = 1.0
OF_CORE: Final = 0.6
RESIDENT_MB: Final = 200.0
CREATES_PER_S: Final = 1000.0


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything."""

    live: int = 10_000
    interval_s: float = 10.0
    measure_s: float = 30.0


_QUICK: Final = Sizes(500, 5.0, 6.0)


def run(*, quick: bool) -> Report:
    sizes = _QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory() as folder, _connector() as port:
        arguments = {"folder": folder, "port": port, **msgspec.to_builtins(sizes)}
        _figures("fill", arguments)
        with _started("crowd", arguments) as process:
            assert process.stdout is not None
            crowd = msgspec.json.decode(process.stdout.readline() or b"{}", type=dict[str, float])
            if not crowd:
                raise SystemExit(f"scenario crowd ended with exit code {process.wait()}")
            process.kill()
            process.wait()
        recovery = _figures("recovery", arguments)
    return Report(
        "connectors",
        [_created(sizes, crowd), _looked_after(sizes, crowd), _recovered(sizes, recovery)],
        _targets(sizes, crowd, recovery),
        [
            "durable: a mark is written before each creation, and the answer after it, in SQLite (WAL)",
            "memory: the embedded cluster keeps up to 24 MiB of past versions of its objects for watches",
        ],
    )


def _created(sizes: Sizes, crowd: Mapping[str, float]) -> Table:
    row = {
        "tasks": sizes.live,
        "creates/s": round(crowd["creates_per_s"]),
        "CPU us/task, to the last creation": round(crowd["create_cpu_us"]),
        "from start to the last, s": round(crowd["created_s"], 1),
    }
    return Table("jobs for tasks that all come at once", list(row), [row])


def _looked_after(sizes: Sizes, crowd: Mapping[str, float]) -> Table:
    row = {
        "live jobs": sizes.live,
        "interval s": sizes.interval_s,
        "looks/s": round(crowd["looks_per_s"]),
        "% of a core": round(100 * crowd["of_core"], 1),
        "CPU us/look": round(crowd["look_cpu_us"]),
        "late p50 ms": round(1000 * crowd["late_p50_s"]),
        "p99 ms": round(1000 * crowd["late_p99_s"]),
        "most ms": round(1000 * crowd["late_most_s"]),
        "resident MB": round(crowd["resident_bytes"] / 1e6),
        "before MB": round(crowd["resident_before_bytes"] / 1e6),
    }
    return Table("jobs that run and run", list(row), [row])


def _recovered(sizes: Sizes, recovery: Mapping[str, float]) -> Table:
    row = {
        "tasks": sizes.live,
        "driven again s": round(recovery["driven_s"], 2),
        "all looked at s": round(recovery["looked_s"], 1),
        "CPU s": round(recovery["cpu_s"], 1),
        "resident MB": round(recovery["resident_bytes"] / 1e6),
        "creations since": round(recovery["creates_since"]),
        "all ended well after s": round(recovery["settled_s"], 1),
    }
    return Table("a new process after kill -9", list(row), [row])


def _targets(sizes: Sizes, crowd: Mapping[str, float], recovery: Mapping[str, float]) -> list[Target]:
    late_s, of_core, megabytes = crowd["late_p99_s"], crowd["of_core"], crowd["resident_bytes"] / 1e6
    shared = "two cores, shared with the connector's process and whatever else runs"
    return [
        Target("p99 of how late a look is", f"< {LATE_P99_S:g} s", f"{late_s:.3f} s", late_s < LATE_P99_S, shared),
        Target(
            f"CPU that {sizes.live} live jobs take",
            f"< {OF_CORE:.0%} of a core",
            f"{of_core:.0%} ({crowd['look_cpu_us']:.0f} us a look)",
            of_core < OF_CORE,
            shared,
        ),
        Target(
            f"memory with {sizes.live} live jobs",
            f"< {RESIDENT_MB:g} MB",
            f"{megabytes:.0f} MB ({recovery['resident_bytes'] / 1e6:.0f} MB after a restart, without a history)",
            megabytes < RESIDENT_MB,
            "the embedded cluster's history of changes is in it",
        ),
        Target(
            "jobs created, durably",
            f">= {CREATES_PER_S:.0f}/s",
            f"{crowd['creates_per_s']:.0f}/s ({crowd['create_cpu_us']:.0f} us of CPU each)",
            crowd["creates_per_s"] >= CREATES_PER_S,
            shared,
        ),
        Target(
            f"creations repeated by the recovery of {sizes.live} tasks",
            "0",
            f"{recovery['creates_since']:.0f}",
            recovery["creates_since"] == 0 and recovery["succeeded"] == sizes.live,
            f"{recovery['succeeded']:.0f} of the tasks ended well",
        ),
    ]


@contextmanager
def _connector() -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.connector_server"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _figures(scenario: str, arguments: Mapping[str, Any]) -> Mapping[str, float]:
    with _started(scenario, arguments) as process:
        answer, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"scenario {scenario} ended with exit code {process.returncode}")
    return msgspec.json.decode(answer, type=dict[str, float])


@contextmanager
def _started(scenario: str, arguments: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.connector_scenarios",
        scenario,
        msgspec.json.encode(arguments).decode(),
    ]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()
