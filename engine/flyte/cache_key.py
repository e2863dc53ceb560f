"""The keys under which Flyte 2's executor keeps cached outputs, so that both find each other's.

A message is hashed as its JSON form (https://protobuf.dev/programming-guides/json/) by ObjectHash
(https://github.com/benlaurie/objecthash, "common JSON": all numbers are floats).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from flyteidl2.core import identifier_pb2, interface_pb2, literals_pb2, tasks_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from propfan.pluginmachinery.contexts import InputReader
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.taskaction import TaskAction

_SIGNATURE_CHARS: Final = 8
_MOST_DIGITS: Final = 1100
"""Of a double in binary, with its sign and exponent."""


async def cache_key(action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader) -> str:
    """The key of a task's outputs: task without version, interface, inputs, and ``spec.cacheKey`` as the version.

    Raises:
        BadTaskSpecificationError: the template has no identifier.
        StorageError, DecodeError, PermanentError: the inputs can not be read.
    """
    task = template.id
    if not task.name:
        raise BadTaskSpecificationError("discoverable task is missing identifier: set the template's id")
    unversioned = identifier_pb2.Identifier(
        resource_type=task.resource_type, project=task.project, domain=task.domain, name=task.name, org=task.org
    )
    literals = literals_pb2.LiteralMap()
    if template.interface.inputs.variables:
        read = await inputs.read()
        if read is not None:
            ignored = frozenset(template.metadata.cache_ignore_input_vars)
            literals = literals_pb2.LiteralMap(
                literals={name: _hashified(value) for name, value in read.literals.items() if name not in ignored}
            )
    return "-".join(
        (
            base64.b64encode(message_hash(unversioned)).decode(),
            _signature(template.interface.inputs),
            _signature(template.interface.outputs),
            _raw_url(message_hash(literals)),
            action.spec.cache_key or template.metadata.discovery_version,
        )
    )


def message_hash(message: Message) -> bytes:
    return object_hash(json_format.MessageToDict(message))


def object_hash(value: Any) -> bytes:
    """Of a JSON value."""
    match value:
        case None:
            return _hash(b"n", b"")
        case bool():
            return _hash(b"b", b"1" if value else b"0")
        case str():
            return _hash(b"u", value.encode())
        case int() | float():
            return _hash(b"f", _digits(float(value)).encode())
        case Mapping():
            pairs = sorted(object_hash(key) + object_hash(item) for key, item in value.items())
            return _hash(b"d", b"".join(pairs))
        case _:
            return _hash(b"l", b"".join(object_hash(item) for item in value))


def _hash(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha256(kind + content).digest()


def _digits(number: float) -> str:
    """Sign, exponent and the binary digits of a number, as ObjectHash wants them."""
    if number == 0:
        return "+0:"
    sign, rest = ("-", -number) if number < 0 else ("+", number)
    exponent = 0
    while rest > 1:
        rest, exponent = rest / 2, exponent + 1
    while rest <= 0.5:
        rest, exponent = rest * 2, exponent - 1
    text = f"{sign}{exponent}:"
    while rest != 0 and len(text) < _MOST_DIGITS:
        if rest >= 1:
            text, rest = text + "1", rest - 1
        else:
            text += "0"
        rest *= 2
    return text


def _signature(variables: interface_pb2.VariableMap) -> str:
    return _raw_url(message_hash(variables))[:_SIGNATURE_CHARS]


def _raw_url(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _hashified(value: literals_pb2.Literal) -> literals_pb2.Literal:
    """A literal that carries a hash counts by that alone."""
    if value.hash:
        return literals_pb2.Literal(hash=value.hash)
    match value.WhichOneof("value"):
        case "collection":
            items = [_hashified(item) for item in value.collection.literals]
            return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=items))
        case "map":
            items_by_name = {name: _hashified(item) for name, item in value.map.literals.items()}
            return literals_pb2.Literal(map=literals_pb2.LiteralMap(literals=items_by_name))
        case _:
            return value
