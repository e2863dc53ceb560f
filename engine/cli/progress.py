"""What ``propfan run`` shows: tasks by phase, rate, failures, what holds them up and time left; then a summary."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from propfan.engine.cli.tables import TaskTable, in_a_line, one_line, span
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.engine.task_state import Outcome

_SHOWN_FAILURES: Final = 5
_SHOWN_HOLD_UPS: Final = 3
_SHOWN_TASKS: Final = 20
_SHOWN_FAILED_TASKS: Final = 50
_RATE_WINDOW_S: Final = 20.0

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
    """Follows the events of a set of tasks.

    Attributes:
        expected: Number of tasks there will be.
        notice: A line of its own, for what concerns all of them.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.notice = ""
        self._phases: Final[dict[str, ActionPhase]] = {}
        self._final: Final[set[str]] = set()
        self._failures: Final[deque[tuple[str, str]]] = deque(maxlen=_SHOWN_FAILURES)
        self._retries = 0
        self._began: Final = time.monotonic()
        self._ends: Final[deque[float]] = deque()
        self._waiting: Mapping[TaskKey, str] = {}
        self._hold_ups: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """A task was submitted, or found."""
        self._phases.setdefault(name, ActionPhase.QUEUED)

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
            self._ends.append(time.monotonic())
            if event.error is not None:
                self._failures.append((event.name, in_a_line(event.error)))

    def take_waiting(self, waiting: Mapping[TaskKey, str]) -> Sequence[str]:
        """What tasks wait for now. Only what lasts until the next look is told.

        Returns:
            The reasons that are told for the first time.
        """
        lasting = {_without_name(key, why) for key, why in waiting.items() if self._waiting.get(key) == why}
        known = set(self._hold_ups)
        self._waiting = waiting
        self._hold_ups = Counter(why for key, text in waiting.items() if (why := _without_name(key, text)) in lasting)
        return [f"{self._hold_ups[why]} waiting: {why}" for why in sorted(lasting - known)]

    @property
    def phases(self) -> str:
        """How many are in which phase, in plain text."""
        return self._told.plain

    @property
    def line(self) -> str:
        """Where all stand, in one line of plain text."""
        return ", ".join(filter(None, (f"{len(self._final)} of {self.expected} done", self.phases, *self._pace)))

    @property
    def _told(self) -> Text:
        counts = Counter(self._phases.values())
        to_come = self.expected - len(self._phases)
        parts = [Text(f"{to_come} to be submitted", "dim")] if to_come else []
        parts += [
            Text(f"{counts[phase]} {phase.name.lower().replace('_', ' ')}", style)
            for phase, style in _PHASE_STYLES.items()
            if counts[phase]
        ]
        return Text(", ").join(parts)

    @property
    def _pace(self) -> Sequence[str]:
        """Time gone, rate, time left, retries; what is not known is left out."""
        now = time.monotonic()
        while self._ends and self._ends[0] < now - _RATE_WINDOW_S:
            self._ends.popleft()
        rate = len(self._ends) / max(min(now - self._began, _RATE_WINDOW_S), 0.001)
        left = self.expected - len(self._final)
        is_moving = sum(self._hold_ups.values()) < left
        return (
            span(now - self._began),
            f"{rate:.1f}/s" if rate else "",
            f"about {span(max(1.0, round(left / rate))).replace('.0', '')} left" if rate and is_moving else "",
            f"{self._retries} retries" if self._retries else "",
        )

    def __rich__(self) -> RenderableType:
        done = len(self._final)
        head = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=max(self.expected, 1), completed=done, width=30)
        head.add_row(bar, f"{done}/{self.expected}", *filter(None, self._pace))
        lines: list[RenderableType] = [head, self._told]
        lines += [
            _line(f"  {count} waiting: {why}", "yellow") for why, count in self._hold_ups.most_common(_SHOWN_HOLD_UPS)
        ]
        lines += [_line(f"  {name}: {why}", "red") for name, why in self._failures]
        if self.notice:
            lines.append(Text(self.notice, "bold yellow"))
        return Group(*lines)


def _line(text: str, style: str) -> Text:
    return Text(text, style, overflow="ellipsis", no_wrap=True)


def _without_name(key: TaskKey, why: str) -> str:
    """``Pod default/r1-a0-0: no room`` of many tasks is one reason."""
    _, found, rest = why.partition(str(key))
    return one_line(rest.partition(": ")[2] if found else why)


class Summary(msgspec.Struct, frozen=True):
    """The result of one run, also as a line of ``--json``. A task that was left unfinished is in ``tasks`` only."""

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
    unsuccessful = [status for status in statuses if status.outcome is None or not status.outcome.is_success]
    shown = statuses if len(statuses) <= _SHOWN_TASKS else unsuccessful
    if shown:
        console.print(TaskTable(shown[:_SHOWN_FAILED_TASKS]))
    if len(shown) > _SHOWN_FAILED_TASKS:
        console.print(f"… and {len(shown) - _SHOWN_FAILED_TASKS} more: propfan get")
    text = Text(f"{summary.succeeded} succeeded", "green")
    for count, name, style in (
        (summary.failed, "failed", "red"),
        (summary.timed_out, "timed out", "magenta"),
        (summary.aborted, "aborted", "magenta"),
    ):
        if count:
            text.append(f", {count} {name}", style)
    attempts = f"{summary.attempts} attempt{'s' if summary.attempts != 1 else ''}"
    text.append(f" of {summary.tasks} in {span(summary.seconds)} ({attempts})", "default")
    console.print(text)
    if summary.failed + summary.timed_out:
        console.print("'propfan explain TASK' says more, 'propfan logs TASK' prints what it wrote", style="dim")
