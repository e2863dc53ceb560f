"""The debugger that the SDK may start in a task's container instead of the task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

DEBUGGER: Final = "_F_E_VS"
"""Variable by which the SDK asks for it."""

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})


def asks_for_debugger(environment: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the first variable that could ask for a debugger does."""
    for variable in environment:
        if variable["name"] == DEBUGGER:
            return variable.get("value", "") in _TRUE
    return False
