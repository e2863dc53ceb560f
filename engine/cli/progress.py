"""What ``propfan run`` shows: tasks by phase, rate, failures and time left, then a summary."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from propfan.engine.submission import TaskStatus
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.engine.task_state import Outcome

_SHOWN_FAILURES: Final = 5

_PHASE_STYLES: Final = {
    ActionPhase.QUEUED: "dim",
    ActionPhase.WAITING_FOR_RESOURCES: "yellow",
    ActionPhase.INITIALIZING: "cyan",
    ActionPhase.RUNNING: "blue",
    ActionPhase.SUCCEEDED: "green",
    ActionPhase.FAILED: "red",
    ActionPhase.TIMED_OUT: "magenta",
    ActionPhase.ABORTED: "magenta",
    ActionPhase.PAUSED: "yellow",
}


class Board:
    """Follows the events of a known set of tasks."""

    def __init__(self, names: Sequence[str]) -> None:
        self._phases: Final[dict[str, ActionPhase]] = dict.fromkeys(names, ActionPhase.QUEUED)
        self._final: Final[set[str]] = set()
        self._failures: Final[deque[tuple[str, str]]] = deque(maxlen=_SHOWN_FAILURES)
        self._retries = 0
        self._began: Final = time.monotonic()
        self.notice = ""

    @property
    def is_complete(self) -> bool:
        return len(self._final) == len(self._phases)

    def take(self, event: TaskEvent) -> None:
        """Events of other tasks, and repeats, are harmless."""
        if event.name not in self._phases or event.name in self._final:
            return
        if not event.is_final and event.phase is ActionPhase.FAILED:
            self._retries += 1
            return
        self._phases[event.name] = event.phase
        if event.is_final:
            self._final.add(event.name)
            if event.error is not None:
                self._failures.append((event.name, f"[{event.error.code}] {event.error.message}"))

    def __rich__(self) -> RenderableType:
        total, done = len(self._phases), len(self._final)
        elapsed_s = time.monotonic() - self._began
        rate = done / elapsed_s if elapsed_s > 0 else 0.0
        counts = Counter(self._phases.values())
        phases = Text("  ").join(
            Text(f"{counts[phase]} {phase.name.lower().replace('_', ' ')}", style)
            for phase, style in _PHASE_STYLES.items()
            if counts[phase]
        )
        head = Table.grid(padding=(0, 1))
        left = f"{(total - done) / rate:.0f} s left" if rate and done < total else ""
        retries = f"{self._retries} retries" if self._retries else ""
        head.add_row(
            ProgressBar(total=max(total, 1), completed=done, width=40),
            f"{done}/{total}",
            f"{elapsed_s:.1f} s",
            f"{rate:.1f}/s",
            left,
            retries,
        )
        lines: list[RenderableType] = [head, phases]
        lines += [Text(f"  {name}: {_one_line(why)}", "red", overflow="ellipsis", no_wrap=True) for name, why in self._failures]
        if self.notice:
            lines.append(Text(self.notice, "bold yellow"))
        return Group(*lines)


class Summary(msgspec.Struct, frozen=True):
    """The result of one run, also as a line of ``--json``."""

    tasks: int
    succeeded: int
    failed: int
    timed_out: int
    aborted: int
    attempts: int
    system_failures: int
    seconds: float


def summarise(statuses: Sequence[TaskStatus], elapsed_s: float) -> Summary:
    outcomes = Counter(status.outcome for status in statuses)
    succeeded = outcomes[Outcome.COMPLETED] + outcomes[Outcome.SIGNALED]
    return Summary(
        tasks=len(statuses),
        succeeded=succeeded,
        failed=len(statuses) - succeeded - outcomes[Outcome.TIMED_OUT] - outcomes[Outcome.ABORTED] - outcomes[None],
        timed_out=outcomes[Outcome.TIMED_OUT],
        aborted=outcomes[Outcome.ABORTED],
        attempts=sum(status.attempts for status in statuses),
        system_failures=sum(status.system_failures for status in statuses),
        seconds=round(elapsed_s, 3),
    )


def show_summary(console: Console, statuses: Sequence[TaskStatus], summary: Summary) -> None:
    """A line per task where they are few, else per failed task; then the totals."""
    shown = [s for s in statuses if len(statuses) <= 20 or s.outcome not in (Outcome.COMPLETED, Outcome.SIGNALED)]
    if shown:
        console.print(task_table(shown[:50]))
    if len(shown) > 50:
        console.print(f"… and {len(shown) - 50} more: propfan get")
    text = Text(f"{summary.succeeded} succeeded", "green")
    for count, name, style in (
        (summary.failed, "failed", "red"),
        (summary.timed_out, "timed out", "magenta"),
        (summary.aborted, "aborted", "magenta"),
    ):
        if count:
            text.append(f", {count} {name}", style)
    text.append(f" of {summary.tasks} in {summary.seconds:.1f} s ({summary.attempts} attempts)", "default")
    console.print(text)


def task_table(statuses: Sequence[TaskStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("TASK", "TYPE", "NAME", "PHASE", "ATTEMPTS", "TIME"):
        table.add_column(column, no_wrap=True)
    table.add_column("WHY", overflow="ellipsis", no_wrap=True)
    for status in statuses:
        phase = status.outcome.value if status.outcome is not None else status.phase.wire_name.removeprefix("Phase")
        style = "green" if status.outcome is not None and status.outcome.is_success else "red" if status.outcome else ""
        table.add_row(
            str(status.key.name),
            status.task_type,
            status.task_name,
            Text(phase, style),
            str(status.attempts),
            _lasted(status),
            _one_line(f"[{status.error.code}] {status.error.message}" if status.error else status.reason),
        )
    return table


def _lasted(status: TaskStatus) -> str:
    began: datetime = status.history[0].occurred_at if status.history else status.created_at
    if status.ended_at is None:
        return ""
    return f"{max(0.0, (status.ended_at - began).total_seconds()):.1f} s"


def _one_line(text: str) -> str:
    return " ".join(text.split())
