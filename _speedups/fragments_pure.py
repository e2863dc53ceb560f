"""JSON texts that were cut where something is inserted: strings, and lists of environment variables.

The definition of ``fragments.pyx``. A *program* is a tuple of literal bytes and of indexes into the values.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class FragmentError(ValueError):
    """A program and its values do not fit together, or a text is no valid Unicode."""


def cut(text: bytes, mark: bytes) -> tuple[bytes | int, ...]:
    """The program of a text in which ``mark``, its index in decimal digits, ``mark`` stands for each value.

    Raises:
        FragmentError: a mark stands alone.
    """
    parts = text.split(mark)
    if len(parts) % 2 == 0 or not all(digits.isdigit() for digits in parts[1::2]):
        raise FragmentError("a mark stands alone")
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))


def render(program: tuple[bytes | int, ...], values: list[str | Mapping[str, str]]) -> bytes:
    """The text with its values.

    A string is written as the inside of a JSON string, a mapping as the members of a list of Kubernetes
    environment variables, sorted by name; an empty value is left out.

    Raises:
        FragmentError: an index is beyond the values, or a text is no valid Unicode.
    """
    parts = []
    part: bytes | int = 0
    try:
        for part in program:
            if isinstance(part, bytes):
                parts.append(part)
                continue
            value = values[part]
            if isinstance(value, str):
                parts.append(msgspec.json.encode(value)[1:-1])
            else:
                variables = [
                    {"name": name, "value": value[name]} if value[name] else {"name": name} for name in sorted(value)
                ]
                parts.append(msgspec.json.encode(variables)[1:-1])
    except IndexError:
        raise FragmentError(f"there are {len(values)} values, number {part!r} is asked for") from None
    except UnicodeEncodeError as error:
        raise FragmentError(f"a text is no valid Unicode: {error.reason}") from None
    return b"".join(parts)


def empties(values: list[str | Mapping[str, str]]) -> int:
    """Which values are empty, one bit for each from the least on."""
    mask = 0
    for index, value in enumerate(values):
        if not value:
            mask |= 1 << index
    return mask


def have_brace(values: list[str | Mapping[str, str]], indexes: tuple[int, ...]) -> bool:
    """Whether one of the strings at ``indexes`` holds an opening brace."""
    return any("{" in values[index] for index in indexes)
