from __future__ import annotations

import os
import pty
import signal
import struct
import subprocess
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.unit.engine.cli.command import (
    PROPFAN,
    environment,
    is_alive,
    lines_of,
    propfan,
    running,
    task_file,
    until_file,
)


def test_a_line_of_json_for_each_task_and_one_for_all(tmp_path: Path) -> None:
    good = task_file(tmp_path, "echo hello $GREETED", name="good")
    bad = task_file(tmp_path, "echo attempt $FLYTE_ATTEMPT_NUMBER; exit 3", name="bad", retries=1)

    ended = propfan("run", good, bad, "-n", 2, "--json", "--env", "GREETED=world", "--run-name", "mine", cwd=tmp_path)

    *tasks, whole = lines_of(ended.stdout)
    by_name = {task["action_name"]: task for task in tasks}
    assert {name: (task["task_name"], task["outcome"], task["attempts"]) for name, task in by_name.items()} == {
        "a0": ("good", "Completed", 1),
        "a1": ("bad", "PermanentFailure", 2),
        "a2": ("good", "Completed", 1),
        "a3": ("bad", "PermanentFailure", 2),
    }
    assert {task["run_name"] for task in tasks} == {"mine"}
    assert {task["phase"] for task in tasks} == {"Success", "PermanentFailure"}
    assert "exit code (3)" in by_name["a1"]["error"]["message"]
    summary = whole["summary"]
    assert summary.pop("seconds") > 0
    assert summary == {
        "tasks": 4, "succeeded": 2, "failed": 2, "timed_out": 0, "aborted": 0, "attempts": 6, "system_failures": 0,
    }  # fmt: skip
    assert ended.returncode == 1
    assert propfan("logs", "mine-a0", cwd=tmp_path).stdout == "hello world\n"
    assert propfan("logs", "mine-a1", "--attempt", 1, cwd=tmp_path).stdout == "attempt 0\n"


def test_success_is_0_and_in_a_pipe_there_is_a_table(tmp_path: Path) -> None:
    ended = propfan("run", task_file(tmp_path, "true", name="good"), cwd=tmp_path)
    assert ended.returncode == 0
    head, row, total = ended.stdout.splitlines()
    assert head.split() == ["TASK", "TYPE", "NAME", "PHASE", "ATTEMPTS", "TIME", "WHY"]
    assert row.split()[1:5] == ["raw-container", "good", "Completed", "1"]
    assert total.startswith("1 succeeded of 1 in ")
    assert ended.stderr == ""


def test_why_a_task_failed_is_said_in_its_line(tmp_path: Path) -> None:
    ended = propfan("run", task_file(tmp_path, "echo first; echo [no] luck >&2; exit 7"), cwd=tmp_path)
    assert ended.returncode == 1
    assert "exit code 7: [no] luck" in ended.stdout
    assert "0 succeeded, 1 failed of 1" in ended.stdout


def test_a_task_that_took_too_long_is_told_apart(tmp_path: Path) -> None:
    ended = propfan("run", task_file(tmp_path, "sleep 100"), "--timeout", 0.2, "--json", cwd=tmp_path)
    task, whole = lines_of(ended.stdout)
    assert (ended.returncode, task["outcome"], task["error"]["code"]) == (1, "TimedOut", "AttemptTimedOut")
    assert (whole["summary"]["timed_out"], whole["summary"]["failed"]) == (1, 0)


def test_tasks_are_told_when_they_end_not_in_their_order(tmp_path: Path) -> None:
    slow = task_file(tmp_path, f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", name="slow")
    quick = task_file(tmp_path, "true", name="quick")
    with running("run", slow, quick, "--json", cwd=tmp_path) as command:
        command.wait_for(lambda out, _: len(out) == 1)
        (tmp_path / "go").touch()
        assert command.end() == 0
    assert [line.get("task_name") for line in lines_of("\n".join(command.out))] == ["quick", "slow", None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_first_interrupt_aborts_the_tasks_and_waits_for_them(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        f"trap 'echo told > {tmp_path}/told; exit 0' TERM; echo $$$$ > {tmp_path}/pid; while :; do sleep 0.02; done"
    )
    with running("run", task_file(tmp_path, script), "--json", cwd=tmp_path) as command:
        pid = int(until_file(tmp_path / "pid", command))
        command.process.send_signal(number)
        assert command.end() == 130
    task, whole = lines_of("\n".join(command.out))
    assert (task["outcome"], task["reason"]) == ("Aborted", "TaskAction was aborted: interrupted")
    assert whole["summary"]["aborted"] == 1
    assert (tmp_path / "told").exists()
    assert not is_alive(pid)
    assert "aborting; Ctrl-C again to leave at once" in command.err


def test_the_second_interrupt_leaves_at_once_and_kills_what_does_not_listen(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$$$ > {tmp_path}/pid; while :; do sleep 0.02; done"
    with running("run", task_file(tmp_path, script), "--json", "--data-dir", "here", cwd=tmp_path) as command:
        pid = int(until_file(tmp_path / "pid", command))
        command.process.send_signal(signal.SIGINT)
        command.wait_for(lambda _, err: any("aborting" in line for line in err))
        command.process.send_signal(signal.SIGINT)
        assert command.end(25) == 130  # the task's own time to end would be 30 s
    assert not is_alive(pid)
    assert propfan("run", "--data-dir", "here", cwd=tmp_path).stderr != ""
    (task,) = lines_of(propfan("get", "--json", "--data-dir", "here", cwd=tmp_path).stdout)
    assert task["outcome"] == "Aborted"


def test_without_files_it_goes_on_with_what_a_dead_run_left(tmp_path: Path) -> None:
    script = f"echo $FLYTE_ATTEMPT_NUMBER >> {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    with running("run", task_file(tmp_path, script), "--run-name", "mine", cwd=tmp_path) as command:
        until_file(tmp_path / "begun", command)
        command.process.kill()
        command.end()
    (tmp_path / "go").touch()
    ended = propfan("run", "--json", cwd=tmp_path)
    assert ended.stdout, ended.stderr
    task, whole = lines_of(ended.stdout)
    assert (ended.returncode, task["key"], task["outcome"]) == (0, ["default", "mine-a0"], "Completed")
    assert whole["summary"]["tasks"] == 1
    assert ended.stderr.splitlines() == ["going on with 1 unfinished task of propfan-data"]
    assert (tmp_path / "begun").read_text() == "0\n"


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    ended = propfan("run", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "nothing to do in propfan-data: name a task file" in ended.stderr


def test_the_same_run_again_finds_its_tasks_and_another_task_by_that_name_is_refused(tmp_path: Path) -> None:
    count = task_file(tmp_path, f"echo ran >> {tmp_path}/ran")
    assert propfan("run", count, "--run-name", "mine", cwd=tmp_path).returncode == 0

    again = propfan("run", count, "-n", 2, "--run-name", "mine", "--json", cwd=tmp_path)
    assert (again.returncode, lines_of(again.stdout)[-1]["summary"]["tasks"]) == (0, 2)
    assert (tmp_path / "ran").read_text() == "ran\n" * 2

    other = propfan("run", task_file(tmp_path, "false"), "--run-name", "mine", cwd=tmp_path)
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == (
        "Error: task default/mine-a0: was submitted with another task template: choose another run or action name\n"
    )


def test_a_reader_that_goes_away_ends_the_run_which_can_go_on_later(tmp_path: Path) -> None:
    quick = task_file(tmp_path, "true", name="quick")
    slow = task_file(tmp_path, f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", name="slow")
    with running("run", quick, slow, "--json", cwd=tmp_path) as command:
        command.wait_for(lambda out, _: len(out) == 1)
        assert command.process.stdout is not None
        os.dup2(os.open(os.devnull, os.O_RDONLY), command.process.stdout.fileno())  # nobody reads the pipe any more
        (tmp_path / "go").touch()
        assert command.end() == 1
    assert "Traceback" not in "\n".join(command.err)
    after = propfan("run", "--json", cwd=tmp_path)
    assert after.returncode == 0


def test_what_can_never_fit_is_said_by_run_and_by_explain_and_can_be_aborted(tmp_path: Path) -> None:
    big = task_file(tmp_path, "true", cpu="'500'")
    with running("run", big, "--capacity", "cpu=2", "--run-name", "mine", cwd=tmp_path) as command:
        command.wait_for(lambda _, err: any("it can never be placed here" in line for line in err))
        explained = propfan("explain", "mine", cwd=tmp_path).stdout
        aborted = propfan("abort", "mine-a0", "--reason", "too big", cwd=tmp_path)
        assert aborted.stdout == "mine-a0: aborting\n"
        assert command.end() == 1
    assert "\n".join(command.err) == (
        "1 waiting: Unschedulable:0/1 nodes are available: 1 Insufficient cpu. "
        "The whole node has less cpu than the pod requests: it can never be placed here."
    )
    assert "waiting for" in explained
    assert "it can never be placed here" in explained
    assert "TaskAction was aborted: too big" in "\n".join(command.out)


@pytest.mark.parametrize("columns", [60, 132])
def test_on_a_terminal_it_shows_progress_and_leaves_the_result(tmp_path: Path, columns: int) -> None:
    good = task_file(tmp_path, "sleep 0.5", name="good")
    bad = task_file(tmp_path, "echo bad luck >&2; exit 3", name="bad")
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*PROPFAN, "run", good, bad, "-n", "3"],
        cwd=tmp_path,
        env=environment(TERM="xterm-256color"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(30) == 1
    text = seen.decode()
    assert "/6" in text  # the bar
    final = text[text.rindex("WHY") :]
    assert final.count("exit code 3") == 3
    assert "3 succeeded" in final
    assert ", 3 failed" in final
