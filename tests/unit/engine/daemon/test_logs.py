"""What a daemon logs, and how."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from propfan.engine.config import LogFormat, LogLevel, ServingSection
from propfan.engine.daemon import logs
from propfan.engine.daemon.logs import LoggedSink
from propfan.engine.task_events import ActionPhase
from propfan.pluginmachinery.phases import ExecutionError
from tests.unit.engine.flyte.test_events import event


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    kept, level = list(logging.root.handlers), logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = kept, level


def test_json_has_one_object_per_line_with_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(ServingSection())
    with structlog.contextvars.bound_contextvars(task="ns/r1-a0", run="r1"):
        structlog.get_logger("x").info("phase changed", to="RUNNING", odd=object)
    logging.getLogger("a.library").warning("it %s", "warns")
    structlog.get_logger("x").debug("not told")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["message"], ours["task"], ours["run"], ours["to"]) == ("phase changed", "ns/r1-a0", "r1", "RUNNING")
    assert ours["level"] == "info"
    assert ours["time"].endswith("Z")
    assert (theirs["message"], theirs["level"]) == ("it warns", "warning")


def test_an_exception_is_in_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(ServingSection())
    try:
        int("bad")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"][0]["exc_type"] == "ValueError"


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(ServingSection(log_format=LogFormat.CONSOLE, log_level=LogLevel.DEBUG))
    structlog.get_logger("x").debug("hello", task="ns/a")
    assert "hello" in (text := capsys.readouterr().err)
    assert "task=ns/a" in text


@pytest.mark.anyio
async def test_events_are_logged_once_they_are_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(ServingSection())
    over = event(phase=ActionPhase.FAILED, is_final=True, error=ExecutionError("Exit1", "broke"))
    await LoggedSink().record([event(), over])
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["message"], told["task"], told["code"], told["error"]) == (
        "task is over",
        "flyte/r1-a0",
        "Exit1",
        "broke",
    )
