"""``{inputs.name}``, ``{secrets.name}`` and the like in what a task says.

A dotted name goes down into mappings by key and into lists by index; it never reaches attributes of Python's
objects, nor is it evaluated. All other braces are text, as in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import Blob, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError

_SECRET: Final = re.compile(r"\{secrets\.([^{}\s]+)\}")


def secret_names(template: Any) -> frozenset[str]:
    """Of all secrets that the texts below ``template`` name."""
    return frozenset(found[1] for text in _texts(template) for found in _SECRET.finditer(text))


class Placeholders:
    """What the placeholders of one task stand for. Secrets may be among it, so there is nothing to see in its repr."""

    def __init__(self, kinds: Mapping[str, Mapping[str, Any]], *, is_json: bool = True) -> None:
        """Takes the values as they are.

        Args:
            kinds: What may stand before the dot, such as ``inputs``, to values by what stands behind it.
            is_json: Values become what JSON can say; else times and bytes stay, for a receiver that has such.
        """
        self.kinds: Final = kinds
        self._is_json: Final = is_json
        self._pattern: Final = re.compile(rf"\{{({'|'.join(kinds)})\.([^{{}}\s]+)\}}")

    def filled(self, template: Any, path: str) -> Any:
        """``template`` with its placeholders replaced, in lists and in values of mappings, not in their keys.

        A text that is nothing but one placeholder becomes the value itself, with its type.

        Args:
            path: Of the template, for messages: ``custom.config``.

        Raises:
            BadTaskSpecificationError: a placeholder stands for nothing; it is named with its place.
        """
        match template:
            case str():
                whole = self._pattern.fullmatch(template)
                return self.text(template, path) if whole is None else self._value(whole, path)
            case Mapping():
                return {key: self.filled(value, f"{path}.{key}") for key, value in template.items()}
            case list() | tuple():
                return [self.filled(item, f"{path}[{index}]") for index, item in enumerate(template)]
            case _:
                return template

    def text(self, template: str, path: str) -> str:
        """As ``filled``, and always a text."""
        return self._pattern.sub(lambda found: as_text(self._value(found, path)), template)

    def _value(self, found: re.Match[str], path: str) -> Any:
        kind, name = found.groups()
        known = self.kinds[kind]
        if name in known:
            return plain(known[name], is_json=self._is_json)
        first, *steps = name.split(".")
        if first not in known:
            there_are = f"{kind} are: {', '.join(sorted(known)) or 'none'}"
            raise BadTaskSpecificationError(f"{path}: there is no '{kind}.{name}'; {there_are}")
        value, above = plain(known[first], is_json=self._is_json), f"{kind}.{first}"
        for step in steps:
            match value:
                case dict() if step in value:
                    value = value[step]
                case list() if step.isascii() and step.isdigit() and int(step) < len(value):
                    value = value[int(step)]
                case dict() | list():
                    raise BadTaskSpecificationError(f"{path}: there is no '{kind}.{name}': '{above}' has no '{step}'")
                case _:
                    problem = f"'{above}' is a {type(value).__name__}, which is no mapping and no list"
                    raise BadTaskSpecificationError(f"{path}: there is no '{kind}.{name}': {problem}")
            above = f"{above}.{step}"
        return value


def as_text(value: Any) -> str:
    """A value within a text: lists and mappings as JSON, times as ISO 8601, all else as Python writes it."""
    match value:
        case dict() | list():
            return msgspec.json.encode(value).decode()
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def plain(value: Any, *, is_json: bool = True) -> Any:
    """A value as JSON has it: files and tables are their URIs, times are ISO 8601, durations are seconds.

    Args:
        is_json: Else times and bytes stay as they are.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Blob() | Dataset():
            return value.uri
        case datetime() | bytes() if not is_json:
            return value
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {str(key): plain(member, is_json=is_json) for key, member in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [plain(item, is_json=is_json) for item in value]
        case _:
            return msgspec.to_builtins(value, str_keys=True)


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
