"""What all suites share: timing, tables, targets, and where it all was measured.

A suite is a module with ``run(quick: bool) -> Report``. `measure` counts the processor time of one thread with
the garbage collector off. A median is over repeats of about two milliseconds each, the spread is from the 10th
to the 90th percentile. What else runs on the machine can only add to it, often half of it and for seconds. So the
repeats of a case are spread over the whole run, and targets are for the 10th percentile.
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
_PASSES: Final = 5


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


class _Timing:
    """The repeats of one call, taken in several goes."""

    def __init__(self, call: Callable[[], object], *, quick: bool) -> None:
        self._call = call
        call()
        begin = time.perf_counter_ns()
        for _ in range(5):
            call()
        once_ns = max((time.perf_counter_ns() - begin) / 5, 1)
        self._calls = max(1, int(_REPEAT_NS / once_ns / (4 if quick else 1)))
        self._samples: list[float] = []

    def repeat(self, times: int) -> None:
        call, loop = self._call, range(self._calls)
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            for _ in range(times):
                begin = time.thread_time_ns()
                for _ in loop:
                    call()
                self._samples.append((time.thread_time_ns() - begin) / self._calls)
                gc.collect(0)
        finally:
            if was_enabled:
                gc.enable()

    def result(self) -> Measurement:
        samples = sorted(self._samples)
        tenth = len(samples) // 10
        return Measurement(
            median_ns=statistics.median(samples),
            least_ns=samples[0],
            low_ns=samples[tenth],
            high_ns=samples[-1 - tenth],
            repeats=len(samples),
            calls_per_repeat=self._calls,
            allocated_bytes=_peak(self._call),
        )


def measure(call: Callable[[], object], *, quick: bool = False) -> Measurement:
    """Time ``call``, which is repeated many times."""
    timing = _Timing(call, quick=quick)
    timing.repeat(15 if quick else 101)
    return timing.result()


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


def measure_all(cases: Sequence[Case], *, quick: bool) -> dict[str, Measurement]:
    """Time cases in turns, so that a slow spell of the machine does not fall on one alone; by name."""
    timings = {case.name: _Timing(case.call, quick=quick) for case in cases}
    for _ in range(_PASSES):
        for timing in timings.values():
            timing.repeat(3 if quick else 20)
    return {name: timing.result() for name, timing in timings.items()}


def measure_cases(module: str, *, quick: bool) -> dict[str, Measurement]:
    """Time what ``module.cases()`` lists, with the twins that this process uses."""
    return measure_all(importlib.import_module(module).cases(), quick=quick)


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
    """A target for the 10th percentile of a time."""
    is_met = measured.low_ns <= goal_us * 1000
    return Target(
        name,
        f"<= {goal_us:.1f} us ({why})",
        f"{microseconds(measured.low_ns)} us (median {microseconds(measured.median_ns)},"
        f" least {microseconds(measured.least_ns)})",
        is_met,
        "" if is_met else note,
    )


def at_least(name: str, goal: float, measured: float, note: str = "") -> Target:
    """A target for a ratio."""
    is_met = measured >= goal
    return Target(name, f">= {goal:g}x", f"{measured:.1f}x", is_met, "" if is_met else note)
