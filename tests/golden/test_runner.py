"""The comparison sees what differs, and forgives only what it should."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from tests.golden import __main__ as command
from tests.golden import comparison


def causes(expected: Mapping[str, Any], actual: Mapping[str, Any], **case_input: Any) -> list[str]:
    return [d.cause for d in comparison.compare(case_input, expected, actual)]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (1, 2), (1, "1"), (1, True), (0, False), (None, ""), ([1, [2, 3]], [1, [2, 4]]), ([1], [1, 2]), ({"a": 1}, {}), ({}, {"a": None}),
        ("a", "b"), ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}), ([], {}), ("<RANDOM4>", "abcd"),
        ("<RANDOM4>", "bcdfg"), ("Pod", "pod"),
    ],
)  # fmt: skip
def test_different_values_differ(expected: Any, actual: Any) -> None:
    assert causes({"v": expected}, {"v": actual}) == [""]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (1, 1.0), ([1, {"a": None}], (1, {"a": None})), ("x <RANDOM4>-<RANDOM4> y", "x bcdf-2456 y"), ("<RANDOM4>", "http"),
    ],
)  # fmt: skip
def test_equal_values_agree(expected: Any, actual: Any) -> None:
    assert causes({"v": expected}, {"v": actual}) == []


def error(code: str, message: str, **exact: bool) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **exact}}


def test_lists_are_ordered() -> None:
    assert causes({"v": [1, 2]}, {"v": [2, 1]}) == ["", ""]


def test_errors_agree_in_code_and_exact_message() -> None:
    assert causes(error("A", "m", message_exact=True), error("A", "m")) == []
    assert causes(error("A", "m", message_exact=False), error("A", "other")) == []
    assert causes(error("A", "m", message_exact=True), error("A", "other")) == [""]
    assert causes(error("A", "m", message_exact=False), error("", "m")) == [""]
    assert causes(error("A", "m", message_exact=False), {"rendered": []}) == ["", ""]


def test_any_error_stands_for_a_crash() -> None:
    assert causes(error("PANIC", "boom", message_exact=False), error("", "no")) == [comparison.PANIC]
    assert causes(error("PANIC", "boom", message_exact=False), {}) == [""]


def test_mutated_template_forgives_the_case() -> None:
    assert causes({"template_mutated": True, "v": 1}, {"v": 2}) == [comparison.TEMPLATE_MUTATED]
    assert causes({"template_mutated": True, "v": 1}, {"v": 1}) == []


def test_lower_case_kind_is_on_purpose() -> None:
    assert causes({"kind": "pod"}, {"kind": "Pod"}) == [comparison.LOWER_CASE_KIND]
    assert causes({"name": "pod"}, {"name": "Pod"}) == [""]


def test_dollar_in_a_storage_path_may_have_been_eaten() -> None:
    paths = {"output": "s3://b/$1/${x}/$$"}
    assert causes({"v": "o=s3://b///$"}, {"v": "o=s3://b/$1/${x}/$$"}, paths=paths) == [comparison.EATEN_DOLLAR]
    assert causes({"v": "o=s3://b//"}, {"v": "o=s3://b/$1/${x}/$$"}, paths=paths) == [""]
    assert causes({"v": "o=s3://b///$"}, {"v": "o=s3://b/$1/${x}/$$"}, paths={"output": "s3://b"}) == [""]


def test_azure_link_is_compared_by_its_query() -> None:
    expected = {"uri": "https://a?q=<AZURE_GZIP_QUERY>", "azure_query": "Q", "name": "n"}
    packed = quote_plus(base64.b64encode(gzip.compress(b"Q", 1)))
    assert causes(expected, {"uri": f"https://a?q={packed}", "name": "n"}) == []
    assert causes({**expected, "azure_query": "R"}, {"uri": f"https://a?q={packed}", "name": "n"}) == [""]
    assert causes(expected, {"uri": f"https://b?q={packed}", "name": "n"}) == ["", ""]
    assert causes(expected, {"uri": "https://a?q=none", "name": "n"}) == [""]


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    """An area whose answer is twice the input, and that crashes on text."""
    name = "tests.golden.areas.doubling"
    module = types.ModuleType(name)
    module.__dict__["run"] = lambda case: {"v": case["v"] * 2 / 1}
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    monkeypatch.setitem(sys.modules, name, module)


def write(folder: Path, name: str, values: list[tuple[Any, Any]]) -> Path:
    lines = [json.dumps({"id": f"c{i}", "input": {"v": v}, "output": {"v": w}}) for i, (v, w) in enumerate(values)]
    content = ("\n".join(lines) + "\n\n").encode()
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.usefixtures("doubling")
def test_report_counts_and_explains_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "doubling.jsonl.gz", [(1, 2), (2, 5), ("x", 1)])
    write(tmp_path, "doubling.more.jsonl", [(4, 8)])
    assert command.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    summaries = [line for line in printed.splitlines() if line.endswith("failed")]
    assert summaries == ["doubling: 1 passed, 2 failed", "doubling: 1 passed, 0 failed", "2 passed, 2 failed"]
    assert "at .v" in printed
    assert "TypeError" in printed


@pytest.mark.usefixtures("doubling")
def test_one_case_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "doubling.jsonl", [(1, 2), (2, 5)])
    assert command.main([str(path), "--id", "c0"]) == 0
    assert capsys.readouterr().out.endswith("1 passed, 0 failed\n")
    assert command.main([str(path), "--id", "c9"]) == 1


def test_area_without_a_module_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "nowhere.jsonl", [(1, 2)])
    assert command.main([str(path)]) == 1
    assert "no runner for area nowhere\n0 passed, 1 failed" in capsys.readouterr().out


def test_what_holds_no_cases_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 2
    assert command.main([str(tmp_path / "gone")]) == 2
    (tmp_path / "doubling.jsonl").write_text("{}\n")
    assert command.main([str(tmp_path)]) == 2
    assert "doubling.jsonl:1" in capsys.readouterr().err
