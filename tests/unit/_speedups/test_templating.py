from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import pure_twin, templating

PURE = pure_twin("templating")

indexes = st.integers(min_value=-4, max_value=6)
segments = st.lists(st.one_of(st.text(), indexes), max_size=4).map(tuple)
plans = st.lists(st.one_of(st.text(), indexes, segments)).map(tuple)
values = st.lists(st.text(alphabet="{}ab\u00e9"), max_size=5)


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except IndexError:
        return IndexError


@given(plans, values)
def test_twins_fill_alike(plan: tuple[Any, ...], given_values: list[str]) -> None:
    assert outcome(PURE.fill, plan, given_values) == outcome(templating.fill, plan, given_values)


@given(st.lists(indexes).map(tuple), values)
def test_twins_judge_values_alike(used: tuple[int, ...], given_values: list[str]) -> None:
    assert outcome(PURE.are_plain, used, given_values) == outcome(templating.are_plain, used, given_values)


@pytest.mark.parametrize("twin", [PURE, templating], ids=["pure", "in use"])
def test_entries_are_text_a_value_or_segments(twin: Any) -> None:
    assert twin.fill(("a", 1, ("x", 0, "y", 1)), ["0", "1"]) == ["a", "1", "x0y1"]


@pytest.mark.parametrize("twin", [PURE, templating], ids=["pure", "in use"])
def test_only_used_values_are_judged(twin: Any) -> None:
    assert twin.are_plain((0, 2), ["a", "{", "b"]) is True
    assert twin.are_plain((1,), ["a", "x{", "b"]) is False
    assert twin.are_plain((0,), [""]) is False
