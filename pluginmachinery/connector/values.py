"""Python's values out of literals, and literals out of Python's values.

=========================  ==========================================================================
value                      literal
=========================  ==========================================================================
``None``                   none
``bool``, ``int``          boolean, integer (of 64 bits)
``float``, ``str``         float, string; an ``Enum`` is what it holds
``datetime``, ``timedelta``  datetime (without a zone: UTC), duration
``list``, ``tuple``        collection
``dict``, dataclass, Struct  a MessagePack object, as Flyte's SDKs pack it
``Dataset``, ``Blob``      structured dataset, blob: what lies under a URI
a ``Literal`` message      itself
=========================  ==========================================================================

A declared type decides where one is known: a map of literals, a number that is a float, a URI that is a
dataset. In the other direction maps, generic Structs and MessagePack become ``dict``, ``list`` and so on.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from flyteidl2.core import interface_pb2, literals_pb2, types_pb2
from flyteidl2.task import common_pb2

from propfan._speedups import structs
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.literals import MSGPACK_TAG

_MAX_DEPTH: Final = 40
"""Of lists in lists. Protobuf reads 100 levels of messages; a list takes two, and there is more around it."""
_INT64: Final = range(-(2**63), 2**63)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SIMPLE: Final = types_pb2.SimpleType


class Blob(msgspec.Struct, frozen=True):
    """A file, or a folder of many, that lies under ``uri``."""

    uri: str
    format: str = ""
    is_multipart: bool = False


class Dataset(msgspec.Struct, frozen=True):
    """A table that lies under ``uri``, e.g. ``bq://project:dataset.table``; ``format`` as ``parquet``."""

    uri: str
    format: str = ""


class _UnfitError(ValueError):
    """A value that has no literal, or a literal that has no value; the text begins with where."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


def to_natives(inputs: common_pb2.Inputs) -> dict[str, Any]:
    """Inputs as Python's values, by name; of a name that comes twice, the later.

    Raises:
        BadTaskSpecificationError: one has no plain value; named.
    """
    try:
        return {literal.name: _native(literal.value, literal.name, 0) for literal in inputs.literals}
    except _UnfitError as error:
        raise BadTaskSpecificationError(f"input {error}") from None


def to_outputs(
    connector: str, outputs: Mapping[str, Any], interface: interface_pb2.TypedInterface | None = None
) -> common_pb2.Outputs:
    """What a connector answered, as a message; in its order.

    Args:
        connector: Its name, for messages.
        interface: Of the task, where it is known: decides types; what is not declared is left out, and what is
            must be there.

    Raises:
        PermanentError: a value has no literal or is not of its declared type, or a declared one is missing.
    """
    try:
        return _outputs(outputs, interface)
    except _UnfitError as error:
        raise PermanentError("", f"connector '{connector}': {error}") from None


def _outputs(outputs: Mapping[Any, Any], interface: interface_pb2.TypedInterface | None) -> common_pb2.Outputs:
    if not isinstance(outputs, Mapping):
        raise _UnfitError("outputs", f"must be a mapping of names to values, is {type(outputs).__name__}")
    declared = None if interface is None else {entry.key: entry.value.type for entry in interface.outputs.variables}
    missing = [name for name in declared or () if name not in outputs]
    if missing:
        given = ", ".join(map(str, outputs)) or "none"
        raise _UnfitError("outputs", f"the task declares {', '.join(missing)}, and the connector gave: {given}")
    message = common_pb2.Outputs()
    for name, value in outputs.items():
        if not isinstance(name, str):
            raise _UnfitError("outputs", f"names must be texts, one is {name!r}")
        if declared is None or name in declared:
            kind = None if declared is None else declared[name]
            message.literals.add(name=name, value=_literal(value, kind, f"output '{name}'", 0))
    return message


def _native(literal: literals_pb2.Literal, path: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise _UnfitError(path, f"is nested deeper than {_MAX_DEPTH}")
    match literal.WhichOneof("value"):
        case "scalar":
            return _scalar_native(literal.scalar, path, depth)
        case "collection":
            items = enumerate(literal.collection.literals)
            return [_native(item, f"{path}[{index}]", depth + 1) for index, item in items]
        case "map":
            members = literal.map.literals.items()
            return {name: _native(member, f"{path}.{name}", depth + 1) for name, member in members}
        case "offloaded_metadata":
            raise _UnfitError(path, f"is too large for the call and lies in {literal.offloaded_metadata.uri}")
        case kind:
            raise _UnfitError(path, f"is a literal of no known kind ({kind or 'empty'})")


def _scalar_native(scalar: literals_pb2.Scalar, path: str, depth: int) -> Any:
    match scalar.WhichOneof("value"):
        case "primitive":
            return _primitive_native(scalar.primitive, path)
        case "none_type":
            return None
        case "union":
            return _native(scalar.union.value, path, depth + 1)
        case "blob":
            kind = scalar.blob.metadata.type
            is_multipart = kind.dimensionality == types_pb2.BlobType.MULTIPART
            return Blob(scalar.blob.uri, kind.format, is_multipart)
        case "structured_dataset":
            dataset = scalar.structured_dataset
            return Dataset(dataset.uri, dataset.metadata.structured_dataset_type.format)
        case "schema":
            return Dataset(scalar.schema.uri)
        case "generic":
            return _parsed(path, structs.to_value, scalar.generic.SerializeToString())
        case "binary" if scalar.binary.tag == MSGPACK_TAG:
            return _parsed(path, msgspec.msgpack.decode, scalar.binary.value)
        case "binary":
            raise _UnfitError(path, f"is binary with the tag '{scalar.binary.tag}', of which no value can be made")
        case kind:
            raise _UnfitError(path, f"is a scalar of no known kind ({kind or 'empty'})")


def _parsed(path: str, parse: Any, content: bytes) -> Any:
    try:
        return parse(content)
    except (ValueError, RecursionError) as error:
        raise _UnfitError(path, f"can not be read: {error}") from None


def _primitive_native(primitive: literals_pb2.Primitive, path: str) -> Any:
    match primitive.WhichOneof("value"):
        case "datetime":
            moment = primitive.datetime
            return _parsed(path, lambda _: _moment(moment.seconds, moment.nanos), b"")
        case "duration":
            span = primitive.duration
            return _parsed(path, lambda _: _span(span.seconds, span.nanos), b"")
        case None:
            raise _UnfitError(path, "is a primitive without a value")
        case kind:
            return getattr(primitive, kind)


def _moment(seconds: int, nanos: int) -> datetime:
    return _EPOCH + _span(seconds, nanos)


def _span(seconds: int, nanos: int) -> timedelta:
    try:
        return timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _literal(value: Any, kind: types_pb2.LiteralType | None, path: str, depth: int) -> literals_pb2.Literal:
    if depth > _MAX_DEPTH:
        raise _UnfitError(path, f"is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, literals_pb2.Literal):
        return value
    if isinstance(value, enum.Enum):
        value = value.value
    if kind is None:
        return _literal_by_value(value, path, depth)
    return _literal_by_type(value, kind, path, depth)


def _literal_by_value(value: Any, path: str, depth: int) -> literals_pb2.Literal:
    match value:
        case None:
            return literals_pb2.Literal(scalar=literals_pb2.Scalar(none_type=literals_pb2.Void()))
        case bool() | int() | float() | str() | datetime() | timedelta():
            return _primitive(value, path)
        case Blob() | Dataset():
            return _reference(value)
        case Mapping() | msgspec.Struct():
            return _packed(value, path)
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            items = [_literal(item, None, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
            return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=items))
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _packed(value, path)
    raise _UnfitError(path, f"a value of type {type(value).__name__} has no literal; see {__name__} for what has")


def _literal_by_type(value: Any, kind: types_pb2.LiteralType, path: str, depth: int) -> literals_pb2.Literal:
    match kind.WhichOneof("type"):
        case "simple":
            return _simple(value, kind.simple, path)
        case "collection_type" if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            element = kind.collection_type
            items = [_literal(item, element, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
            return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=items))
        case "map_value_type" if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            member = kind.map_value_type
            by_name = {name: _literal(item, member, f"{path}.{name}", depth + 1) for name, item in value.items()}
            return literals_pb2.Literal(map=literals_pb2.LiteralMap(literals=by_name))
        case "enum_type" if value in kind.enum_type.values:
            return _primitive(value, path)
        case "enum_type":
            raise _UnfitError(path, f"must be one of {', '.join(kind.enum_type.values)}, is {_shown(value)}")
        case "blob" if isinstance(value, str | Blob):
            is_multipart = kind.blob.dimensionality == types_pb2.BlobType.MULTIPART
            blob = value if isinstance(value, Blob) else Blob(value, kind.blob.format, is_multipart)
            return _reference(blob)
        case "structured_dataset_type" if isinstance(value, str | Dataset):
            dataset = value if isinstance(value, Dataset) else Dataset(value, kind.structured_dataset_type.format)
            return _reference(dataset, kind.structured_dataset_type)
        case "union_type":
            return _union(value, kind.union_type, path, depth)
        case "collection_type" | "map_value_type" | "blob" | "structured_dataset_type" as wanted:
            raise _UnfitError(path, f"must be of type {wanted.removesuffix('_type')}, is {_shown(value)}")
        case _:  # a type of another age: the value decides
            return _literal_by_value(value, path, depth)


def _union(value: Any, kind: types_pb2.UnionType, path: str, depth: int) -> literals_pb2.Literal:
    """The first variant that the value fits."""
    problems = []
    for variant in kind.variants:
        try:
            fitting = _literal(value, variant, path, depth + 1)
        except _UnfitError as error:
            problems.append(str(error))
        else:
            union = literals_pb2.Union(value=fitting, type=variant)
            return literals_pb2.Literal(scalar=literals_pb2.Scalar(union=union))
    raise _UnfitError(path, f"fits no variant: {'; '.join(problems)}")


def _simple(value: Any, kind: int, path: str) -> literals_pb2.Literal:
    wanted = _SIMPLE_VALUES.get(kind)
    if wanted is None:
        return _literal_by_value(value, path, 0)
    is_fit = isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)
    if kind == _SIMPLE.STRUCT:
        is_fit = is_fit or dataclasses.is_dataclass(value)
    if not is_fit:
        names = " or ".join(dict.fromkeys(each.__name__ for each in wanted))
        raise _UnfitError(path, f"must be {names} (declared {_SIMPLE.Name(kind)}), is {_shown(value)}")
    if kind == _SIMPLE.STRUCT:
        return _packed(value, path)
    if kind == _SIMPLE.FLOAT:
        try:
            value = float(value)
        except OverflowError:
            raise _UnfitError(path, "is too large for a float") from None
    return _literal_by_value(value, path, 0)


_SIMPLE_VALUES: Final[Mapping[int, tuple[type, ...]]] = {
    _SIMPLE.NONE: (type(None),),
    _SIMPLE.INTEGER: (int,),
    _SIMPLE.FLOAT: (float, int),
    _SIMPLE.STRING: (str,),
    _SIMPLE.BOOLEAN: (bool,),
    _SIMPLE.DATETIME: (datetime,),
    _SIMPLE.DURATION: (timedelta,),
    _SIMPLE.STRUCT: (dict, list, Mapping, msgspec.Struct),
}


def _primitive(value: bool | float | str | datetime | timedelta, path: str) -> literals_pb2.Literal:  # noqa: FBT001
    primitive = literals_pb2.Primitive()
    try:
        match value:
            case bool():
                primitive.boolean = value
            case int() if value not in _INT64:
                raise _UnfitError(path, f"must be an integer of 64 bits, is {value.bit_length()} bits long")
            case int():
                primitive.integer = value
            case float():
                primitive.float_value = value
            case str():
                primitive.string_value = value
            case datetime():
                primitive.datetime.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
            case timedelta():
                primitive.duration.FromTimedelta(value)
    except (UnicodeEncodeError, OverflowError) as error:
        raise _UnfitError(path, f"has no literal: {error}") from None
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))


def _reference(value: Blob | Dataset, declared: types_pb2.StructuredDatasetType | None = None) -> literals_pb2.Literal:
    if isinstance(value, Blob):
        single, multipart = types_pb2.BlobType.SINGLE, types_pb2.BlobType.MULTIPART
        kind = types_pb2.BlobType(format=value.format, dimensionality=multipart if value.is_multipart else single)
        blob = literals_pb2.Blob(uri=value.uri, metadata=literals_pb2.BlobMetadata(type=kind))
        return literals_pb2.Literal(scalar=literals_pb2.Scalar(blob=blob))
    table = types_pb2.StructuredDatasetType()
    if declared is not None:
        table.CopyFrom(declared)
    table.format = value.format
    metadata = literals_pb2.StructuredDatasetMetadata(structured_dataset_type=table)
    dataset = literals_pb2.StructuredDataset(uri=value.uri, metadata=metadata)
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(structured_dataset=dataset))


def _packed(value: Any, path: str) -> literals_pb2.Literal:
    try:
        packed = msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _UnfitError(path, f"can not be packed as an object: {error}") from None
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=packed, tag=MSGPACK_TAG)))


def _shown(value: object) -> str:
    """The type only: a value may be large, or a secret."""
    return f"a {type(value).__name__}" if value is not None else "None"
