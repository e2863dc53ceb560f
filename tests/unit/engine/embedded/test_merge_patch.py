from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.embedded.merge_patch import merge

_scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2)
_names = st.text("abc", min_size=1, max_size=1)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=3), max_leaves=8
)
_objects = st.dictionaries(_names, _values, max_size=3)


def merged_as_in_the_rfc(target: Any, patch: Any) -> Any:
    """The pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged_as_in_the_rfc(result.get(name), value)
    return result


@given(_objects, _objects)
def test_a_merge_is_that_of_the_rfc(target: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge(msgspec.json.encode(target), msgspec.json.encode(patch))
    expected = merged_as_in_the_rfc(target, patch)
    assert (target if merged is None else msgspec.json.decode(merged)) == expected


@given(_objects, _objects)
def test_merging_twice_changes_nothing_more(target: dict[str, Any], patch: dict[str, Any]) -> None:
    text = msgspec.json.encode(patch)
    once = merge(msgspec.json.encode(target), text) or msgspec.json.encode(target)
    assert merge(once, text) is None


@pytest.mark.parametrize(
    ("target", "patch"),
    [(b'{"a": {"b" : 1 }}', b'{"a":{"b":1}}'), (b"{}", b'{"a":null}'), (b'{"a":[1]}', b"{}")],
)
def test_what_changes_nothing_is_known(target: bytes, patch: bytes) -> None:
    assert merge(target, patch) is None


def test_what_is_not_patched_is_kept_as_it_was_written() -> None:
    assert merge(b'{"a":1.50,"b":1e3,"c":1}', b'{"c":2}') == b'{"a":1.50,"b":1e3,"c":2}'
