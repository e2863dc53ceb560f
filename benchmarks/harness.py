"""What all suites share: timing, tables, targets, and where it all was measured.

A suite is a module with ``run(quick: bool) -> Report``. `measure` counts the processor time of one thread with
the garbage collector off. A median is over repeats of about two milliseconds each, the spread is from the 10th
to the 90th percentile. What else runs on the same core still slows it down; the least is the best guess of the
time without.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec

from propfan import _speedups

DATA: Final = Path(__file__).parent / "data"
PACKAGES: Final = ("msgspec", "protobuf", "cython", "flyteidl2")

_REPEAT_NS: Final = 2_000_000


class Measurement(msgspec.Struct, frozen=True):
    """How long one call takes.

    Attributes:
        allocated_bytes: The most that one call held at once, as far as Python's allocators know.
    """

    median_ns: float
    least_ns: float
    low_ns: float
    high_ns: float
    repeats: int
    calls_per_repeat: int
    allocated_bytes: int


class Case(msgspec.Struct, frozen=True):
    """Something to time.

    Attributes:
        compare: Key in ``go.json`` of what does the same, if anything does.
        compiled: The compiled module whose work it is, where that is nearly all of it.
    """

    name: str
    what: str
    call: Callable[[], object]
    compare: str = ""
    compiled: str = ""


class Table(msgspec.Struct):
    title: str
    columns: list[str]
    rows: list[dict[str, Any]]


class Target(msgspec.Struct):
    """A promise about speed. ``note`` says why when it is not met."""

    name: str
    goal: str
    measured: str
    is_met: bool
    note: str = ""


class Report(msgspec.Struct):
    suite: str
    tables: list[Table]
    targets: list[Target] = []
    notes: list[str] = []
    environment: dict[str, Any] = {}


def measure(call: Callable[[], object], *, quick: bool = False) -> Measurement:
    """Time ``call``, which is repeated many times."""
    call()
    begin = time.perf_counter_ns()
    for _ in range(5):
        call()
    once_ns = max((time.perf_counter_ns() - begin) / 5, 1)
    calls = max(1, int(_REPEAT_NS / once_ns / (4 if quick else 1)))
    samples = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(15 if quick else 101):
            loop = range(calls)
            begin = time.thread_time_ns()
            for _ in loop:
                call()
            samples.append((time.thread_time_ns() - begin) / calls)
            gc.collect(0)
    finally:
        if was_enabled:
            gc.enable()
    samples.sort()
    tenth = len(samples) // 10
    return Measurement(
        statistics.median(samples), samples[0], samples[tenth], samples[-1 - tenth], len(samples), calls, _peak(call)
    )


def _peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


def measure_cases(module: str, *, quick: bool) -> dict[str, Measurement]:
    """Time what ``module.cases()`` lists, by name, with the twins that this process uses."""
    cases: Sequence[Case] = importlib.import_module(module).cases()
    return {case.name: measure(case.call, quick=quick) for case in cases}


def measure_pure(module: str, *, quick: bool) -> dict[str, Measurement]:
    """The same in a process that uses the pure twins."""
    program = (
        "import sys, msgspec; from benchmarks import harness; "
        f"sys.stdout.buffer.write(msgspec.json.encode(harness.measure_cases({module!r}, quick={quick})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PROPFAN_PURE": "1"},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=dict[str, Measurement])


def go_figures() -> Mapping[str, Any]:
    """Rows of ``go.json``: the same work in Flyte's own back end, and where it was measured."""
    figures: Mapping[str, Any] = json.loads((DATA / "go.json").read_bytes())
    return figures


def environment() -> dict[str, Any]:
    """Machine, versions, load, and which twins are in use."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "backends": _speedups.backends(),
    }


def microseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.2f}" if nanoseconds < 100_000 else f"{nanoseconds / 1000:.0f}"


def at_most(name: str, goal_us: float, measured: Measurement, why: str, note: str = "") -> Target:
    """A target for the median of a time."""
    is_met = measured.median_ns <= goal_us * 1000
    return Target(
        name,
        f"<= {goal_us:.1f} us ({why})",
        f"{microseconds(measured.median_ns)} us (least {microseconds(measured.least_ns)})",
        is_met,
        "" if is_met else note,
    )


def at_least(name: str, goal: float, measured: float, note: str = "") -> Target:
    """A target for a ratio."""
    is_met = measured >= goal
    return Target(name, f">= {goal:g}x", f"{measured:.1f}x", is_met, "" if is_met else note)
