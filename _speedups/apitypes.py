"""Kubernetes API objects as JSON dicts: decoded, merged and written as the API's Go types would.

A *written form* is what ``encoding/json`` prints for the typed object: no nulls, no empty lists and maps,
no zero scalars except behind pointers, and every required field. `decode` brings any JSON value into it,
`overlay` merges two of them. Neither changes its arguments; results share what did not change, so treat all
of these dicts as frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from propfan._speedups import quantities

STRING, BOOL, INT32, INT64, QUANTITY, INT_OR_STRING, STRUCT, EMBEDDED = 0, 1, 2, 3, 4, 5, 6, 7
LIST, MAP = 16, 32

_SCALARS = {"s": STRING, "b": BOOL, "i": INT32, "I": INT64, "q": QUANTITY, "p": INT_OR_STRING}
_NAMES = ("a string", "a bool", "a 32-bit integer", "a 64-bit integer", "a quantity", "an integer or a string")


_LARGE = 10**40
"""No number of the API comes near it; larger ones are not even printed."""


class MismatchError(ValueError):
    """A value is not what its field's type says.

    Attributes:
        path: From the decoded value to the field, e.g. ``containers[0].name``.
        problem: What is needed there and what was found.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem

    def within(self, parent: str) -> MismatchError:
        """The same error as seen from ``parent``."""
        separator = "" if not self.path or self.path[0] == "[" else "."
        return MismatchError(f"{parent}{separator}{self.path}", self.problem)


class Field:
    """One field: its name, kind, the type of its struct, and when a zero is written."""

    def __init__(self, name: str, kind: int, *, is_pointer: bool, is_required: bool) -> None:
        self.name = name
        self.kind = kind
        self.is_pointer = is_pointer
        self.is_required = is_required
        self.type: StructType | None = None


class StructType:
    """One struct of the API."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[str, Field] = {}
        self.folded: dict[str, Field] = {}
        self.required: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        return f"StructType({self.name!r})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"{self!r} is a description, not data")


def compile_types(table: str) -> dict[str, StructType]:
    """The types of a table whose lines are ``Name field:kind ...``; indented lines go on."""
    types: dict[str, StructType] = {}
    owners: list[tuple[Field, str]] = []
    current = StructType("")
    for line in table.splitlines():
        words = line.split()
        if words and not line.startswith(" "):
            current = types[words[0]] = StructType(words[0])
            words = words[1:]
        for word in words:
            name, _, kind = word.partition(":")
            field, owner = _field(name, kind)
            current.fields[name] = current.folded[name.lower()] = field
            if owner:
                owners.append((field, owner))
    for field, owner in owners:
        field.type = types[owner]
    for kept in types.values():
        kept.required = tuple((f.name, _zero(f)) for f in kept.fields.values() if f.is_required)
    return types


def _field(name: str, written: str) -> tuple[Field, str]:
    """The field, and the name of its struct."""
    is_required = written.endswith("!") or written.startswith("=")
    is_pointer = written.startswith("?")
    core = written.strip("!?=")
    container = LIST if core.startswith("[") else MAP if core.startswith("{") else 0
    core = core.strip("[]{}")
    if core in _SCALARS:
        return Field(name, _SCALARS[core] + container, is_pointer=is_pointer, is_required=is_required), ""
    kind = EMBEDDED if written.startswith("=") else STRUCT
    return Field(name, kind + container, is_pointer=is_pointer, is_required=is_required), core


def _zero(field: Field) -> Any:
    """What is written for a required field that nobody set."""
    if field.kind == EMBEDDED and field.type is not None:
        return {inner.name: _zero(inner) for inner in field.type.fields.values() if inner.is_required}
    if field.kind >= STRUCT or field.is_pointer:
        return None
    return ("", False, 0, 0, "0", 0)[field.kind]


def decode(value: Any, struct: StructType) -> dict[str, Any]:
    """The written form of a JSON value, read by Go's rules.

    Keys are matched in any case, unknown ones dropped; null is absent; a whole-number float is an integer.

    Raises:
        MismatchError: a value has another type, an integer does not fit, or a quantity is none.
    """
    if not isinstance(value, dict):
        raise MismatchError("", f"an object is needed for {struct.name}, found {_found(value)}")
    fields = struct.fields
    values: dict[str, Any] = value
    out: dict[str, Any] = {}
    for key, item in values.items():
        field = fields.get(key)
        if field is None:
            if key.lower() in struct.folded:
                return _decode_folded(values, struct)
        elif item is not None:
            found = _decode_field(item, field)
            if found is not None:
                out[key] = found
    for key, item in struct.required:
        if key not in out:
            out[key] = item
    return out


def _decode_folded(value: dict[str, Any], struct: StructType) -> dict[str, Any]:
    """`decode` of an object with keys in another case; of keys that are the same the last one counts."""
    exact = {}
    for key in sorted(value):
        field = struct.fields.get(key) or struct.folded.get(key.lower())
        if field is not None and value[key] is not None:
            exact[field.name] = value[key]
    return decode(exact, struct)


def _decode_field(item: Any, field: Field) -> Any:
    """The field's value, ``None`` where nothing is written."""
    try:
        return _decode_any(item, field)
    except MismatchError as mismatch:
        raise mismatch.within(field.name) from None


def _decode_any(item: Any, field: Field) -> Any:
    kind = field.kind
    if kind == STRING and isinstance(item, str):
        return item if item or field.is_pointer or field.is_required else None
    if kind < LIST:
        found = _decode_scalar(item, kind, field.type)
        if found or field.is_pointer or field.is_required or kind == STRUCT:
            return found
        return None
    if kind < MAP:
        kind -= LIST
        if not isinstance(item, list):
            raise MismatchError("", f"a list is needed, found {_found(item)}")
        items: list[Any] = item
        decoded: list[Any] = []
        for inner in items:
            if kind == STRING and isinstance(inner, str):
                decoded.append(inner)
            else:
                decoded.append(_decode_item(inner, kind, field.type, len(decoded)))
        return decoded or None
    kind -= MAP
    if not isinstance(item, dict):
        raise MismatchError("", f"an object is needed, found {_found(item)}")
    values: dict[str, Any] = item
    entries: dict[str, Any] = {}
    for key, inner in values.items():
        if kind == STRING and isinstance(inner, str):
            entries[key] = inner
        elif inner is None:
            entries[key] = "" if kind == STRING else "0"
        else:
            try:
                entries[key] = _decode_scalar(inner, kind, field.type)
            except MismatchError as mismatch:
                raise mismatch.within(f"[{key}]") from None
    return entries or None


def _decode_item(item: Any, kind: int, struct: StructType | None, index: int) -> Any:
    try:
        if item is None:
            item = {} if struct is not None else "" if kind == STRING else 0
        return _decode_scalar(item, kind, struct)
    except MismatchError as mismatch:
        raise mismatch.within(f"[{index}]") from None


def _decode_scalar(item: Any, kind: int, struct: StructType | None) -> Any:
    if struct is not None:
        return decode(item, struct)
    if kind == STRING:
        if isinstance(item, str):
            return item
    elif kind == BOOL:
        if isinstance(item, bool):
            return item
    elif kind == QUANTITY:
        return _decode_quantity(item)
    elif kind == INT_OR_STRING and isinstance(item, str):
        return item
    elif type(item) is int or (type(item) is float and -(2.0**63) <= item < 2.0**63):
        number = int(item)
        if number == item and _fits(number, kind):
            return number
        shown = repr(item) if abs(item) < _LARGE else "a larger one"
        raise MismatchError("", f"{_NAMES[kind]} is needed, found {shown}")
    raise MismatchError("", f"{_NAMES[kind]} is needed, found {_found(item)}")


def _fits(number: int, kind: int) -> bool:
    if kind == INT64:
        return -(2**63) <= number < 2**63
    return -(2**31) <= number < 2**31


def _decode_quantity(item: Any) -> str:
    if isinstance(item, str):
        text = item.strip()
    elif type(item) is float or (type(item) is int and abs(item) < _LARGE):
        text = _number_text(item)
    else:
        raise MismatchError("", f"a quantity is needed, found {_found(item)}")
    try:
        return quantities.settled(text)
    except quantities.QuantityError as error:
        raise MismatchError("", f"{text[:80]!r}: {error}") from None


def _number_text(number: float) -> str:
    """A number as Go prints it in JSON."""
    if number == number // 1 and abs(number) < 1e21:
        return str(int(number))
    text = repr(number)
    if "e" in text and 1e-6 <= abs(number) < 1e21:
        return format(Decimal(text), "f")
    return text.replace("e-0", "e-")


def _found(item: Any) -> str:
    if isinstance(item, bool):
        return "a bool"
    if isinstance(item, int | float):
        return "a number"
    if isinstance(item, str):
        return "a string"
    return "null" if item is None else "a list" if isinstance(item, list) else "an object"


def overlay(base: Mapping[str, Any], over: Mapping[str, Any], struct: StructType) -> dict[str, Any]:
    """``over`` laid over ``base``, both in written form: lists are appended, maps united, zeros never win."""
    out = dict(base)
    for key, item in over.items():
        if item is None:
            continue
        old = out.get(key)
        if old is None:
            out[key] = item
            continue
        field = struct.fields[key]
        kind = field.kind
        if kind >= MAP:
            out[key] = {**old, **item}
        elif kind >= LIST:
            out[key] = old + item
        elif field.type is not None:
            out[key] = overlay(old, item, field.type)
        elif kind != INT_OR_STRING:
            if item:
                out[key] = item
        elif isinstance(item, str):
            out[key] = item or (old if isinstance(old, str) else "")
        elif item and not isinstance(old, str):
            out[key] = item
    return out
