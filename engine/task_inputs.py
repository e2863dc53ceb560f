"""Plain values as a task's inputs: ``flyteidl2.task.Inputs`` by the interface that the template declares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from flyteidl2.core import interface_pb2, literals_pb2, types_pb2
from flyteidl2.task import common_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.engine.documents import Document, FieldPath, Problems, nearest
from propfan.pluginmachinery.errors import DecodeError

__all__ = ["check_inputs", "inputs_of"]

_INT64: Final = range(-(2**63), 2**63)
_DURATION_LIMIT_S: Final = 315_576_000_000
"""Largest ``google.protobuf.Duration``, about 10000 years."""
_SIMPLE: Final = types_pb2.SimpleType
_PRIMITIVES: Final = {
    _SIMPLE.INTEGER: "integer",
    _SIMPLE.FLOAT: "float_value",
    _SIMPLE.STRING: "string_value",
    _SIMPLE.BOOLEAN: "boolean",
    _SIMPLE.DATETIME: "datetime",
    _SIMPLE.DURATION: "duration",
}


class _MismatchError(Exception):
    """A value does not fit its type: where below the input, and what would fit."""

    def __init__(self, path: FieldPath, problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def inputs_of(document: Document, interface: interface_pb2.TypedInterface) -> bytes:
    """Serialised ``flyteidl2.task.Inputs`` of a mapping of names to values.

    An integer fits a float; a date is a text in ISO 8601, UTC when it names no zone; a duration is
    a number of seconds or a text such as ``90s``; files and frames are given by their URI; an
    object is packed with msgpack, as Flyte's SDK does. An optional input may be left out.

    Raises:
        DecodeError: with every input that is missing, unknown or does not fit.
    """
    problems = Problems(document.source)
    values = {} if document.value is None else document.value
    if not isinstance(values, dict):
        raise DecodeError(document.source, "must be an object of input names and values")
    declared = _declared(interface)
    _check_names(problems, declared, values)
    inputs = common_pb2.Inputs()
    for name, variable in declared.items():
        if name not in values:
            continue
        try:
            literal = _literal(values[name], variable.type, (name,))
        except _MismatchError as mismatch:
            problems.add(f"{document.where(mismatch.path)}: {mismatch.problem}")
        else:
            inputs.literals.add(name=name, value=literal)
    problems.raise_any()
    return inputs.SerializeToString(deterministic=True)


def check_inputs(source: str, content: bytes, interface: interface_pb2.TypedInterface) -> bytes:
    """Serialised inputs as they are, when they fit; a ``core.LiteralMap`` has the same wire format.

    Raises:
        DecodeError: not a message of inputs, or with every input that is missing, unknown or of
            another simple type than declared.
    """
    try:
        inputs = common_pb2.Inputs.FromString(content)
    except ProtobufDecodeError as error:
        raise DecodeError(source, f"not a serialised flyteidl2.task.Inputs: {error}") from error
    problems = Problems(source)
    declared = _declared(interface)
    given = {literal.name: literal.value for literal in inputs.literals}
    _check_names(problems, declared, given)
    for name, literal in given.items():
        wanted = _PRIMITIVES.get(declared[name].type.simple) if name in declared else None
        if wanted and literal.scalar.primitive.WhichOneof("value") != wanted:
            found = literal.scalar.primitive.WhichOneof("value") or literal.WhichOneof("value") or "nothing"
            problems.add(f"{name}: must be a primitive {wanted}, is {found}")
    problems.raise_any()
    return content


def _declared(interface: interface_pb2.TypedInterface) -> Mapping[str, interface_pb2.Variable]:
    return {entry.key: entry.value for entry in interface.inputs.variables}


def _check_names(problems: Problems, declared: Mapping[str, interface_pb2.Variable], given: Mapping[str, Any]) -> None:
    missing = [name for name, variable in declared.items() if name not in given and not _is_optional(variable.type)]
    if missing:
        problems.add(f"inputs without a value: {', '.join(missing)}")
    for name in given:
        if name not in declared:
            hint = nearest(name, declared) or "; the task's interface declares no inputs"
            problems.add(f"{name}: no such input{hint}")


def _is_optional(kind: types_pb2.LiteralType) -> bool:
    return any(
        variant.WhichOneof("type") == "simple" and variant.simple == _SIMPLE.NONE
        for variant in kind.union_type.variants
    )


def _literal(value: Any, kind: types_pb2.LiteralType, path: FieldPath) -> literals_pb2.Literal:
    match kind.WhichOneof("type"):
        case "simple":
            return literals_pb2.Literal(scalar=_simple(value, kind.simple, path))
        case "collection_type":
            items = _expect(value, list, "a list", path)
            literals = [_literal(item, kind.collection_type, (*path, n)) for n, item in enumerate(items)]
            return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=literals))
        case "map_value_type":
            members = _expect(value, dict, "an object", path)
            by_name = {name: _literal(item, kind.map_value_type, (*path, name)) for name, item in members.items()}
            return literals_pb2.Literal(map=literals_pb2.LiteralMap(literals=by_name))
        case "enum_type":
            if value not in kind.enum_type.values:
                raise _MismatchError(path, f"must be one of {', '.join(kind.enum_type.values)}, is {value!r}")
            primitive = literals_pb2.Primitive(string_value=value)
            return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))
        case "union_type":
            return _union(value, kind.union_type, path)
        case "blob":
            metadata = literals_pb2.BlobMetadata(type=kind.blob)
            blob = literals_pb2.Blob(uri=_expect(value, str, "the URI of a file or folder", path), metadata=metadata)
            return literals_pb2.Literal(scalar=literals_pb2.Scalar(blob=blob))
        case "structured_dataset_type":
            frame = literals_pb2.StructuredDataset(
                uri=_expect(value, str, "the URI of a data frame", path),
                metadata=literals_pb2.StructuredDatasetMetadata(structured_dataset_type=kind.structured_dataset_type),
            )
            return literals_pb2.Literal(scalar=literals_pb2.Scalar(structured_dataset=frame))
        case other:
            raise _MismatchError(path, f"a value of type {other or 'unknown'} can only be given in a .pb file")


def _union(value: Any, kind: types_pb2.UnionType, path: FieldPath) -> literals_pb2.Literal:
    """The first variant that the value fits."""
    problems = []
    for variant in kind.variants:
        try:
            fitting = _literal(value, variant, path)
        except _MismatchError as mismatch:
            problems.append(mismatch.problem)
        else:
            union = literals_pb2.Union(value=fitting, type=variant)
            return literals_pb2.Literal(scalar=literals_pb2.Scalar(union=union))
    raise _MismatchError(path, " or ".join(problems))


def _simple(value: Any, kind: int, path: FieldPath) -> literals_pb2.Scalar:
    match kind:
        case _SIMPLE.NONE:
            if value is not None:
                raise _MismatchError(path, f"must be null, is {value!r}")
            return literals_pb2.Scalar(none_type=literals_pb2.Void())
        case _SIMPLE.STRUCT:
            packed = msgspec.msgpack.encode(_expect(value, (dict, list), "an object", path))
            return literals_pb2.Scalar(binary=literals_pb2.Binary(value=packed, tag="msgpack"))
        case _ if kind in _PRIMITIVES:
            primitive = literals_pb2.Primitive()
            _FILL[kind](primitive, value, path)
            return literals_pb2.Scalar(primitive=primitive)
        case _:
            name = types_pb2.SimpleType.Name(kind) if kind in types_pb2.SimpleType.values() else str(kind)
            raise _MismatchError(path, f"a value of type {name} can only be given in a .pb file")


def _integer(primitive: literals_pb2.Primitive, value: Any, path: FieldPath) -> None:
    primitive.integer = _integer_in_range(_expect(value, int, "an integer", path), path)


def _integer_in_range(value: int, path: FieldPath) -> int:
    if value not in _INT64:
        raise _MismatchError(path, "must be an integer of 64 bits")
    return value


def _float(primitive: literals_pb2.Primitive, value: Any, path: FieldPath) -> None:
    number = _expect(value, (int, float), "a number", path)
    try:
        primitive.float_value = float(number)
    except OverflowError:
        raise _MismatchError(path, "must be a number that fits 64 bits") from None


def _string(primitive: literals_pb2.Primitive, value: Any, path: FieldPath) -> None:
    try:
        primitive.string_value = _expect(value, str, "a text", path)
    except ValueError as error:
        raise _MismatchError(path, f"must be a text of Unicode: {error}") from error


def _boolean(primitive: literals_pb2.Primitive, value: Any, path: FieldPath) -> None:
    primitive.boolean = _expect(value, bool, "true or false", path)


def _datetime(primitive: literals_pb2.Primitive, value: Any, path: FieldPath) -> None:
    text = _expect(value, str, "a date such as 2030-01-31T12:00:00Z", path)
    try:
        moment = datetime.fromisoformat(text)
        primitive.datetime.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise _MismatchError(path, f"must be a date such as 2030-01-31T12:00:00Z, is {value!r}") from error


def _duration(primitive: literals_pb2.Primitive, value: Any, path: FieldPath) -> None:
    problem = f"must be seconds or a duration such as '90s', is {value!r}"
    if isinstance(value, str) and value.endswith("s"):
        try:
            primitive.duration.FromJsonString(value)
        except ValueError as error:
            raise _MismatchError(path, problem) from error
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _MismatchError(path, problem)
    if not math.isfinite(value) or abs(value) > _DURATION_LIMIT_S:
        raise _MismatchError(path, problem)
    primitive.duration.FromNanoseconds(round(value * 1_000_000_000))


_FILL: Final[Mapping[int, Callable[[literals_pb2.Primitive, Any, FieldPath], None]]] = {
    _SIMPLE.INTEGER: _integer,
    _SIMPLE.FLOAT: _float,
    _SIMPLE.STRING: _string,
    _SIMPLE.BOOLEAN: _boolean,
    _SIMPLE.DATETIME: _datetime,
    _SIMPLE.DURATION: _duration,
}


def _expect(value: Any, kinds: type | tuple[type, ...], what: str, path: FieldPath) -> Any:
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        shown = repr(value)
        raise _MismatchError(path, f"must be {what}, is {shown if len(shown) <= 60 else shown[:57] + '...'}")
    return value
