from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import links, pods, pure_twin
from propfan.pluginmachinery.contexts import (
    ExecutionId,
    NodeExecutionId,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskId,
)
from tests.unit._speedups import pod_strategies

PURE: Any = pure_twin("links")
TWINS = pytest.mark.parametrize("twin", [PURE, links], ids=["pure", "in use"])

IDENTITIES = [
    None,
    TaskExecutionId("g", "n", TaskExecutionIdentifier()),
    TaskExecutionId("g", "n", TaskExecutionIdentifier(TaskId("p", "d", "t", "v", "o"), NodeExecutionId("a0"), 3)),
    TaskExecutionId(
        "g", "n", TaskExecutionIdentifier(None, NodeExecutionId("a0", ExecutionId("p", "d", "run", "o")), 3)
    ),
]
slots = st.lists(st.integers(0, links.COUNT + 1), max_size=4)
texts = st.text(alphabet="{}ab./\u00e9", max_size=4)


@given(st.data(), slots, st.lists(texts, min_size=links.COUNT, max_size=links.COUNT), st.booleans())
def test_twins_render_alike(data: Any, filled: list[int], values: list[str], has_debugger: bool) -> None:  # noqa: FBT001
    literals = data.draw(st.lists(texts, min_size=len(filled) + 1, max_size=len(filled) + 1))
    outcomes = []
    for twin in (PURE, links):
        template = twin.Template(literals, filled, ["?"] * len(filled))
        link = twin.PlainLink(
            template, template, (1, "x"), query=template, encode=str.upper, only_with_debugger=has_debugger
        )
        plain = twin.PlainLinks([link, twin.PlainLink(template, template, ())], filled, lambda *given: given)
        try:
            outcomes.append(repr(plain.render(list(values), not has_debugger)))
        except IndexError:
            outcomes.append("IndexError")
    assert outcomes[0] == outcomes[1]


@given(pod_strategies.pods, st.integers(0, 3), st.integers(0, links.ALL), st.sampled_from(IDENTITIES))
def test_twins_find_the_same_values(pod: Any, index: int, used: int, identity: TaskExecutionId | None) -> None:
    decoded = pods.decode(json.dumps(pod).encode())
    of_twins = []
    for twin in (PURE, links):
        values = twin.pod_values(decoded, index, used, pod_strategies.NOW)
        if values is not None:
            twin.add_identity(values, used, identity, str.upper)
        of_twins.append(values)
    assert of_twins[0] == of_twins[1]
    assert of_twins[0] is None or len(of_twins[0]) == links.COUNT


@TWINS
def test_times_are_whole_seconds_in_utc(twin: Any) -> None:
    when = datetime(2026, 3, 14, 17, 9, 26, 999999, tzinfo=timezone(timedelta(hours=2)))
    assert twin.rfc3339(when) == "2026-03-14T15:09:26Z"
    assert twin.unix_seconds(when) == 1773500966
    assert twin.unix_seconds(datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC)) == -1


@TWINS
def test_times_beyond_the_calendar_are_its_ends(twin: Any) -> None:
    day = timezone(timedelta(hours=23))
    assert twin.rfc3339(datetime(1, 1, 1, tzinfo=day)) == "0001-01-01T00:00:00Z"
    assert twin.rfc3339(datetime(9999, 12, 31, 12, tzinfo=timezone(-timedelta(hours=23)))) == "9999-12-31T23:59:59Z"
    assert twin.unix_seconds(datetime(1, 1, 1, tzinfo=day)) == -62135596800 - 23 * 3600


@TWINS
def test_unset_time_is_year_one(twin: Any) -> None:
    assert twin.rfc3339(None) == "0001-01-01T00:00:00Z"
    assert twin.unix_seconds(None) == -62135596800


@TWINS
@pytest.mark.parametrize(
    ("given_id", "bare"), [("containerd://1f", "1f"), ("a://b://c", "b"), ("x", "x"), ("", ""), ("a://", "")]
)
def test_container_id_is_the_second_piece(twin: Any, given_id: str, bare: str) -> None:
    assert twin.bare_container_id(given_id) == bare


@TWINS
def test_gap_outside_the_values_is_an_index_error(twin: Any) -> None:
    with pytest.raises(IndexError):
        twin.Template(["", ""], [3], ["?"]).fill(["a"])


@TWINS
def test_template_needs_a_literal_on_both_sides_of_each_gap(twin: Any) -> None:
    with pytest.raises(ValueError, match="zip"):
        twin.Template(["a"], [0], ["?"])
