"""The page on the state machine tells what the table does."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from propfan.engine import machine, machine_doc
from propfan.engine.task_state import EVENTS, Stage

PAGE = Path(__file__).parents[3] / "docs" / "state-machine.md"


def test_page_holds_what_is_generated() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert machine_doc.filled(text) == text, "python -m propfan.engine.machine_doc docs/state-machine.md"


def test_outdated_page_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text.replace("CacheHit", "Outdated"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["machine_doc", str(page)])
    monkeypatch.delitem(sys.modules, "propfan.engine.machine_doc")
    runpy.run_module("propfan.engine.machine_doc", run_name="__main__")
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["diagram", "table"])
def test_page_without_a_marker_is_refused(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8").replace(f"<!-- end of generated: {name} -->", "")
    with pytest.raises(ValueError, match=f"end of generated: {name}"):
        machine_doc.filled(text)


def test_every_cell_that_can_happen_leads_somewhere_and_no_other() -> None:
    reached = machine_doc.targets()
    assert set(reached) == {(stage, event) for stage in Stage for event in EVENTS}
    for cell, stages in reached.items():
        assert bool(stages) is (machine.TRANSITIONS[cell] is not None), cell


def test_table_has_a_row_per_event_and_a_column_per_stage() -> None:
    head, rule, *rows = machine_doc.table().splitlines()
    assert [len(re.split(r"(?<!\\)\|", line)) for line in (head, rule, *rows)] == [len(Stage) + 3] * (len(EVENTS) + 2)
    assert [row.split("|")[1].strip() for row in rows] == [event.__name__ for event in EVENTS]


def test_every_stage_but_the_first_is_reached_in_the_diagram() -> None:
    edges = re.findall(r"^    (\S+) --> (\S+?)(?::|$)", machine_doc.diagram(), re.MULTILINE)
    assert {target for _, target in edges} == {stage.value for stage in Stage} | {"[*]"}
    assert {source for source, _ in edges} == {stage.value for stage in Stage} | {"[*]"}
