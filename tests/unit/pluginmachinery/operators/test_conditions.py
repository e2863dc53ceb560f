"""Which of an object's conditions counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.operators.conditions import Condition, current, first_true, newest_first

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

times = st.none() | st.integers(0, 2).map(lambda seconds: NOON + timedelta(seconds=seconds))
condition_lists = st.lists(
    st.builds(Condition, st.sampled_from("AB"), st.sampled_from(["True", "False", "Unknown", ""]), times)
)


@given(condition_lists)
def test_the_order_keeps_all_and_goes_back_in_time(conditions: list[Condition]) -> None:
    ordered = newest_first(conditions)
    assert sorted(map(repr, ordered)) == sorted(map(repr, conditions))
    moments = [c.last_transition_time or datetime(1, 1, 1, tzinfo=UTC) for c in ordered]
    assert moments == sorted(moments, reverse=True)


def test_of_one_second_the_later_in_the_list_is_the_newer() -> None:
    first, second, unset = Condition("A", "True", NOON), Condition("B", "True", NOON), Condition("C", "True")
    assert newest_first([first, unset, second]) == (second, first, unset)
    assert current([first, second]) is second


@given(condition_lists)
def test_the_current_one_is_true_and_none_that_is_true_is_newer(conditions: list[Condition]) -> None:
    found = current(conditions)
    true = [condition for condition in newest_first(conditions) if condition.is_true]
    assert found is (true[0] if true else None)


def test_no_conditions_have_no_current_one() -> None:
    assert current(None) is None
    assert newest_first(None) == ()
    assert first_true(None, "A") is None


def test_first_true_looks_only_for_the_types_given() -> None:
    conditions = [Condition("A", "False"), Condition("B", "True"), Condition("A", "True")]
    assert first_true(conditions, "A", "C") is conditions[2]
    assert first_true(conditions, "C") is None
