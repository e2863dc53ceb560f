"""Fills values into strings that were cut at their placeholders beforehand."""

from __future__ import annotations

Segments = tuple[str | int, ...]
"""Literal text, and indexes into the values."""


def are_plain(used: tuple[int, ...], values: list[str]) -> bool:
    """Whether none of the used values is empty or has a brace, so that none can become a placeholder.

    Raises:
        IndexError: an index beyond ``values``.
    """
    for index in used:
        value = values[index]
        if not value or "{" in value:
            return False
    return True


def fill(plan: tuple[str | int | Segments, ...], values: list[str]) -> list[str]:
    """One string for each entry of ``plan``.

    An entry is the text itself, the index of the one value that is all of it, or its segments in order.

    Raises:
        IndexError: an index beyond ``values``.
    """
    filled: list[str] = []
    for entry in plan:
        if isinstance(entry, str):
            filled.append(entry)
        elif isinstance(entry, int):
            filled.append(values[entry])
        else:
            filled.append("".join([part if isinstance(part, str) else values[part] for part in entry]))
    return filled
