"""Requests and limits of one container, filled in and cut to what the platform allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from propfan._speedups import quantities

_KEPT = 8192

_values: dict[str, int] = {}
_printed: dict[str, str] = {}


def value(text: str) -> int:
    """`quantities.nanos`, remembered: tasks ask for the same few amounts again and again.

    Raises:
        QuantityError: it is no quantity.
    """
    known = _values.get(text)
    if known is None:
        known = quantities.nanos(text)
        if len(_values) >= _KEPT:
            _values.clear()
        _values[text] = known
    return known


def printed(text: str) -> str:
    """`quantities.canonical`, remembered.

    Raises:
        QuantityError: it is no quantity.
    """
    known = _printed.get(text)
    if known is None:
        known = quantities.canonical(text)
        if len(_printed) >= _KEPT:
            _printed.clear()
        _printed[text] = known
    return known


def resolve(
    requests: dict[str, str],
    limits: dict[str, str],
    defaults: Mapping[str, str],
    ceilings: Mapping[str, str],
    bounded: frozenset[str],
    assign: bool,  # noqa: FBT001 - compiled functions take positions
) -> dict[str, Any]:
    """``resources`` of a container, in written form.

    cpu and memory are always settled, the ``bounded`` ones where they are asked for; others pass through.

    Args:
        requests: The container's own; changed in place, as ``limits`` are.
        assign: Fill in what is missing; otherwise only cut, and name cpu and memory even when zero.

    Raises:
        QuantityError: an amount is no quantity.
    """
    names = ["cpu", "memory"]
    for name in bounded:
        if name not in names and (name in requests or name in limits):
            names.append(name)
    for name in names:
        request = requests.get(name, "0")
        limit = limits.get(name, "0")
        if assign:
            if not value(request):
                request = limit if value(limit) else defaults.get(name, "0")
            if not value(limit):
                limit = request
        ceiling = ceilings.get(name)
        if ceiling is not None:
            limit = _cut(limit, ceiling)
            request = _cut(request, ceiling)
        requests[name] = request if request is limit else _cut(request, limit)
        limits[name] = limit
    return {
        "limits": {name: printed(text) for name, text in limits.items()},
        "requests": {name: printed(text) for name, text in requests.items()},
    }


def _cut(text: str, ceiling: str) -> str:
    bound = value(ceiling)
    return ceiling if bound != 0 and bound < value(text) else text
