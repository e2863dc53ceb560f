"""``kill -9`` of the real ``propfan run``, in the middle of its work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.unit.engine.cli.command import lines_of, propfan, running, task_file

TASKS = 300


@pytest.mark.parametrize("ends", [(60,), (20, 120)], ids=["once", "twice"])
def test_a_killed_run_goes_on_and_no_attempt_runs_twice(tmp_path: Path, ends: tuple[int, ...]) -> None:
    """Killed when that many tasks have ended, each time; every process writes down its attempt."""
    ran = tmp_path / "ran"
    ran.mkdir()
    script = f"sleep 0.1; echo $FLYTE_ATTEMPT_NUMBER >> {ran}/$ACTION_NAME; [ $FLYTE_ATTEMPT_NUMBER = 1 ] || [ ${{ACTION_NAME%7}} = $ACTION_NAME ]"
    task = task_file(tmp_path, script, retries=1)
    for known, enough in zip((0, *ends), ends, strict=False):
        files = () if known else (task, "-n", TASKS, "--run-name", "mine")
        with running("run", *files, "--json", cwd=tmp_path) as command:
            command.wait_for(lambda out, _, least=enough - known: len(out) >= least)  # type: ignore[misc]
            command.process.kill()
            assert command.end() == -9

    last = propfan("run", "--json", cwd=tmp_path)

    assert last.returncode == 0, last.stderr
    tasks = lines_of(propfan("get", "--json", cwd=tmp_path).stdout)
    assert len(tasks) == TASKS
    assert Counter(task["outcome"] for task in tasks) == {"Completed": TASKS}
    begun = {file.name: file.read_text().split() for file in ran.iterdir()}
    assert set(begun) == {f"a{number}" for number in range(TASKS)}
    for task in tasks:
        attempts = [str(number) for number in range(task["attempts"])]
        assert begun[task["action_name"]] == attempts, task["key"]
        assert task["attempts"] == (2 if task["action_name"].endswith("7") else 1)
