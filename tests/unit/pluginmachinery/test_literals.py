from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import pytest
from flyteidl2.core import literals_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.literals import float_text, literal_text


def primitive(**value: Any) -> pb.Literal:
    return pb.Literal(scalar=pb.Scalar(primitive=pb.Primitive(**value)))


def packed(content: bytes, tag: str = "msgpack") -> pb.Literal:
    return pb.Literal(scalar=pb.Scalar(binary=pb.Binary(value=content, tag=tag)))


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (primitive(integer=-(2**63)), "-9223372036854775808"),
        (primitive(boolean=True), "true"),
        (primitive(boolean=False), "false"),
        (primitive(string_value=""), ""),
        (primitive(string_value="{{.input}}"), "{{.input}}"),
        (primitive(datetime=Timestamp(seconds=1700175835, nanos=123000000)), "2023-11-16T23:03:55.123Z"),
        (primitive(datetime=Timestamp(seconds=-1)), "1969-12-31T23:59:59Z"),
        (primitive(datetime=Timestamp(seconds=-1, nanos=1)), "1969-12-31T23:59:59.000000001Z"),
        (primitive(datetime=Timestamp(seconds=-62135596800)), "0001-01-01T00:00:00Z"),
        (primitive(duration=Duration(seconds=90)), "seconds:90"),
        (primitive(duration=Duration(nanos=-5)), "nanos:-5"),
        (primitive(duration=Duration(seconds=1, nanos=5)), "seconds:1 nanos:5"),
        (primitive(duration=Duration()), ""),
        (pb.Literal(scalar=pb.Scalar(blob=pb.Blob(uri="s3://b/x"))), "s3://b/x"),
        (pb.Literal(scalar=pb.Scalar(schema=pb.Schema(uri="s3://b/s"))), "s3://b/s"),
        (pb.Literal(collection=pb.LiteralCollection()), "[]"),
        (
            pb.Literal(
                collection=pb.LiteralCollection(
                    literals=[
                        primitive(integer=1),
                        pb.Literal(collection=pb.LiteralCollection(literals=[primitive(string_value="a,b")])),
                    ]
                )
            ),
            "[1,[a,b]]",
        ),
    ],
)
def test_text_of_a_literal(literal: pb.Literal, text: str) -> None:
    assert literal_text(literal) == text


@pytest.mark.parametrize(
    ("literal", "problem"),
    [
        (pb.Literal(), "received an unexpected primitive type [<nil>]"),
        (pb.Literal(map=pb.LiteralMap()), "received an unexpected primitive type [*core.Literal_Map]"),
        (
            pb.Literal(offloaded_metadata=pb.LiteralOffloadedMetadata()),
            "received an unexpected primitive type [*core.Literal_OffloadedMetadata]",
        ),
        (primitive(), "received an unexpected primitive type [<nil>]"),
        (pb.Literal(scalar=pb.Scalar()), "received an unexpected scalar type [<nil>]"),
        (
            pb.Literal(scalar=pb.Scalar(none_type=pb.Void())),
            "received an unexpected scalar type [*core.Scalar_NoneType]",
        ),
        (
            pb.Literal(scalar=pb.Scalar(structured_dataset=pb.StructuredDataset())),
            "received an unexpected scalar type [*core.Scalar_StructuredDataset]",
        ),
        (pb.Literal(scalar=pb.Scalar(union=pb.Union())), "received an unexpected scalar type [*core.Scalar_Union]"),
        (packed(b"\x01", tag="json"), "unsupported binary tag [json]"),
        (
            pb.Literal(collection=pb.LiteralCollection(literals=[pb.Literal()])),
            "received an unexpected primitive type [<nil>]",
        ),
    ],
)
def test_a_literal_without_a_text_is_an_error(literal: pb.Literal, problem: str) -> None:
    with pytest.raises(PermanentError) as raised:
        literal_text(literal)
    assert (raised.value.code, raised.value.message) == ("", problem)


def test_a_time_beyond_the_calendar_is_an_error() -> None:
    with pytest.raises(PermanentError, match="outside the years 1 to 9999"):
        literal_text(primitive(datetime=Timestamp(seconds=2**62)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.5, "3.5"),
        (3.0, "3"),
        (123456.0, "123456"),
        (999999.5, "999999.5"),
        (1e6, "1e+06"),
        (123456789.125, "1.23456789125e+08"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-2.5e-5, "-2.5e-05"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (0.0, "0"),
        (-0.0, "-0"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_text_of_a_float(value: float, text: str) -> None:
    assert float_text(value) == text


@given(st.floats(allow_nan=False))
def test_a_float_reads_back(value: float) -> None:
    text = float_text(value)
    assert float(text) == value
    if math.isfinite(value):
        assert len(text.lstrip("-").partition("e")[0].replace(".", "").strip("0")) <= 17
        assert ("e" in text) == (value != 0 and not 1e-4 <= abs(value) < 1e6)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_32_bit_float_has_no_more_digits_than_it_needs(value: float) -> None:
    text = literal_text(packed(b"\xca" + struct.pack(">f", value)))
    assert struct.pack(">f", float(text)) == struct.pack(">f", value)
    assert len(text.lstrip("-").partition("e")[0].replace(".", "").strip("0")) <= 9


def test_a_64_bit_float_keeps_its_digits_where_a_32_bit_one_has_fewer() -> None:
    assert literal_text(packed(b"\xca" + struct.pack(">f", 0.1))) == "0.1"
    assert literal_text(packed(b"\xcb" + struct.pack(">d", 0.1))) == "0.1"
    assert literal_text(packed(b"\xcb" + struct.pack(">d", struct.unpack(">f", struct.pack(">f", 0.1))[0]))) == (
        "0.10000000149011612"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "<nil>"),
        (True, "true"),
        ("a b", "a b"),
        (b"\x01\x02", "[1 2]"),
        ([1, -33, "x", 2**63, -(2**40)], "[1 -33 x 9223372036854775808 -1099511627776]"),
        ({"b": [1.5], "a": {"y": None, "x": False}}, "map[a:map[x:false y:<nil>] b:[1.5]]"),
        ({10: "a", 9: "b"}, "map[9:b 10:a]"),
        (["x" * 300, list(range(20))], f"[{'x' * 300} [{' '.join(map(str, range(20)))}]]"),
        ([], "[]"),
        ({}, "map[]"),
    ],
)
def test_text_of_messagepack(value: object, text: str) -> None:
    assert literal_text(packed(msgspec.msgpack.encode(value))) == text


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_like)
def test_any_messagepack_has_a_text_with_all_its_parts(value: object) -> None:
    def expected(part: Any) -> str:
        match part:
            case None:
                return "<nil>"
            case bool():
                return str(part).lower()
            case bytes():
                return f"[{' '.join(map(str, part))}]"
            case list():
                return f"[{' '.join(map(expected, part))}]"
            case dict():
                return f"map[{' '.join(f'{key}:{expected(part[key])}' for key in sorted(part))}]"
            case _:
                return str(part)

    assert literal_text(packed(msgspec.msgpack.encode(value))) == expected(value)


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\xd9\x05ab", b"\xdd\xff\xff\xff\xff", b"\xc7\x01\x01\x01", b"\x91" * 500]
)
def test_broken_messagepack_is_an_error(content: bytes) -> None:
    with pytest.raises(PermanentError, match=r"^failed to unmarshal messagepack bytes with literal:\["):
        literal_text(packed(content))


@given(st.binary())
def test_any_bytes_have_a_text_or_are_an_error(content: bytes) -> None:
    try:
        assert isinstance(literal_text(packed(content)), str)
    except PermanentError as error:
        assert error.message.startswith("failed to unmarshal messagepack bytes")  # noqa: PT017 - one of two outcomes
