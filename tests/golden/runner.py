"""Replays recorded cases and reports what differs.

``run_paths`` is what the command and the test use; an area without a module counts as failed.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.golden.comparison import Difference, compare

DATA: Final = Path(__file__).parent / "data"
SUFFIXES: Final = (".jsonl.gz", ".jsonl")


class Case(msgspec.Struct, frozen=True):
    id: str
    input: dict[str, Any]
    output: dict[str, Any]


class Outcome(msgspec.Struct, frozen=True):
    """What came of one case. ``crash`` is the traceback when ``run`` raised."""

    case: Case
    differences: list[Difference] = []
    crash: str = ""

    @property
    def causes(self) -> frozenset[str]:
        """Why it differs on purpose; empty when it agrees or fails."""
        return frozenset() if self.is_failure else frozenset(d.cause for d in self.differences)

    @property
    def is_failure(self) -> bool:
        return bool(self.crash) or any(not d.cause for d in self.differences)


class AreaReport(msgspec.Struct):
    """All outcomes of one area. ``runner_missing`` says why nothing could be run."""

    area: str
    outcomes: list[Outcome]
    runner_missing: str = ""

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.is_failure]

    @property
    def failed(self) -> int:
        return len(self.outcomes) if self.runner_missing else len(self.failures)

    @property
    def on_purpose(self) -> Counter[str]:
        """Cases that differ on purpose, by their causes."""
        return Counter(" and ".join(sorted(o.causes)) for o in self.outcomes if o.causes)

    @property
    def passed(self) -> int:
        return len(self.outcomes) - self.failed - self.on_purpose.total()


def area_of(path: Path) -> str:
    """The file's name up to its first dot."""
    return path.name.split(".", 1)[0]


def vector_files(paths: Iterable[Path]) -> list[Path]:
    """The vector files among ``paths`` and in the folders among them, sorted.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no vector file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.name.endswith(SUFFIXES))
            if not inside:
                raise FileNotFoundError(f"no {' or '.join(SUFFIXES)} file in {path}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return files


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of one file in order.

    Raises:
        ValueError: a line is no case; names file and line.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield msgspec.json.decode(line, type=Case)
                except (msgspec.DecodeError, UnicodeDecodeError) as problem:
                    raise ValueError(f"{path}:{number}: {problem}") from problem


def run_case(case: Case, module: Any) -> Outcome:
    compare_outputs: Callable[..., list[Difference]] = getattr(module, "compare", compare)
    try:
        actual: Mapping[str, Any] = module.run(case.input)
        return Outcome(case, compare_outputs(case.input, case.output, actual))
    except Exception:  # noqa: BLE001 - a crash is a result here, to be shown with the case
        return Outcome(case, crash=traceback.format_exc())


def run_area(area: str, cases: Iterable[Case]) -> AreaReport:
    name = f"tests.golden.areas.{area}"
    if not area.isidentifier() or importlib.util.find_spec(name) is None:
        return AreaReport(area, [Outcome(c) for c in cases], f"no runner for area {area}")
    module = importlib.import_module(name)
    return AreaReport(area, [run_case(c, module) for c in cases])


def run_paths(paths: Iterable[Path], case_id: str = "", area: str = "") -> list[AreaReport]:
    """One report per file, of the given case and area when they are given."""
    return [
        run_area(area_of(file), (c for c in read_cases(file) if not case_id or c.id == case_id))
        for file in vector_files(paths)
        if not area or area_of(file) == area
    ]


def _text(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 2000 else f"{text[:2000]}... ({len(text)} characters)"


def explain(outcome: Outcome, limit: int = 8) -> str:
    """The first ``limit`` differences of one case, one below the other."""
    lines = [f"  {outcome.case.id}"]
    if outcome.crash:
        lines += [f"    {line}" for line in outcome.crash.rstrip().splitlines()[-12:]]
    for d in outcome.differences[:limit]:
        mark = f"  (on purpose: {d.cause})" if d.cause else ""
        lines += [f"    at {d.path or '.'}{mark}", f"      - {_text(d.expected)}", f"      + {_text(d.actual)}"]
    if len(outcome.differences) > limit:
        lines.append(f"    and {len(outcome.differences) - limit} more")
    return "\n".join(lines)


def summary(report: AreaReport) -> str:
    line = f"{report.area}: {report.passed} passed, {report.failed} failed"
    if report.on_purpose:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(report.on_purpose.items()))
        line += f"; {report.on_purpose.total()} differ on purpose ({causes})"
    return f"{line}: {report.runner_missing}" if report.runner_missing else line
