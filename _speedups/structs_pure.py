"""``google.protobuf.Struct``: from its wire bytes to JSON values, and nothing in between.

The definition of ``structs.pyx``. Reads what the protobuf runtime reads: unknown fields are
skipped, a later value of a key replaces an earlier one, parts of one message are merged. Numbers are
floats. Beyond the runtime it refuses what JSON can not say: a value of no kind, NaN and infinities.
"""

from __future__ import annotations

import struct
from typing import Any, Final

MAX_DEPTH: Final = 96
"""Levels of structs and lists (and of unknown groups) inside each other."""

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_NULL, _NUMBER, _STRING, _BOOL, _STRUCT, _LIST = range(1, 7)
_UNSET: Final[Any] = object()


class StructError(ValueError):
    """Bytes are no Struct that JSON could say; the message names the byte."""


def to_value(data: bytes) -> dict[str, Any]:
    """The JSON object of a serialised ``google.protobuf.Struct``.

    Raises:
        StructError: the bytes are truncated or malformed, a text is not UTF-8, something is nested deeper
            than ``MAX_DEPTH``, or a value can not be written as JSON.
    """
    fields: dict[str, Any] = {}
    _struct(data, 0, len(data), 1, fields)
    return fields


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end:
            raise StructError(f"byte {at}: truncated")
        byte = data[at]
        at += 1
        if shift == 63 and byte > 1:
            raise StructError(f"byte {at - 1}: a number is longer than 64 bits")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _tag(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    value, after = _varint(data, at, end)
    if value >> 32 or not value >> 3 or after - at > 5:
        raise StructError(f"byte {at}: no such field")
    return value >> 3, value & 7, after


def _length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Begin and end of a length-delimited field."""
    size, after = _varint(data, at, end)
    if size > end - after:
        raise StructError(f"byte {at}: truncated, {size} bytes announced and {end - after} there")
    return after, after + size


def _text(data: bytes, at: int, end: int) -> str:
    try:
        return data[at:end].decode()
    except UnicodeDecodeError:
        raise StructError(f"byte {at}: text is not UTF-8") from None


def _skip(data: bytes, at: int, end: int, field: int, kind: int, depth: int) -> int:
    """The byte after a field that nobody knows."""
    if kind == _VARINT:
        return _varint(data, at, end)[1]
    if kind == _BYTES:
        return _length(data, at, end)[1]
    if kind in (_FIXED64, _FIXED32):
        size = 8 if kind == _FIXED64 else 4
        if end - at < size:
            raise StructError(f"byte {at}: truncated")
        return at + size
    if kind != _GROUP:
        raise StructError(f"byte {at}: no such wire type")
    if depth > MAX_DEPTH:
        raise StructError(f"byte {at}: nested deeper than {MAX_DEPTH}")
    while True:
        inner, inner_kind, at = _tag(data, at, end)
        if inner_kind == _END_GROUP:
            if inner != field:
                raise StructError(f"byte {at}: a group ends that never began")
            return at
        at = _skip(data, at, end, inner, inner_kind, depth + 1)


def _struct(data: bytes, at: int, end: int, depth: int, fields: dict[str, Any]) -> None:
    if depth > MAX_DEPTH:
        raise StructError(f"byte {at}: nested deeper than {MAX_DEPTH}")
    while at < end:
        field, kind, at = _tag(data, at, end)
        if field == 1 and kind == _BYTES:
            begin, at = _length(data, at, end)
            _entry(data, begin, at, depth, fields)
        else:
            at = _skip(data, at, end, field, kind, depth)


def _entry(data: bytes, at: int, end: int, depth: int, fields: dict[str, Any]) -> None:
    key = ""
    value = _UNSET
    while at < end:
        field, kind, at = _tag(data, at, end)
        if field == 1 and kind == _BYTES:
            begin, at = _length(data, at, end)
            key = _text(data, begin, at)
        elif field == 2 and kind == _BYTES:
            begin, at = _length(data, at, end)
            value = _value(data, begin, at, depth, value)
        else:
            at = _skip(data, at, end, field, kind, depth)
    if value is _UNSET:
        raise StructError(f"byte {at}: key '{key[:80]}' has no value")
    fields[key] = value


def _value(data: bytes, at: int, end: int, depth: int, value: Any) -> Any:
    """The value after one more ``Value`` message; parts of a struct or list join what is there."""
    while at < end:
        field, kind, at = _tag(data, at, end)
        if field == _STRING and kind == _BYTES:
            begin, at = _length(data, at, end)
            value = _text(data, begin, at)
        elif field == _NUMBER and kind == _FIXED64:
            if end - at < 8:
                raise StructError(f"byte {at}: truncated")
            value = struct.unpack_from("<d", data, at)[0]
            if not value - value == 0:
                raise StructError(f"byte {at}: {value} is no JSON number")
            at += 8
        elif field == _STRUCT and kind == _BYTES:
            begin, at = _length(data, at, end)
            if not isinstance(value, dict):
                value = {}
            _struct(data, begin, at, depth + 1, value)
        elif field == _LIST and kind == _BYTES:
            begin, at = _length(data, at, end)
            if not isinstance(value, list):
                value = []
            _list(data, begin, at, depth + 1, value)
        elif field == _BOOL and kind == _VARINT:
            number, at = _varint(data, at, end)
            value = number != 0
        elif field == _NULL and kind == _VARINT:
            at = _varint(data, at, end)[1]
            value = None
        else:
            at = _skip(data, at, end, field, kind, depth)
    return value


def _list(data: bytes, at: int, end: int, depth: int, items: list[Any]) -> None:
    if depth > MAX_DEPTH:
        raise StructError(f"byte {at}: nested deeper than {MAX_DEPTH}")
    while at < end:
        field, kind, at = _tag(data, at, end)
        if field == 1 and kind == _BYTES:
            begin, at = _length(data, at, end)
            value = _value(data, begin, at, depth, _UNSET)
            if value is _UNSET:
                raise StructError(f"byte {begin}: item {len(items)} has no value")
            items.append(value)
        else:
            at = _skip(data, at, end, field, kind, depth)
