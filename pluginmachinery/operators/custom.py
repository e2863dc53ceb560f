"""The ``custom`` field of a task template, which holds a plugin's own message as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from propfan._speedups import structs
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.podspec.build import text_of

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import TaskTemplate

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=msgspec.Struct)

_WELL_KNOWN: Final = "google.protobuf."
"""Messages with a JSON form of their own, which ``json_format`` checks."""


class CustomError(ValueError):
    """``custom`` is not what the plugin expects there; the text says what and where."""


def message_of(template: TaskTemplate, kind: type[M]) -> M:
    """``custom`` as a message; unknown fields are ignored.

    Raises:
        CustomError: it is absent, or a value has another type than its field.
    """
    if not template.HasField("custom"):
        raise CustomError("nil Struct Object passed")
    message = kind()
    try:
        value = structs.to_value(template.custom.SerializeToString())
        _check(value, cast("Descriptor", message.DESCRIPTOR), "custom")
        json_format.ParseDict(value, message, ignore_unknown_fields=True)
    except (json_format.ParseError, structs.StructError, OverflowError) as error:
        raise CustomError(str(error)) from None
    return message


def decode_custom(template: TaskTemplate, kind: type[M]) -> M:
    """As ``message_of``, for plugins that refuse the task in the usual words.

    Raises:
        BadTaskSpecificationError: it is not what the plugin expects.
    """
    try:
        return message_of(template, kind)
    except CustomError as error:
        raise _refusal(template, error) from None


def decode_struct(template: TaskTemplate, kind: type[S]) -> S:
    """``custom`` as a Struct of the plugin's own; an absent one is an empty object.

    All its numbers are doubles; whole ones, and texts that are numbers, count as integers, as in protobuf's JSON.

    Raises:
        BadTaskSpecificationError: it is not what the plugin expects; the message tells what is wrong, and where.
    """
    try:
        return msgspec.convert(structs.to_value(template.custom.SerializeToString()), kind, strict=False)
    except (msgspec.ValidationError, structs.StructError) as error:
        raise _refusal(template, error) from None


def _refusal(template: TaskTemplate, error: Exception) -> BadTaskSpecificationError:
    return BadTaskSpecificationError(f"invalid TaskSpecification [{text_of(template.custom)}], Err: [{error}]")


def _check(value: Any, descriptor: Descriptor, path: str) -> None:
    """What ``json_format`` lets pass when it ignores unknown fields: scalars for messages, names that no enum has."""
    if not isinstance(value, Mapping):
        raise CustomError(f"{path}: expected an object, found {type(value).__name__}")
    for field in descriptor.fields:
        for name in {field.name, field.json_name}:
            if value.get(name) is not None:
                _check_field(value[name], field, f"{path}.{name}")


def _check_field(value: Any, field: FieldDescriptor, path: str) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        if not isinstance(value, Mapping):
            raise CustomError(f"{path}: expected an object, found {type(value).__name__}")
        entry = kind.fields_by_name["value"]
        for key, item in value.items():
            _check_one(item, entry, f"{path}[{key!r}]")
    elif field.is_repeated:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise CustomError(f"{path}: expected a list, found {type(value).__name__}")
        for index, item in enumerate(value):
            _check_one(item, field, f"{path}[{index}]")
    else:
        _check_one(value, field, path)


def _check_one(value: Any, field: FieldDescriptor, path: str) -> None:
    if field.message_type is not None:
        if not field.message_type.full_name.startswith(_WELL_KNOWN):
            _check(value, field.message_type, path)
    elif field.enum_type is not None and isinstance(value, str) and value not in field.enum_type.values_by_name:
        raise CustomError(f"{path}: {field.enum_type.full_name} has no value named {value!r}")
