"""The code that is printed in the documentation, run as it is printed."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path
from typing import Any

import anyio
import pytest
from flyteidl2.core import tasks_pb2

from propfan.engine import Engine
from propfan.engine.task_state import Outcome
from propfan.engine.taskfiles import read_tasks

ROOT = Path(__file__).parents[3]


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {language} any more"
    return found


def template() -> bytes:
    task = tasks_pb2.TaskTemplate(type="raw-container")
    task.id.name = "documented"
    task.container.image = "busybox"
    task.container.command.append("true")
    return task.SerializeToString()


@pytest.mark.parametrize("page", ["README.md", "docs/embedding.md"])
def test_python_runs_as_printed(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"template": template(), "inputs": None, "__name__": "__main__"}
    for block in blocks(page, "python"):
        # What a program has in a function of its own stands at the top level in documentation.
        code = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        function = types.FunctionType(code, names)
        if inspect.iscoroutinefunction(function):
            anyio.run(function)
        else:
            function()
    if "status" in names:
        assert names["status"].outcome is Outcome.COMPLETED
    else:
        assert "Outcome.COMPLETED" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["docs/start.md"])
def test_task_files_are_good(page: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert read_tasks(path)


def test_every_call_in_the_table_of_embedding_is_there() -> None:
    page = (ROOT / "docs/embedding.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    calls = [call for row in rows for call in re.findall(r"`(\w+)\(", row)]
    assert {"submit", "wait", "events", "settled"} <= set(calls)
    for call in calls:
        assert callable(getattr(Engine, call)), call
