"""Selectors in the grammar of the API."""

from __future__ import annotations

import pytest

from propfan.engine import labels
from propfan.engine.cluster import LabelSelector
from propfan.pluginmachinery.errors import BadRequestError


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (None, ""),
        ({}, ""),
        ({"b": "2", "a.org/x": "1"}, "a.org/x=1,b=2"),
        ({"a": ["3", "1", "1"]}, "a in (1,3)"),
        ({"a": {"1"}}, "a=1"),
        ({"a": ""}, "a="),
        ({"a": ["", "b"]}, "a in (,b)"),
        ({"a": (), "b": "1"}, "a,!a,b=1"),
    ],
    ids=str,
)
def test_a_selector_has_one_text(selector: LabelSelector | None, text: str) -> None:
    assert labels.as_text(selector) == text


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        ({"a": "1,b=2"}, "a: '1,b=2' is not the value of a label"),
        ({"a": ["1", "x" * 64]}, f"a: '{'x' * 64}' is not the value of a label"),
        ({"a b": "1"}, "'a b' is not the key of a label"),
        ({"A.org/x": "1"}, "'A.org/x' is not the key of a label"),
    ],
    ids=str,
)
def test_what_could_end_a_requirement_is_refused(selector: LabelSelector, problem: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        labels.as_text(selector)
    assert caught.value.problem == problem
