from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from propfan.engine import submission
from propfan.engine.api import DATABASE_FILE
from propfan.engine.cluster import TASK_ACTION
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.submission import Submission
from propfan.engine.taskfiles import read_tasks
from tests.unit.engine.cli.command import lines_of, propfan, task_file
from tests.unit.engine.cli.conftest import Invoke


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tasks that are over: even ones good, odd ones bad in both of their attempts."""
    folder = tmp_path_factory.mktemp("tasks")
    good = task_file(folder, "echo one; echo two >&2", name="good")
    bad = task_file(folder, "echo attempt $FLYTE_ATTEMPT_NUMBER; echo bad luck >&2; exit 3", name="bad", retries=1)
    assert propfan("run", good, bad, "-n", 6, "--run-name", "mine", cwd=folder).returncode == 1
    return folder / "propfan-data"


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A data directory with one task that was submitted and never taken up."""
    (task,) = read_tasks(task_file(tmp_path, "true", name="left"))
    action = submission.to_task_action(
        Submission(template=task.template, run_name="left"), namespace="default", store=tmp_path.as_uri()
    )

    async def create() -> None:
        async with EmbeddedCluster.open(tmp_path / DATABASE_FILE) as cluster:
            await cluster.create(TASK_ACTION, submission.to_json(action))

    anyio.run(create)
    return tmp_path


def test_get_lists_tasks_in_order_with_their_ends(data_dir: Path, invoke: Invoke) -> None:
    result = invoke("get", "--data-dir", data_dir)
    head, *rows = result.stdout.splitlines()
    assert head.split()[:4] == ["TASK", "TYPE", "NAME", "PHASE"]
    assert [row.split()[0] for row in rows] == [f"mine-a{n}" for n in range(12)]
    assert [row.split()[3] for row in rows] == ["Completed", "PermanentFailure"] * 6
    assert [row.split()[4] for row in rows] == ["1", "2"] * 6
    assert rows[1].rstrip().endswith("exit code 3: bad luck")
    assert result.exit_code == 0


def test_get_takes_names_in_full_or_the_beginning_of_one(data_dir: Path, invoke: Invoke) -> None:
    for name in ("mine-a7", "default/mine-a7"):
        assert lines_of(invoke("get", name, "--json", "--data-dir", data_dir).stdout)[0]["action_name"] == "a7"
    named = lines_of(invoke("get", "mine-a10", "mine-a1", "--json", "--data-dir", data_dir).stdout)
    assert [task["action_name"] for task in named] == ["a10", "a1"]


def test_a_name_that_several_tasks_begin_with_is_refused_and_they_are_named(data_dir: Path, invoke: Invoke) -> None:
    result = invoke("explain", "mine", "--data-dir", data_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: TASK: 'mine' could be 12 tasks: default/mine-a0, ")


@pytest.mark.parametrize("command", ["get", "logs", "explain", "abort"])
def test_a_task_that_is_not_there_is_refused_with_a_way_out(data_dir: Path, invoke: Invoke, command: str) -> None:
    result = invoke(command, "yours", "--data-dir", data_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: TASK: there is no task 'yours'; 'propfan get' lists those there are\n"


@pytest.mark.parametrize("command", ["get", "logs x", "explain x", "abort x"])
def test_a_directory_without_tasks_is_refused_and_left_alone(tmp_path: Path, invoke: Invoke, command: str) -> None:
    result = invoke(*command.split(), "--data-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: --data-dir: {tmp_path} holds no tasks: 'propfan run' makes it\n"
    assert list(tmp_path.iterdir()) == []


def test_logs_are_what_the_task_wrote(data_dir: Path, invoke: Invoke) -> None:
    assert invoke("logs", "mine-a0", "--data-dir", data_dir).stdout == "one\ntwo\n"


def test_logs_are_of_the_last_attempt_or_of_the_one_that_is_named(data_dir: Path, invoke: Invoke) -> None:
    assert invoke("logs", "mine-a3", "--data-dir", data_dir).stdout.splitlines()[0] == "attempt 1"
    assert invoke("logs", "mine-a3", "--attempt", 1, "--data-dir", data_dir).stdout.splitlines()[0] == "attempt 0"
    refused = invoke("logs", "mine-a3", "--attempt", 3, "--data-dir", data_dir)
    assert (refused.exit_code, refused.stderr) == (
        2,
        "Error: --attempt: there is no 3: mine-a3 has had 2 attempts so far\n",
    )


def test_logs_of_a_container_that_is_not_there_name_those_there_are(data_dir: Path, invoke: Invoke) -> None:
    assert invoke("logs", "mine-a3", "--container", "mine-a3-1", "--data-dir", data_dir).exit_code == 0
    refused = invoke("logs", "mine-a3", "--container", "side", "--data-dir", data_dir)
    assert (refused.exit_code, refused.stderr) == (2, "Error: --container: there is no 'side'; there are mine-a3-1\n")


def test_explain_tells_the_whole_story_of_a_failure(data_dir: Path, invoke: Invoke) -> None:
    told = invoke("explain", "mine-a1", "--data-dir", data_dir).stdout
    assert "task     default/mine-a1  (raw-container bad)" in told
    assert "phase    PermanentFailure, attempt 2" in told
    assert "[mine-a1-1] terminated with exit code (3)." in told
    assert "earlier" in told
    assert "attempt 1: [Error] Pod failed." in told
    assert "restarting task" in told


def test_explain_as_json(data_dir: Path, invoke: Invoke) -> None:
    told = json.loads(invoke("explain", "mine-a1", "--json", "--data-dir", data_dir).stdout)
    assert (told["stage"], told["goal"], told["next_wake"]) == ("Ended", "none", None)
    assert told["status"]["phase"] == "PermanentFailure"
    assert [error.partition(":")[0] for error in told["attempt_errors"]] == ["attempt 1"]


def test_a_task_that_is_over_is_not_aborted(data_dir: Path, invoke: Invoke) -> None:
    assert invoke("abort", "mine-a0", "--data-dir", data_dir).stdout == "mine-a0 is over already: Completed\n"
    assert invoke("abort", "--all", "--data-dir", data_dir).stdout == ""


def test_abort_wants_a_name(data_dir: Path, invoke: Invoke) -> None:
    result = invoke("abort", "--data-dir", data_dir)
    assert (result.exit_code, result.stderr) == (2, "Error: TASKS: name at least one, or --all\n")


def test_without_an_engine_explain_says_so(unfinished: Path, invoke: Invoke) -> None:
    told = invoke("explain", "left", "--data-dir", unfinished).stdout
    assert "an engine: none runs on this data directory, 'propfan run' goes on with its tasks" in told


def test_without_an_engine_abort_is_done_by_the_next_one(unfinished: Path, invoke: Invoke) -> None:
    told = invoke("abort", "--all", "--reason", "not needed", "--data-dir", unfinished)
    assert told.stdout == "left-a0: will be aborted by the next run\n"
    propfan("run", "--data-dir", unfinished, cwd=unfinished)
    (task,) = lines_of(invoke("get", "--json", "--data-dir", unfinished).stdout)
    assert (task["outcome"], task["reason"]) == ("Aborted", "TaskAction was aborted: not needed")


def test_logs_of_a_task_that_has_not_begun_are_refused(unfinished: Path, invoke: Invoke) -> None:
    result = invoke("logs", "left", "--data-dir", unfinished)
    assert result.exit_code == 2
    assert "left-a0, attempt 1, has no logs in" in result.stderr
