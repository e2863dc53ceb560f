"""``python -m benchmarks SUITE... [--quick] [--json FILE]``: measure, print tables, and judge the targets."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import harness

NOT_IN_ALL = "cluster"
"""Starts a whole Kubernetes cluster, and builds it the first time."""


def suites() -> list[str]:
    """Modules of this folder that have a ``run``, with dashes for underscores."""
    return [
        path.stem.replace("_", "-")
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if "\ndef run(" in path.read_text()
    ]


def show(report: harness.Report, console: Console) -> None:
    environment = report.environment
    console.print(
        f"[bold]{report.suite}[/]: {environment['cpu']}, {environment['cpus']} CPUs, load {environment['load']}"
    )
    console.print(f"Python {environment['python']}, {environment['versions']}, twins {environment['backends']}")
    for table in report.tables:
        _table(table.title, table.columns, table.rows, console)
    for note in report.notes:
        console.print(f"- {note}")
    rows: list[dict[str, object]] = [
        {"target": t.name, "goal": t.goal, "measured": t.measured, "met": "yes" if t.is_met else f"no. {t.note}"}
        for t in report.targets
    ]
    if rows:
        _table("targets", ["target", "goal", "measured", "met"], rows, console)


def _table(title: str, columns: Sequence[str], rows: Sequence[dict[str, object]], console: Console) -> None:
    table = Table(title=title, title_justify="left", show_edge=False)
    numeric = {c for c in columns if all(_is_number(row.get(c)) for row in rows)}
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    console.print(table)


def _is_number(value: object) -> bool:
    return value is None or str(value).rstrip("x").replace(".", "", 1).isdecimal()


def _run(suite: str, *, quick: bool) -> harness.Report:
    report: harness.Report = importlib.import_module(f"benchmarks.{suite.replace('-', '_')}").run(quick=quick)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    known = suites()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure propfan.")
    parser.add_argument(
        "suites",
        nargs="+",
        choices=[*known, "all"],
        metavar="SUITE",
        help=f"{', '.join(known)}, or all (but {NOT_IN_ALL})",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats: minutes become seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    reports = []
    every = [name for name in known if name != NOT_IN_ALL]
    for name in every if "all" in options.suites else options.suites:
        report = _run(name, quick=options.quick)
        report.environment = {**harness.environment(), **report.environment}
        show(report, console)
        reports.append(report)
    if options.json:
        content = reports[0] if len(reports) == 1 else reports
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
