"""Connectors that need a library which is not installed with propfan."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from propfan.pluginmachinery.connector import Connector
from propfan.pluginmachinery.connector.registry import NotOffered


def offered(extra: str, library: str, *connectors: type[Connector]) -> Sequence[type[Connector]]:
    """The connectors where ``library``, a module of the extra, is installed; else none, which says what to install.

    The library itself is not imported: connectors do that when they are first asked.
    """
    if find_spec(library) is not None:
        return connectors
    return NotOffered(connectors, f"pip install 'propfan[{extra}]'")
