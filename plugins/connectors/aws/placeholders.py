"""Placeholders in the arguments of a call: ``{inputs.x}``, ``{images.x}`` and ``{idempotence_token}``.

A text that is nothing but a placeholder becomes the value with its type, in any other its text goes in. All else
in braces stays, so that texts may be JSON. Names are looked up and never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import Blob, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.aws import xxhash64

_PLACEHOLDER: Final = re.compile(r"\{(?:(inputs|images)\.([^{}\s]{1,256})|(idempotence_token))\}")
_TOKEN: Final = "{idempotence_token}"  # noqa: S105 - no secret


class Formatted(msgspec.Struct, frozen=True):
    """Arguments with values in place of their placeholders.

    Attributes:
        token: Names what the call makes; empty when the arguments do not ask for one.
    """

    arguments: dict[str, Any]
    token: str = ""


class Placeholders(msgspec.Struct, frozen=True):
    """What the placeholders of one task stand for."""

    inputs: Mapping[str, Any]
    images: Mapping[str, Any] = {}

    def fill(self, arguments: Mapping[str, Any], path: str) -> Formatted:
        """The arguments as they are sent. ``None`` is as good as absent, and left out.

        The token is the same for the same arguments, whatever task they come from, and the same that Flyte's own
        connector gives them: XXH64 of their text with all placeholders filled in but the token's.

        Args:
            path: Of the arguments, for messages: ``custom.config``.

        Raises:
            BadTaskSpecificationError: a placeholder stands for nothing; named with its place.
        """
        filled = {name: self._value(value, f"{path}.{name}") for name, value in arguments.items()}
        token = xxhash64.hexdigest(_canonical(filled).encode()) if _has_token(filled) else ""
        return Formatted(_finished(filled, token), token)

    def text(self, text: str, path: str) -> str:
        """One text, as ``fill``."""
        return str(self._value(text, path))

    def _value(self, value: Any, path: str) -> Any:
        match value:
            case dict():
                return {name: self._value(member, f"{path}.{name}") for name, member in value.items()}
            case list():
                return [self._value(item, f"{path}[{index}]") for index, item in enumerate(value)]
            case str() if (whole := _PLACEHOLDER.fullmatch(value)) is not None and whole[1]:
                return _plain(self._named(whole[1], whole[2], path))
            case str():
                return _PLACEHOLDER.sub(lambda use: self._text_of(use, path), value)
            case _:
                return value

    def _text_of(self, use: re.Match[str], path: str) -> str:
        return use[0] if use[3] else _text(self._named(use[1], use[2], path))

    def _named(self, kind: str, name: str, path: str) -> Any:
        known = self.inputs if kind == "inputs" else self.images
        if name in known:
            return known[name]
        value: Any = known
        for step in name.split("."):
            if not isinstance(value, Mapping) or step not in value:
                there = ", ".join(sorted(known)) or "none"
                raise BadTaskSpecificationError(f"{path}: there is no '{kind}.{name}'; {kind} are: {there}")
            value = value[step]
        return value


def _plain(value: Any) -> Any:
    """Files and datasets as where they are, and what holds them with them."""
    match value:
        case Blob() | Dataset():
            return value.uri
        case dict():
            return {name: _plain(member) for name, member in value.items()}
        case list():
            return [_plain(item) for item in value]
        case timedelta():
            return value.total_seconds()
        case _:
            return value


def _text(value: Any) -> str:
    match _plain(value):
        case dict() | list() as structure:
            return msgspec.json.encode(structure).decode()
        case datetime() as moment:
            return moment.isoformat()
        case plain:
            return str(plain)


def _canonical(value: Any) -> str:
    """Members in the order of their names: ``{A: x, B: [1, None]}``."""
    match value:
        case dict():
            return "{" + ", ".join(f"{name}: {_canonical(value[name])}" for name in sorted(value)) + "}"
        case list():
            return "[" + ", ".join(map(_canonical, value)) + "]"
        case _:
            return str(value)


def _has_token(value: Any) -> bool:
    match value:
        case dict():
            return any(map(_has_token, value.values()))
        case list():
            return any(map(_has_token, value))
        case str():
            return _TOKEN in value
        case _:
            return False


def _finished(value: Any, token: str) -> Any:
    match value:
        case dict():
            return {name: _finished(member, token) for name, member in value.items() if member is not None}
        case list():
            return [_finished(item, token) for item in value]
        case str():
            return value.replace(_TOKEN, token)
        case _:
            return value
