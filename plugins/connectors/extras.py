"""Connectors that need a library which is not installed with propfan."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import structlog

from propfan.pluginmachinery.connector import Connector

logger = structlog.get_logger(__name__)


def offered(extra: str, library: str, *connectors: type[Connector]) -> Sequence[type[Connector]]:
    """The connectors where ``library``, a module of the extra, is installed; else none, and the log says so.

    The library itself is not imported: connectors do that when they are first asked.
    """
    if find_spec(library) is not None:
        return connectors
    names = ", ".join(connector.name for connector in connectors)
    logger.info("connectors are not offered", connectors=names, way_out=f"pip install 'propfan[{extra}]'")
    return ()
