"""``{idempotence_token}`` in the arguments of a call: a name that follows from the arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.plugins.connectors.aws import xxhash64
from propfan.plugins.connectors.placeholders import Placeholders

_TOKEN: Final = "{idempotence_token}"  # noqa: S105 - no secret


class Formatted(msgspec.Struct, frozen=True):
    """Arguments with values in place of their placeholders.

    Attributes:
        token: Names what the call makes; empty when the arguments do not ask for one.
    """

    arguments: dict[str, Any]
    token: str = ""


def formatted(arguments: Mapping[str, Any], placeholders: Placeholders, path: str) -> Formatted:
    """The arguments as they are sent. ``None`` is as good as absent, and left out.

    The token is the same for the same arguments, whatever task they come from, and the same that Flyte's own
    connector gives them: XXH64 of their text with all placeholders filled in but the token's.

    Args:
        path: Of the arguments, for messages: ``custom.config``.

    Raises:
        BadTaskSpecificationError: a placeholder stands for nothing; it is named with its place.
    """
    filled = placeholders.filled(arguments, path)
    token = xxhash64.hexdigest(_canonical(filled).encode()) if _has_token(filled) else ""
    return Formatted(_finished(filled, token), token)


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
