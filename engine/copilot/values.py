"""A simple value as the text of a file, and back, as Flyte's co-pilot writes and reads them."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError as ProtobufDecodeError

_SIMPLE: Final = types_pb2.SimpleType

_PYTHON_DURATION: Final = re.compile(r"(?:(-?\d+) days?, )?(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")
_GO_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})


class ValueProblemError(Exception):
    """Text that is no value of its type."""


def to_text(scalar: literals_pb2.Scalar) -> bytes:
    """What is written into a value's file; the content of one of bytes, JSON of a structure."""
    match scalar.WhichOneof("value"):
        case "primitive":
            return _of_primitive(scalar.primitive).encode()
        case "binary":
            return bytes(scalar.binary.value)
        case "generic":
            return json_format.MessageToJson(scalar.generic, indent=None, sort_keys=True).encode()
        case "union":
            return to_text(scalar.union.value.scalar)
        case "none_type":
            return b"null"
        case kind:
            raise ValueProblemError(f"a value of kind {kind} can not be written to a file")


def _of_primitive(value: literals_pb2.Primitive) -> str:
    match value.WhichOneof("value"):
        case "integer":
            return str(value.integer)
        case "float_value":
            return _of_float(value.float_value)
        case "boolean":
            return "true" if value.boolean else "false"
        case "datetime" | "duration" as name:
            return str(getattr(value, name).ToJsonString())
        case _:
            return value.string_value


def _of_float(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
    text = format(value, "f") if value == int(value) else repr(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def from_text(content: bytes, kind: int) -> literals_pb2.Scalar:
    """The value of a simple type that a file has. Blanks around it do not count, but in strings and bytes.

    Raises:
        ValueProblemError: it is none.
    """
    scalar = literals_pb2.Scalar()
    if kind == _SIMPLE.BINARY:
        scalar.binary.value = content
        return scalar
    try:
        text = content.decode()
        if kind == _SIMPLE.STRING:
            scalar.primitive.string_value = text
        else:
            _read(scalar, text.strip(), kind)
    except (ValueError, OverflowError, ProtobufDecodeError, json_format.ParseError) as error:
        raise ValueProblemError(f"is no {_SIMPLE.Name(kind).lower()}: {error}") from error
    return scalar


def _read(scalar: literals_pb2.Scalar, text: str, kind: int) -> None:
    primitive = scalar.primitive
    match kind:
        case _SIMPLE.INTEGER:
            primitive.integer = int(text)
        case _SIMPLE.FLOAT:
            primitive.float_value = float(text)
        case _SIMPLE.BOOLEAN:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError(repr(text))
            primitive.boolean = text.lower() in _TRUE
        case _SIMPLE.DATETIME:
            when = datetime.fromisoformat(text)
            primitive.datetime.FromDatetime(when if when.tzinfo is not None else when.replace(tzinfo=UTC))
        case _SIMPLE.DURATION:
            primitive.duration.FromTimedelta(_duration(text))
        case _SIMPLE.STRUCT:
            json_format.ParseDict(json.loads(text), scalar.generic)
        case _SIMPLE.NONE:
            scalar.none_type.SetInParent()
        case _:
            raise ValueError(f"type {kind} is not supported in files")


def _duration(text: str) -> timedelta:
    """As Go writes it (``1h2m3.5s``), or as Python does (``1 day, 1:02:03.5``)."""
    if found := _PYTHON_DURATION.fullmatch(text):
        days, hours, minutes, seconds = found.groups()
        return timedelta(days=int(days or 0), hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    parts = _GO_DURATION.findall(text)
    sign, bare = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if bare == "0":
        return timedelta()
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        raise ValueError(repr(text))
    return sign * timedelta(seconds=sum(float(number) * _UNITS_S[unit] for number, unit in parts))
