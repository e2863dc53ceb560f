from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console, RenderableType

from propfan.engine.cli.progress import Board, show_summary, summarise
from propfan.engine.cli.tables import TaskTable, as_json, in_a_line, in_order, span
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.phases import ExecutionError, Phase

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POD_FAILED = (
    "Pod failed. No message received from kubernetes.\r\n"
    "[r1-a0-0] terminated with exit code (3). Reason [Error]. Message: \nTraceback:\nValueError: [red]luck\n."
)


def status(number: int = 0, *, outcome: Outcome | None = Outcome.COMPLETED, message: str = "") -> TaskStatus:
    return TaskStatus(
        key=TaskKey("default", f"rdm87ttmh5pf2ll4x7xl-a{number}"),
        run_name="rdm87ttmh5pf2ll4x7xl",
        action_name=f"a{number}",
        task_type="raw-container",
        task_name="a task",
        phase=Phase.RUNNING if outcome is None else Phase.SUCCESS,
        outcome=outcome,
        reason="TaskAction has completed",
        attempts=1,
        system_failures=0,
        created_at=NOW,
        ended_at=NOW + timedelta(seconds=3),
        error=ExecutionError("Error", message) if message else None,
        cache_status="",
        history=(),
        output_prefix="",
    )


def event(name: str, phase: ActionPhase, *, is_final: bool = False, message: str = "") -> TaskEvent:
    return TaskEvent(
        namespace="default",
        name=name,
        uid="u",
        run="r1",
        action=name,
        project="p",
        domain="d",
        attempt=1,
        phase=phase,
        plugin_phase=Phase.RUNNING,
        version=0,
        occurred_at=NOW,
        is_final=is_final,
        error=ExecutionError("Error", message) if message else None,
    )


def drawn(shown: RenderableType, width: int) -> Sequence[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def board_of(*names: str) -> Board:
    board = Board(len(names))
    for name in names:
        board.add(name)
    return board


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_fits_its_console_and_never_cuts_a_name(width: int) -> None:
    statuses = [status(), status(1, outcome=Outcome.FAILED, message=POD_FAILED)]
    head, good, bad = drawn(TaskTable(statuses), width)
    assert max(map(len, (head, good, bad))) <= width
    assert good.startswith("rdm87ttmh5pf2ll4x7xl-a0  ")
    assert bad.split()[0] == "rdm87ttmh5pf2ll4x7xl-a1"
    assert ("TYPE" in head) == (width >= 120)
    assert ("exit code 3: " in bad) == (width >= 60)
    if width >= 120:
        assert "exit code 3: ValueError: [red]luck" in bad


def test_a_failed_container_is_told_by_its_exit_code_and_last_words() -> None:
    assert in_a_line(ExecutionError("Error", POD_FAILED)) == "exit code 3: ValueError: [red]luck"
    killed = POD_FAILED.replace("(3)", "(137)").replace("[Error]", "[OOMKilled]")
    assert in_a_line(ExecutionError("OOMKilled", killed)).startswith("exit code 137, OOMKilled: ")
    silent = "x\r\n[c] terminated with exit code (1). Reason [Error]. Message: \n."
    assert in_a_line(ExecutionError("Error", silent)) == "exit code 1"
    assert in_a_line(ExecutionError("Code", "two\nlines")) == "[Code] two lines"


def test_tasks_of_a_run_are_in_the_order_of_their_numbers() -> None:
    shuffled = [status(number) for number in (10, 2, 1)]
    assert [s.action_name for s in in_order(shuffled)] == ["a1", "a2", "a10"]


def test_a_time_is_told_in_two_units_at_most() -> None:
    assert [span(s) for s in (None, 0.04, 59.94, 60, 3599, 3600, 90_000)] == [
        "", "0.0 s", "59.9 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 00 min",
    ]  # fmt: skip


def test_json_has_the_name_of_the_phase() -> None:
    told = msgspec.json.decode(msgspec.json.encode(as_json(status(outcome=None))))
    assert (told["phase"], told["outcome"], told["key"]) == ("Running", None, ["default", "rdm87ttmh5pf2ll4x7xl-a0"])


def test_a_board_counts_tasks_by_phase_and_retries_once() -> None:
    board = board_of("a", "b", "c")
    board.expected = 4
    board.take(event("a", ActionPhase.RUNNING))
    board.take(event("b", ActionPhase.FAILED))
    board.take(event("c", ActionPhase.SUCCEEDED, is_final=True))
    board.take(event("c", ActionPhase.RUNNING))
    board.take(event("stranger", ActionPhase.RUNNING))
    head, phases = drawn(board, 100)
    assert "1/4" in head
    assert "1 retries" in head
    assert phases == "1 to be submitted, 1 queued, 1 running, 1 succeeded"
    assert board.line.startswith(f"1 of 4 done, {phases}, ")


def test_a_board_shows_the_last_failures_each_in_one_line() -> None:
    board = board_of(*(f"t{n}" for n in range(7)))
    for n in range(7):
        board.take(event(f"t{n}", ActionPhase.FAILED, is_final=True, message=POD_FAILED.replace("(3)", f"({n})")))
    shown = drawn(board, 60)
    assert [line for line in shown if "exit code" in line] == [
        f"  t{n}: exit code {n}: ValueError: [red]luck" for n in range(2, 7)
    ]
    assert max(map(len, shown)) <= 60


def test_what_holds_tasks_up_is_told_once_and_counted_without_their_names() -> None:
    board = board_of("a", "b", "c")
    full = {TaskKey("ns", name): f"Pod ns/{name}-0: not written to x.db: database or disk is full" for name in "ab"}
    assert board.take_waiting(full) == []
    assert "waiting" not in "\n".join(drawn(board, 100))
    assert board.take_waiting(full) == ["2 waiting: not written to x.db: database or disk is full"]
    assert board.take_waiting(full) == []
    assert "  2 waiting: not written to x.db: database or disk is full" in drawn(board, 100)
    board.take_waiting({})
    assert "waiting" not in "\n".join(drawn(board, 100))


def test_no_time_is_promised_when_all_that_is_left_waits() -> None:
    board = board_of("a", "b")
    board.take(event("a", ActionPhase.SUCCEEDED, is_final=True))
    assert "left" in drawn(board, 100)[0]
    stuck = {TaskKey("ns", "b"): "never"}
    board.take_waiting(stuck)
    board.take_waiting(stuck)
    assert "left" not in drawn(board, 100)[0]


def test_a_summary_adds_up_and_lists_all_of_few_but_only_failures_of_many() -> None:
    outcomes = [
        *[Outcome.COMPLETED] * 30,
        Outcome.SIGNALED,
        Outcome.FAILED,
        Outcome.INVALID,
        Outcome.TIMED_OUT,
        Outcome.ABORTED,
    ]
    statuses = [status(n, outcome=outcome) for n, outcome in enumerate(outcomes)]
    summary = summarise(statuses, 61.5)
    assert msgspec.structs.asdict(summary) == {
        "tasks": 35, "succeeded": 31, "failed": 2, "timed_out": 1, "aborted": 1, "attempts": 35, "system_failures": 0,
        "seconds": 61.5,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=120)
    show_summary(console, statuses, summary)
    assert isinstance(console.file, io.StringIO)
    table, total = console.file.getvalue().splitlines()[:5], console.file.getvalue().splitlines()[5]
    assert [line.split()[0].rpartition("-")[2] for line in table[1:]] == ["a31", "a32", "a33", "a34"]
    assert total == "31 succeeded, 2 failed, 1 timed out, 1 aborted of 35 in 1 min 01 s (35 attempts)"
