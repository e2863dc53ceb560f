"""Placeholders of tasks, for any text and any value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from propfan.pluginmachinery.connector import Blob, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.placeholders import Placeholders, secret_names
from propfan.plugins.connectors.webhook.connector import _url


def filled(template: Any, inputs: Mapping[str, Any], secrets: Mapping[str, str]) -> Any:
    return Placeholders({"inputs": inputs, "secrets": secrets}).filled(template, "custom.data")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
PIECES = st.sampled_from(
    ["{", "}", "{inputs.", "{secrets.", "inputs", ".", "a", "0", "__class__", "a}", "{inputs.a}", " "]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join)


@given(TEXTS, VALUES)
def test_any_text_is_filled_or_refused_by_its_placeholder(text: str, value: Any) -> None:
    secrets = dict.fromkeys(secret_names(text), "s3cret")
    try:
        made = filled(text, {"a": value}, secrets)
    except BadTaskSpecificationError as error:
        assert "custom.data: there is no 'inputs." in str(error)  # noqa: PT017
    else:
        msgspec.json.encode(made)


@given(st.text())
def test_a_text_without_placeholders_stays_as_it_is(text: str) -> None:
    if "{inputs." not in text and "{secrets." not in text:
        assert filled(text, {}, {}) == text


@given(VALUES)
def test_a_text_that_is_one_placeholder_becomes_the_value(value: Any) -> None:
    assert filled("{inputs.a}", {"a": value}, {}) == value
    assert filled({"k": ["{inputs.a}"]}, {"a": value}, {}) == {"k": [value]}


@given(TEXTS)
def test_what_inputs_and_secrets_hold_is_not_filled_again(text: str) -> None:
    assert filled("x{inputs.a}{secrets.b}", {"a": text}, {"b": text}) == f"x{text}{text}"


@pytest.mark.parametrize(
    ("value", "as_json", "as_it_is", "text"),
    [
        (Blob("s3://b/x"), "s3://b/x", "s3://b/x", "s3://b/x"),
        ([Dataset("bq://p:d.t")], ["bq://p:d.t"], ["bq://p:d.t"], '["bq://p:d.t"]'),
        (timedelta(minutes=1), 60.0, 60.0, "60.0"),
        (NOON, "2030-01-31T12:00:00+00:00", NOON, "2030-01-31T12:00:00+00:00"),
        ({"b": b"ab"}, {"b": "YWI="}, {"b": b"ab"}, '{"b":"YWI="}'),
    ],
)
def test_times_and_bytes_stay_where_the_receiver_has_such(value: Any, as_json: Any, as_it_is: Any, text: str) -> None:
    kinds = {"images": {"a": value}}
    for placeholders, whole in ((Placeholders(kinds), as_json), (Placeholders(kinds, is_json=False), as_it_is)):
        assert placeholders.filled("{images.a}", "") == whole
        assert placeholders.filled("is {images.a}, not {inputs.a}", "") == f"is {text}, not {{inputs.a}}"


def test_a_name_with_dots_goes_before_a_way_down() -> None:
    placeholders = Placeholders({"images": {"a.b": 1, "a": {"b": 2, "c": [3]}}})
    assert placeholders.filled(["{images.a.b}", "{images.a.c.0}"], "") == [1, 3]


def test_what_placeholders_stand_for_is_not_shown() -> None:
    assert "s3cret" not in repr(Placeholders({"secrets": {"a": "s3cret"}}))


@given(st.text(max_size=20), st.sampled_from(["http://", "https://"]))
def test_a_url_means_the_same_host_wherever_it_is_read(rest: str, scheme: str) -> None:
    """The host that a secret is checked for is the one that is asked."""
    try:
        url = _url(scheme + rest)
    except BadTaskSpecificationError:
        return
    assert URL(str(url)).raw_host == url.raw_host
    assert URL(str(url)).explicit_port == url.explicit_port
