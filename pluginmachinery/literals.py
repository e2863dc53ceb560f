"""Literals as the text that stands for them in a command line.

The forms are those of Flyte's other executors, so that a command reads the same wherever it runs.
"""

from __future__ import annotations

import math
import struct
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from propfan.pluginmachinery.errors import PermanentError

if TYPE_CHECKING:
    from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

MSGPACK_TAG: Final = "msgpack"
"""``core.Binary.tag`` of a value that is MessagePack."""

MAX_NESTING: Final = 100
"""Depth of a MessagePack value; protobuf sets as much for literals."""

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - only its date and time of day are printed
_NANOS_PER_S: Final = 1_000_000_000


def literal_text(literal: Literal) -> str:
    """What is inserted for one input.

    Raises:
        PermanentError: a literal of this kind has no text; without a code.
    """
    match literal.WhichOneof("value"):
        case "scalar":
            return _scalar_text(literal.scalar)
        case "collection":
            return f"[{','.join(map(literal_text, literal.collection.literals))}]"
        case kind:
            raise _unexpected("primitive", "Literal", kind)


def float_text(value: float) -> str:
    """The fewest digits that read back as ``value``; with an exponent below 1e-4 and from 1e6 on."""
    return _number_text(value, repr(value))


def _scalar_text(scalar: Scalar) -> str:
    match scalar.WhichOneof("value"):
        case "primitive":
            return _primitive_text(scalar.primitive)
        case "blob":
            return scalar.blob.uri
        case "schema":
            return scalar.schema.uri
        case "binary" if scalar.binary.tag == MSGPACK_TAG:
            return _msgpack_text(scalar.binary.value)
        case "binary":
            raise PermanentError("", f"unsupported binary tag [{scalar.binary.tag}]")
        case kind:
            raise _unexpected("scalar", "Scalar", kind)


def _primitive_text(primitive: Primitive) -> str:
    match primitive.WhichOneof("value"):
        case "integer":
            return str(primitive.integer)
        case "float_value":
            return float_text(primitive.float_value)
        case "string_value":
            return primitive.string_value
        case "boolean":
            return "true" if primitive.boolean else "false"
        case "datetime":
            return _datetime_text(primitive.datetime)
        case "duration":
            return _duration_text(primitive.duration)
        case kind:
            raise _unexpected("primitive", "Primitive", kind)


def _unexpected(what: str, message: str, field: str | None) -> PermanentError:
    shown = f"*core.{message}_{''.join(part.capitalize() for part in field.split('_'))}" if field else "<nil>"
    return PermanentError("", f"received an unexpected {what} type [{shown}]")


def _datetime_text(timestamp: Timestamp) -> str:
    carried_s, nanos = divmod(timestamp.nanos, _NANOS_PER_S)
    try:
        moment = _EPOCH + timedelta(seconds=timestamp.seconds + carried_s)
    except OverflowError:
        raise PermanentError("", f"datetime of {timestamp.seconds} s is outside the years 1 to 9999") from None
    fraction = f".{nanos:09}".rstrip("0") if nanos else ""
    return f"{moment.isoformat()}{fraction}Z"


def _duration_text(duration: Duration) -> str:
    parts = (("seconds", duration.seconds), ("nanos", duration.nanos))
    return " ".join(f"{name}:{value}" for name, value in parts if value)


def _number_text(value: float, shortest: str) -> str:
    """``shortest``, in whatever notation, in the notation wanted."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    mantissa, _, exponent = shortest.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return f"{sign}0"
    # The decimal exponent of the first digit, as in d.ddd * 10**point.
    point = len(digits) - len(fraction) - 1 + int(exponent or 0)
    digits = digits.rstrip("0")
    if not -4 <= point < 6:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{'-' if point < 0 else '+'}{abs(point):02}"
    if point < 0:
        return f"{sign}0.{'0' * (-point - 1)}{digits}"
    if len(digits) <= point + 1:
        return f"{sign}{digits.ljust(point + 1, '0')}"
    return f"{sign}{digits[: point + 1]}.{digits[point + 1 :]}"


def _float32_text(value: float) -> str:
    if not math.isfinite(value):
        return _number_text(value, "")
    # Nine significant digits always read back as the same 32-bit float.
    candidates = (f"{value:.{digits}e}" for digits in range(9))
    return _number_text(value, next(text for text in candidates if _as_float32(float(text)) == value))


def _as_float32(value: float) -> float:
    try:
        return float(struct.unpack(">f", struct.pack(">f", value))[0])
    except OverflowError:
        return math.inf


def _msgpack_text(content: bytes) -> str:
    try:
        return _Unpacker(content).text(0)
    except (ValueError, IndexError, struct.error) as error:
        raise PermanentError(
            "", f"failed to unmarshal messagepack bytes with literal:[{len(content)} bytes], err:[{error}]"
        ) from error


class _Unpacker:
    """Reads MessagePack straight into text.

    A decoder that yields Python values would lose which floats had 32 bits.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def text(self, depth: int) -> str:
        return self._value(depth)[1]

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._content):
            raise ValueError("unexpected end of the value")
        taken = self._content[self._at : end]
        self._at = end
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(">" + form, self._take(struct.calcsize(form)))[0]

    def _value(self, depth: int) -> tuple[Any, str]:
        """A key to sort by among values of a map's keys, and the text."""
        if depth > MAX_NESTING:
            raise ValueError(f"more than {MAX_NESTING} levels")
        code = self._take(1)[0]
        if code <= 0x7F:
            return _of_number(code)
        if code >= 0xE0:
            return _of_number(code - 0x100)
        if code <= 0x8F:
            return self._map(code & 0x0F, depth)
        if code <= 0x9F:
            return self._list(code & 0x0F, depth)
        if code <= 0xBF:
            return self._string(code & 0x1F)
        match code:
            case 0xC0:
                return (0, 0), "<nil>"
            case 0xC2 | 0xC3:
                return (1, code), "true" if code == 0xC3 else "false"
            case 0xC4 | 0xC5 | 0xC6:
                content = self._take(self._number("BHI"[code - 0xC4]))
                return (4, content), f"[{' '.join(map(str, content))}]"
            case 0xCA:
                value = self._number("f")
                return (2, value), _float32_text(value)
            case 0xCB:
                value = self._number("d")
                return (2, value), float_text(value)
            case 0xD9 | 0xDA | 0xDB:
                return self._string(self._number("BHI"[code - 0xD9]))
            case 0xDC | 0xDD:
                return self._list(self._number("HI"[code - 0xDC]), depth)
            case 0xDE | 0xDF:
                return self._map(self._number("HI"[code - 0xDE]), depth)
            case _ if 0xCC <= code <= 0xD3:
                return _of_number(self._number("BHIQbhiq"[code - 0xCC]))
        raise ValueError(f"byte 0x{code:02x} starts no value that has a text")

    def _string(self, size: int) -> tuple[Any, str]:
        text = self._take(size).decode("utf-8", "replace")
        return (3, text), text

    def _list(self, count: int, depth: int) -> tuple[Any, str]:
        text = f"[{' '.join(self._value(depth + 1)[1] for _ in range(self._bounded(count)))}]"
        return (5, text), text

    def _map(self, count: int, depth: int) -> tuple[Any, str]:
        entries: dict[Any, tuple[str, str]] = {}
        for _ in range(self._bounded(count)):
            key, key_text = self._value(depth + 1)
            entries[key] = key_text, self._value(depth + 1)[1]
        text = f"map[{' '.join(f'{k}:{v}' for _, (k, v) in sorted(entries.items()))}]"
        return (5, text), text

    def _bounded(self, count: int) -> int:
        """Each element takes a byte at least, so that no short value claims a million of them."""
        if count > len(self._content) - self._at:
            raise ValueError("unexpected end of the value")
        return count


def _of_number(value: int) -> tuple[Any, str]:
    return (2, value), str(value)
