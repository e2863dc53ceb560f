from __future__ import annotations

import pickle
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import pure_twin, structs

PURE = pure_twin("structs")
TWINS = pytest.mark.parametrize("twin", [PURE, structs], ids=["pure", "in use"])

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), json_values, max_size=5)


def serialised(value: dict[str, Any]) -> bytes:
    message = struct_pb2.Struct()
    json_format.ParseDict(value, message)
    return message.SerializeToString()


def nested(depth: int) -> bytes:
    """A struct ``{"": {"": ...}}`` of that many levels."""
    content = b""
    for _ in range(depth):
        value = b"\x2a" + length(content) + content
        entry = b"\x12" + length(value) + value
        content = b"\x0a" + length(entry) + entry
    return content


def length(content: bytes) -> bytes:
    size, out = len(content), b""
    while size >= 0x80:
        out += bytes([size & 0x7F | 0x80])
        size >>= 7
    return out + bytes([size])


def outcome(function: Any, data: bytes) -> tuple[str, Any]:
    try:
        return "value", function(data)
    except ValueError as error:
        return type(error).__name__, str(error)


@given(objects)
def test_struct_reads_as_the_protobuf_runtime_reads_it(value: dict[str, Any]) -> None:
    data = serialised(value)
    message = struct_pb2.Struct.FromString(data)
    expected = json_format.MessageToDict(message)
    assert structs.to_value(data) == PURE.to_value(data) == expected == value


@given(objects, st.data())
def test_twins_agree_on_broken_bytes(value: dict[str, Any], data: st.DataObject) -> None:
    broken = bytearray(serialised(value))
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(broken)))])
    assert outcome(PURE.to_value, cut) == outcome(structs.to_value, cut)


@given(st.binary(max_size=200))
def test_twins_agree_on_any_bytes(data: bytes) -> None:
    assert outcome(PURE.to_value, data) == outcome(structs.to_value, data)


@TWINS
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x0a", "byte 1: truncated"),
        (b"\x0a\x05\x0a", "byte 1: truncated, 5 bytes announced and 1 there"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "byte 10: a number is longer than 64 bits"),
        (b"\x0a\x03\x0a\x01a", "byte 5: key 'a' has no value"),
        (b"\x0a\x05\x0a\x01\xff\x12\x00", "byte 4: text is not UTF-8"),
        (b"\x00\x00", "byte 0: no such field"),
        (b"\x0c", "byte 1: no such wire type"),
        (b"\x0a\x0b\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x7f", "byte 5: inf is no JSON number"),
        (b"\x0a\x06\x12\x04\x32\x02\x0a\x00", "byte 8: item 0 has no value"),
    ],
)
def test_malformed_bytes_are_refused_by_position(twin: Any, data: bytes, problem: str) -> None:
    with pytest.raises(twin.StructError) as raised:
        twin.to_value(data)
    assert str(raised.value) == problem


@TWINS
def test_nesting_is_bounded(twin: Any) -> None:
    assert twin.to_value(nested(structs.MAX_DEPTH - 1))
    with pytest.raises(twin.StructError, match="nested deeper than 96"):
        twin.to_value(nested(5000))
    with pytest.raises(twin.StructError, match="nested deeper than 96"):
        twin.to_value(b"\x1b" * 5000)


@TWINS
def test_parts_of_one_message_are_merged(twin: Any) -> None:
    left, right = serialised({"a": {"x": 1.0}}), serialised({"a": {"y": [True]}, "b": None})
    value = struct_pb2.Struct.FromString(left + right)
    assert twin.to_value(left + right) == json_format.MessageToDict(value) == {"a": {"y": [True]}, "b": None}


@TWINS
def test_errors_survive_pickle(twin: Any) -> None:
    again = pickle.loads(pickle.dumps(twin.StructError("byte 0: truncated")))
    assert type(again) is twin.StructError
    assert str(again) == "byte 0: truncated"
