"""What the page on OpenAI prints is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from propfan.plugins.connectors.openai import connectors
from propfan.plugins.connectors.openai.batches import _PHASES
from tests.unit.plugins.connectors.openai import api_server
from tests.unit.plugins.connectors.openai.api_server import ApiServer
from tests.unit.plugins.connectors.pages import Page

PAGE = Page("openai").text


def test_the_states_have_the_phases_that_are_printed() -> None:
    rows = re.findall(
        r"^\| ((?:`[a-z_]+`(?:, )?)+) \| (INITIALIZING|RUNNING|SUCCEEDED|FAILED|ABORTED)", PAGE, re.MULTILINE
    )
    printed = {state: phase for states, phase in rows for state in re.findall(r"`([a-z_]+)`", states)}
    assert printed == {state: phase.name for state, phase in _PHASES.items()}


def test_the_task_types_are_all_there() -> None:
    printed = re.findall(r"^\| `([a-z-]+)` \| [a-z]", PAGE.partition("##")[0], re.MULTILINE)
    assert printed == [category.name for connector in connectors for category in connector.categories]


@pytest.mark.anyio
async def test_the_example_runs_on_the_command_line(api: ApiServer, tmp_path: Path) -> None:
    task = Page("openai").block("type: chatgpt")
    await anyio.Path(tmp_path / "chat.yaml").write_text(task.replace("gpt-4o-mini", "echo"))
    await anyio.Path(tmp_path / "inputs.yaml").write_text("message: Say hello.\n")
    command = [
        str(Path(sys.executable).with_name("propfan")),
        "connector",
        "run",
        "chat.yaml",
        "--inputs",
        "inputs.yaml",
    ]
    environment = os.environ | {"OPENAI_BASE_URL": api.url, "_FSEC_FLYTE_OPENAI_API_KEY": api_server.KEY}
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
    )
    assert done.stdout.strip() == '{"o0":"echo: Say hello."}', done.stderr
