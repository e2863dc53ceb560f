"""What a plugin's author may return as a Kubernetes object, brought into one form.

Authors return what suits them: a ``RenderedObject``, a mapping shaped like the object's JSON, a
``msgspec.Struct``, or a model of the ``kubernetes`` package. Models are recognised by their
``attribute_map``, so that package is never imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import POD, BuiltObject, Kind, ObjectMeta, RenderedObject

INVALID_PLUGIN_OBJECT: Final = "InvalidPluginObject"
"""Code of every error here: the plugin is at fault, and trying again does not help."""

MAX_DEPTH: Final = 64
"""Deeper nesting is refused; no Kubernetes object comes near it, but a cycle does."""

_METADATA_FIELDS: Final = frozenset(ObjectMeta.__struct_encode_fields__)


def normalise(built: BuiltObject, expected: Kind, plugin: str, method: str) -> RenderedObject:
    """The object in the form that the engine creates.

    Args:
        built: What the method returned; it is not changed.
        expected: What it must be.
        plugin: Id of the plugin, for the error.
        method: The method that returned it, for the error.

    Raises:
        PermanentError: it is no such object; the message names plugin, method and field.
    """
    try:
        rendered = built if isinstance(built, RenderedObject) else _render(built)
        _expect("apiVersion", rendered.api_version, expected.api_version)
        if rendered.kind == "pod" and expected == POD:  # as Flyte's pod plugin says; an API server refuses it
            return msgspec.structs.replace(rendered, kind=POD.kind)
        _expect("kind", rendered.kind, expected.kind)
    except _FaultError as fault:
        raise PermanentError(
            INVALID_PLUGIN_OBJECT, f"plugin '{plugin}': {method}: {fault.path or 'the object'}: {fault.problem}"
        ) from None
    return rendered


class _FaultError(Exception):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem


def _expect(field: str, value: object, wanted: str) -> None:
    if not isinstance(value, str) or not value:
        raise _FaultError(field, f"must be '{wanted}', is {'missing' if not value else type(value).__name__}")
    if value != wanted:
        raise _FaultError(field, f"must be '{wanted}', is '{value}'")


def _render(built: object) -> RenderedObject:
    if not isinstance(built, Mapping | msgspec.Struct) and not _is_model(built):
        wanted = "a mapping, a RenderedObject, a msgspec.Struct or a model of the kubernetes package"
        raise _FaultError("", f"must be {wanted}, is {type(built).__name__}")
    members = _json("", built, 0)
    if not isinstance(members, dict):  # a Struct that is encoded as an array
        raise _FaultError("", f"must be a JSON object, is {type(members).__name__}")
    api_version, kind = members.pop("apiVersion", ""), members.pop("kind", "")
    metadata = _metadata(members.pop("metadata", None))
    try:
        msgspec.json.encode(metadata)
        body = msgspec.json.encode(members)[1:-1]
    except UnicodeEncodeError as error:
        raise _FaultError("", f"has a string that is not valid Unicode: {error.reason}") from None
    return RenderedObject(api_version, kind, metadata, body)


def _metadata(members: object) -> ObjectMeta:
    if members is None:
        return ObjectMeta()
    if not isinstance(members, dict):
        raise _FaultError("metadata", f"must be an object, is {type(members).__name__}")
    present = {name: value for name, value in members.items() if value is not None}
    for name in present:
        if name not in _METADATA_FIELDS:
            raise _FaultError(f"metadata.{name}", "is not the plugin's to set: the engine and the cluster do")
    try:
        return msgspec.convert(present, ObjectMeta)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise _FaultError(f"metadata{path.removesuffix('`')}", problem) from None


def _is_model(value: object) -> bool:
    return isinstance(getattr(type(value), "attribute_map", None), dict)


def _json(path: str, value: object, depth: int) -> Any:
    """``value`` as JSON builtins that share nothing with it."""
    if depth > MAX_DEPTH:
        raise _FaultError(path, f"is nested more than {MAX_DEPTH} deep, or contains itself")
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise _FaultError(path, f"{value} is not a JSON number")
            return value
        case Mapping():
            return {_key(path, name): _json(_join(path, name), item, depth + 1) for name, item in value.items()}
        case list() | tuple():
            return [_json(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        case datetime():
            if value.tzinfo is None:
                raise _FaultError(path, "is a time without a time zone")
            return msgspec.to_builtins(value)
        case date():
            return value.isoformat()
        case msgspec.Struct():
            return _struct(path, value, depth)
    if _is_model(value):
        return _model(path, value, depth)
    raise _FaultError(path, f"{type(value).__name__} is not a JSON value")


def _struct(path: str, value: msgspec.Struct, depth: int) -> Any:
    try:
        members = msgspec.to_builtins(value, enc_hook=_unknown_to_msgspec)
    except RecursionError:
        raise _FaultError(path, "contains itself") from None
    return _json(path, members, depth)


def _unknown_to_msgspec(value: object) -> Any:
    return _json("", value, 0)


def _model(path: str, value: Any, depth: int) -> dict[str, Any]:
    """A model has its JSON names in ``attribute_map``; what is ``None`` is absent."""
    members = ((name, getattr(value, attribute)) for attribute, name in type(value).attribute_map.items())
    return {name: _json(_join(path, name), item, depth + 1) for name, item in members if item is not None}


def _key(path: str, name: object) -> str:
    if not isinstance(name, str):
        raise _FaultError(path, f"has the key {name!r}, which is no string")
    return name


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
