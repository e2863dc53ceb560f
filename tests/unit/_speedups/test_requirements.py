from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import pure_twin, quantities, requirements

PURE = pure_twin("requirements")
TWINS = pytest.mark.parametrize("twin", [PURE, requirements], ids=["pure", "in use"])

names = st.sampled_from(["cpu", "memory", "gpu", "disk", "other"])
amounts = st.dictionaries(names, st.sampled_from(["0", "1", "500m", "2Gi", "1500M", "1000m", "x", ""]), max_size=4)


def outcome(twin: Any, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "value", twin.resolve(*copy.deepcopy(arguments))
    except ValueError as error:
        return type(error).__name__, str(error)


@given(st.tuples(amounts, amounts, amounts, amounts, st.frozensets(names), st.booleans()))
def test_twins_resolve_alike(arguments: tuple[Any, ...]) -> None:
    assert outcome(PURE, arguments) == outcome(requirements, arguments)


@TWINS
def test_values_and_printed_forms_are_those_of_quantities(twin: Any) -> None:
    for text in ("1000m", "2Gi", "1000m"):
        assert twin.value(text) == quantities.nanos(text)
        assert twin.printed(text) == quantities.canonical(text)


@TWINS
def test_memory_of_amounts_is_bounded(twin: Any) -> None:
    for number in range(20_000):
        assert twin.value(f"{number}n") == number
        assert twin.printed(f"{number}n") == quantities.canonical(f"{number}n")
