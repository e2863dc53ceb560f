"""``{inputs.name}`` and ``{secrets.name}`` in the texts of a task.

A dotted name goes down into mappings by key and into lists by index; it never reaches attributes of Python's
objects. All other braces are text, as in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import Blob, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError

_PLACEHOLDER: Final = re.compile(r"\{(inputs|secrets)\.([^{}\s]+)\}")

HIDDEN: Final = "***"
"""What is shown in the place of a secret."""


def secret_names(template: Any) -> frozenset[str]:
    """Of all secrets that the texts below ``template`` name."""
    return frozenset(
        found[2] for text in _texts(template) for found in _PLACEHOLDER.finditer(text) if found[1] == "secrets"
    )


def filled(template: Any, inputs: Mapping[str, Any], secrets: Mapping[str, str]) -> Any:
    """``template`` with its placeholders replaced, in lists and in values of mappings, not in their keys.

    A text that is nothing but one placeholder becomes the value itself, with its type.

    Raises:
        BadTaskSpecificationError: there is no such input; the message says which there are.
    """
    match template:
        case str():
            whole = _PLACEHOLDER.fullmatch(template)
            if whole is not None:
                return _value(whole, inputs, secrets)
            return _PLACEHOLDER.sub(lambda found: as_text(_value(found, inputs, secrets)), template)
        case Mapping():
            return {key: filled(value, inputs, secrets) for key, value in template.items()}
        case list() | tuple():
            return [filled(item, inputs, secrets) for item in template]
        case _:
            return template


def as_text(value: Any) -> str:
    """A value within a text: lists and mappings as JSON, all else as Python writes it."""
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)


def _texts(template: Any) -> Iterator[str]:
    match template:
        case str():
            yield template
        case Mapping():
            for value in template.values():
                yield from _texts(value)
        case list() | tuple():
            for item in template:
                yield from _texts(item)


def _value(found: re.Match[str], inputs: Mapping[str, Any], secrets: Mapping[str, str]) -> Any:
    if found[1] == "secrets":
        return secrets[found[2]]
    name, *path = found[2].split(".")
    if name not in inputs:
        there_are = f"the task's inputs are: {', '.join(sorted(inputs)) or 'none'}"
        raise BadTaskSpecificationError(f"{found[0]}: there is no input '{name}'; {there_are}")
    value = plain(inputs[name])
    for key in path:
        match value:
            case dict() if key in value:
                value = value[key]
            case list() if key.isascii() and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            case dict() | list():
                raise BadTaskSpecificationError(f"{found[0]}: there is no '{key}' in what comes before it")
            case _:
                problem = f"'{key}' is looked for in a {type(value).__name__}, which is no mapping and no list"
                raise BadTaskSpecificationError(f"{found[0]}: {problem}")
    return value


def plain(value: Any) -> Any:
    """An input as JSON has it: files and tables are their URIs, times are ISO 8601, durations are seconds."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Blob() | Dataset():
            return value.uri
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {str(key): plain(member) for key, member in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [plain(item) for item in value]
        case _:
            return msgspec.to_builtins(value, str_keys=True)
