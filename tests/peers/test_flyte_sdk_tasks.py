"""The real Flyte SDK makes the tasks, and its real entry point ``a0`` runs them as a process."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from flyteidl2.core import execution_pb2, tasks_pb2

flyte = pytest.importorskip("flyte", reason="needs the 'flyte' extra")

from propfan.engine import sdk_tasks  # noqa: E402
from propfan.engine.processes.environment import inherited  # noqa: E402
from propfan.engine.storage import ObjectStore  # noqa: E402
from propfan.engine.taskfiles import TaskFile, read_tasks  # noqa: E402
from propfan.pluginmachinery.errors import ConfigError, DecodeError  # noqa: E402
from tests.peers import sdk_functions  # noqa: E402

pytestmark = [
    pytest.mark.peer,
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Support for class-based `config`:DeprecationWarning"),  # in flyte.io
]


REPOSITORY = Path(__file__).resolve().parents[2]


class Attempt(msgspec.Struct, frozen=True):
    """What one process left behind."""

    exit_code: int
    output: str
    files: Mapping[str, bytes]


async def run(task: TaskFile, folder: Path) -> Attempt:
    """Runs the task's container as a kubelet would: no folder of the output is there before."""
    template = tasks_pb2.TaskTemplate.FromString(task.template)
    store, prefix = ObjectStore(), f"file://{folder}/base/a0/1"
    await store.put(f"file://{folder}/in/inputs.pb", task.inputs or b"")
    values = {
        "input": f"file://{folder}/in/inputs.pb",
        "outputPrefix": prefix,
        "rawOutputDataPrefix": prefix,
        "checkpointOutputPrefix": f"{prefix}/_flytecheckpoints",
        "prevCheckpointPrefix": '""',
        "runStartTime": "2030-01-31T12:00:00Z",
        "runName": "r1",
        "actionName": "a0",
    }
    command = [re.sub(r"\{\{\.(\w+)\}\}", lambda found: values[found[1]], word) for word in template.container.args]
    environment = {
        **inherited(("PATH",)),
        "HOME": str(folder),
        "ACTION_NAME": "a0",
        "RUN_NAME": "r1",
        "_U_RUN_BASE": f"file://{folder}/base",
        "_U_ORG_NAME": "local",
        "FLYTE_INTERNAL_EXECUTION_PROJECT": template.id.project,
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": template.id.domain,
        **{variable.key: variable.value for variable in template.container.env},
    }
    work = folder / "work"
    work.mkdir()
    with anyio.fail_after(120):
        done = await anyio.run_process(
            command, cwd=work, env=environment, check=False, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    left = folder / "base" / "a0" / "1"
    files = {file.name: file.read_bytes() for file in left.iterdir()} if left.is_dir() else {}
    return Attempt(done.returncode, done.stdout.decode(), files)


async def test_a_function_runs_and_its_outputs_are_read_back(tmp_path: Path) -> None:
    task = await sdk_tasks.task_of(sdk_functions.double, 21, name="world")
    assert (task.name, task.task_type) == ("peer.double", "python")
    attempt = await run(task, tmp_path)
    assert attempt.exit_code == 0, attempt.output
    assert set(attempt.files) == {"outputs.pb"}
    assert await sdk_tasks.read_outputs(sdk_functions.double, attempt.files["outputs.pb"]) == (42, "hello world")


async def test_values_of_every_kind_survive_the_way_there_and_back(tmp_path: Path) -> None:
    task = await sdk_tasks.task_of(
        sdk_functions.everything,
        point=sdk_functions.Point(0.5, "p"),
        colour=sdk_functions.Colour.GREEN,
        when=dt.datetime(2000, 1, 1, tzinfo=dt.UTC),
        span=dt.timedelta(seconds=0.25),
        numbers=[1, 2],
        table={"a": 4.0},
        maybe=None,
    )
    attempt = await run(task, tmp_path)
    assert attempt.exit_code == 0, attempt.output
    found = await sdk_tasks.read_outputs(sdk_functions.everything, attempt.files["outputs.pb"])
    assert found == sdk_functions.Point(2007.75, "p green")


async def test_inputs_out_of_a_file_are_what_the_sdk_reads(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "point": {"x": 0.5, "label": "p"},
        "colour": "GREEN",
        "when": "2000-01-01T00:00:00Z",
        "span": 0.25,
        "numbers": [1, 2],
        "table": {"a": 4},
        "maybe": 1,
    }
    made = await sdk_tasks.task_of(sdk_functions.everything, **(await _native(values)))
    (tmp_path / "task.pb").write_bytes(made.template)
    (tmp_path / "inputs.json").write_text(json.dumps(values))
    (task,) = read_tasks(tmp_path / "task.pb", inputs=tmp_path / "inputs.json")
    attempt = await run(task, tmp_path)
    assert attempt.exit_code == 0, attempt.output
    found = await sdk_tasks.read_outputs(sdk_functions.everything, attempt.files["outputs.pb"])
    assert found == sdk_functions.Point(2008.75, "p green")


async def _native(values: dict[str, Any]) -> dict[str, Any]:
    return values | {
        "point": sdk_functions.Point(**values["point"]),
        "colour": sdk_functions.Colour[values["colour"]],
        "when": dt.datetime.fromisoformat(values["when"]),
        "span": dt.timedelta(seconds=values["span"]),
        "table": {name: float(value) for name, value in values["table"].items()},
    }


async def test_a_function_that_raises_exits_with_0_and_leaves_its_error(tmp_path: Path) -> None:
    attempt = await run(await sdk_tasks.task_of(sdk_functions.refuse, 13), tmp_path)
    assert attempt.exit_code == 0, attempt.output
    assert set(attempt.files) == {"error.pb"}
    error = execution_pb2.ErrorDocument.FromString(attempt.files["error.pb"]).error
    assert error.code == "ValueError"
    assert "13 is not wanted" in error.message
    assert error.kind == execution_pb2.ContainerError.RECOVERABLE
    assert error.origin == execution_pb2.ExecutionError.USER


async def test_a_function_without_outputs_leaves_empty_ones(tmp_path: Path) -> None:
    attempt = await run(await sdk_tasks.task_of(sdk_functions.nothing), tmp_path)
    assert attempt.exit_code == 0, attempt.output
    assert await sdk_tasks.read_outputs(sdk_functions.nothing, attempt.files["outputs.pb"]) is None


async def test_the_template_says_what_the_decorator_says() -> None:
    task = await sdk_tasks.task_of(sdk_functions.double, 1, project="p", domain="d", version="v7")
    template = tasks_pb2.TaskTemplate.FromString(task.template)
    assert (template.id.project, template.id.domain, template.id.version) == ("p", "d", "v7")
    assert template.metadata.retries.retries == 2
    assert template.metadata.timeout.seconds == 30
    assert template.container.args[0] == "a0"
    variables = {variable.key: variable.value for variable in template.container.env}
    assert variables["GREETING"] == "hello"
    assert variables["PYTHONPATH"] == str(REPOSITORY)
    assert variables.items() >= sdk_tasks.LOCAL_ENVIRONMENT.items()
    assert not sdk_functions.double.env_vars or "PYTHONPATH" not in sdk_functions.double.env_vars


async def test_what_can_not_run_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"task peer\.refuse: Missing required inputs: number"):
        await sdk_tasks.task_of(sdk_functions.refuse)
    with pytest.raises(ConfigError, match=r"task peer\.refuse: .*"):
        await sdk_tasks.task_of(sdk_functions.refuse, number="thirteen")
    scope: dict[str, Any] = {"__name__": "typed_at_a_prompt"}
    exec("def typed() -> None: ...", scope)
    typed = flyte.TaskEnvironment(name="prompt", image="python:3.11").task(scope["typed"])
    with pytest.raises(ConfigError, match="not defined in a file"):
        await sdk_tasks.task_of(typed)


async def test_outputs_of_something_else_are_refused() -> None:
    with pytest.raises(DecodeError, match=r"outputs of peer\.double: not a serialised"):
        await sdk_tasks.read_outputs(sdk_functions.double, b"\xff\xff")
    with pytest.raises(DecodeError, match=r"outputs of peer\.double: not there: o0, o1"):
        await sdk_tasks.read_outputs(sdk_functions.double, b"")
