"""Placeholders of tasks, for any text and any value."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.placeholders import filled, secret_names
from propfan.plugins.connectors.webhook.connector import _url

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
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
        assert "{inputs." in str(error)  # noqa: PT017
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


@given(st.text(max_size=20), st.sampled_from(["http://", "https://"]))
def test_a_url_means_the_same_host_wherever_it_is_read(rest: str, scheme: str) -> None:
    """The host that a secret is checked for is the one that is asked."""
    try:
        url = _url(scheme + rest)
    except BadTaskSpecificationError:
        return
    assert URL(str(url)).raw_host == url.raw_host
    assert URL(str(url)).explicit_port == url.explicit_port
