"""How tasks are shown: a table fitted to its console, a line of JSON, an error in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from propfan.engine.submission import TaskStatus
from propfan.pluginmachinery.phases import ExecutionError

_GAP: Final = 2
_WHY_WIDTH: Final = 30
"""What the last column wants at least; less telling columns go before it gets less."""

_DROPPED_FIRST: Final = ("TYPE", "NAME", "ATTEMPTS", "TIME")

_EXIT: Final = re.compile(
    r"terminated with exit code \((-?\d+)\)\. Reason \[(\w*)\]\. Message: (.*?)\.?\s*\Z", re.DOTALL
)
"""How the phase mapping of pods words the end of a container."""


class TaskTable:
    """One line per task. Columns are left out where the console is too narrow for all."""

    def __init__(self, statuses: Sequence[TaskStatus]) -> None:
        now = datetime.now(UTC)
        self._columns: Final[dict[str, list[str]]] = {
            "TASK": [status.key.name for status in statuses],
            "TYPE": [status.task_type for status in statuses],
            "NAME": [status.task_name for status in statuses],
            "PHASE": [phase_of(status) for status in statuses],
            "ATTEMPTS": [str(status.attempts) for status in statuses],
            "TIME": [span(_lasted_s(status, now)) for status in statuses],
        }
        self._styles: Final = [_style(status) for status in statuses]
        self._why: Final = [in_a_line(status.error) if status.error else one_line(status.reason) for status in statuses]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {name: max(map(len, (name, *cells))) + _GAP for name, cells in self._columns.items()}
        for name in _DROPPED_FIRST:
            if sum(widths.values()) + _WHY_WIDTH <= options.max_width:
                break
            del widths[name]
        left = max(options.max_width - sum(widths.values()), len("WHY"))
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        for name, width in widths.items():
            table.add_column(name, no_wrap=True, min_width=width - _GAP, justify="right" if name == "TIME" else "left")
        table.add_column("WHY", no_wrap=True)
        for n, why in enumerate(self._why):
            cells = [Text(self._columns[name][n], self._styles[n] if name == "PHASE" else "") for name in widths]
            shown = Text(why)
            shown.truncate(left, overflow="ellipsis")
            table.add_row(*cells, shown)
        yield table


def phase_of(status: TaskStatus) -> str:
    """The outcome of a task that is over, else where it stands."""
    if status.outcome is not None:
        return status.outcome.value
    return status.phase.wire_name.removeprefix("Phase")


def as_json(status: TaskStatus) -> dict[str, Any]:
    """A status as the commands print it: the phase by its name."""
    shown: dict[str, Any] = msgspec.to_builtins(status)
    return {**shown, "phase": status.phase.wire_name.removeprefix("Phase")}


def in_a_line(error: ExecutionError) -> str:
    """The exit code and the last thing that was said, where that is known; else code and message."""
    found = _EXIT.search(error.message)
    if found is None:
        return one_line(f"[{error.code}] {error.message}")
    code, reason, said = found.groups()
    words = f"exit code {code}" + (f", {reason}" if reason not in ("", "Error") else "")
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip(" .\r")), "")
    return f"{words}: {last}" if last else words


def span(seconds: float | None) -> str:
    """``7.3 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def one_line(text: str) -> str:
    return " ".join(text.split())


def in_order(statuses: Sequence[TaskStatus]) -> Sequence[TaskStatus]:
    """Oldest first; within a run ``a2`` before ``a10``."""
    return sorted(statuses, key=lambda status: (status.created_at, *_natural(status)))


def _natural(status: TaskStatus) -> Iterator[tuple[str | int, ...]]:
    yield status.key.namespace, status.run_name
    yield tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", status.action_name))


def _style(status: TaskStatus) -> str:
    if status.outcome is None:
        return ""
    return "green" if status.outcome.is_success else "red"


def _lasted_s(status: TaskStatus, now: datetime) -> float:
    """From the first phase to the end, or to now."""
    began = status.history[0].occurred_at if status.history else status.created_at
    return max(0.0, ((status.ended_at or now) - began).total_seconds())
