"""Which connector runs a task type.

A *registry* holds connectors that are made already. ``offers`` finds what installed distributions and
modules offer; what is wrong with one of them costs that one only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector.categories import TaskCategory
from propfan.pluginmachinery.connector.conformance import check_connector
from propfan.pluginmachinery.connector.contract import Connector, SyncConnector
from propfan.pluginmachinery.connector.ports import ConnectorSetup
from propfan.pluginmachinery.errors import ConnectorError, ConnectorNotFoundError

ENTRY_POINT_GROUP: Final = "propfan.connectors"
"""Where a distribution offers its connectors: each entry point is what makes one, or a collection of them."""

MODULE_ATTRIBUTE: Final = "connectors"
"""Name under which a module that is loaded by name offers the same."""

ConnectorLoader = Connector | Callable[[ConnectorSetup], Connector]


class ConnectorMetadata(msgspec.Struct, frozen=True):
    """What the control plane is told about connectors of one name (``Connector``, in Flyte 1 ``Agent``).

    Attributes:
        categories: Those of all connectors of that name, in the order of their registration.
        is_sync: Whether they do a task in one call.
    """

    name: str
    categories: tuple[TaskCategory, ...]
    is_sync: bool


class ConnectorRegistry:
    """Connectors by what they run. Not for several threads at once."""

    def __init__(self, connectors: Iterable[Connector] = ()) -> None:
        self._by_category: Final[dict[TaskCategory, Connector]] = {}
        for connector in connectors:
            self.register(connector)

    def register(self, connector: Connector, *, override: bool = False) -> None:
        """Adds a connector.

        Args:
            override: Takes over categories that another connector has; else they are refused.

        Raises:
            ConnectorError: it breaks a rule, or collides with one that is there; nothing is changed.
        """
        check_connector(connector)
        taken = [category for category in connector.categories if category in self._by_category]
        if taken and not override:
            first = taken[0]
            problem = f"Duplicate connector for task type: {first.name} and version: {first.version}"
            owner = self._by_category[first].name
            raise ConnectorError(connector.name, "categories", f"{problem}; '{owner}' has it already")
        self._check_kind(connector, set(taken))
        for category in connector.categories:
            self._by_category.pop(category, None)  # the order tells of the connector that has it now
            self._by_category[category] = connector

    def _check_kind(self, connector: Connector, replaced: set[TaskCategory]) -> None:
        """In lists there is one line for a name, which says whether it is synchronous."""
        is_sync = isinstance(connector, SyncConnector)
        for category, other in self._by_category.items():
            if (
                category not in replaced
                and other.name == connector.name
                and isinstance(other, SyncConnector) != is_sync
            ):
                kinds = ("asynchronous", "synchronous") if is_sync else ("synchronous", "asynchronous")
                problem = f"is the name of a connector that is {kinds[0]}, and this one is {kinds[1]}"
                raise ConnectorError(connector.name, "name", problem)

    def get_connector(self, name: str, version: int = 0) -> Connector:
        """The connector of a task type.

        Raises:
            ConnectorNotFoundError: none has this very version; versions do not stand in for each other.
        """
        connector = self._by_category.get(TaskCategory(name, version))
        if connector is None:
            versions = sorted(str(category.version) for category in self._by_category if category.name == name)
            if versions:
                hint = f"there is version {', '.join(versions)}"
            else:
                known = sorted({category.name for category in self._by_category})
                hint = f"there are: {', '.join(known)}" if known else "no connector is registered"
            raise ConnectorNotFoundError(f"task type: {name} and version: {version}", hint)
        return connector

    def list_connectors(self) -> tuple[ConnectorMetadata, ...]:
        """One line for each name, sorted by it."""
        names = sorted({connector.name for connector in self._by_category.values()})
        return tuple(self.get_connector_metadata(name) for name in names)

    def get_connector_metadata(self, name: str) -> ConnectorMetadata:
        """Raises ``ConnectorNotFoundError`` when no connector has the name."""
        found = {category: each for category, each in self._by_category.items() if each.name == name}
        if not found:
            names = sorted({connector.name for connector in self._by_category.values()})
            raise ConnectorNotFoundError(f"name: {name}", f"there are: {', '.join(names)}" if names else "")
        is_sync = any(isinstance(connector, SyncConnector) for connector in found.values())
        return ConnectorMetadata(name, tuple(found), is_sync)

    def __iter__(self) -> Iterator[Connector]:
        """Each connector once, in the order of registration."""
        return iter(dict.fromkeys(self._by_category.values()))


class ConnectorOffer(msgspec.Struct, frozen=True):
    """A connector that can be made.

    Attributes:
        origin: The distribution with its version, or the module.
        where: ``module:attribute``.
    """

    loader: Any
    origin: str
    where: str

    def make(self, setup: ConnectorSetup) -> Connector:
        """The connector, checked.

        Raises:
            ConnectorError: it can not be made, or is not what a connector must be.
        """
        if isinstance(self.loader, Connector):
            check_connector(self.loader)
            return self.loader
        try:
            connector = self.loader(setup)
        except Exception as error:
            raise ConnectorError(self.where, "load", f"raised {type(error).__name__}: {error}") from error
        check_connector(connector)
        made: Connector = connector
        return made


class Offers(msgspec.Struct, frozen=True):
    """What was found, and what was refused and why."""

    found: Sequence[ConnectorOffer]
    refused: Sequence[ConnectorError]


def offers(modules: Sequence[str] = (), *, entry_points: bool = True) -> Offers:
    """The connectors of installed distributions, then those of ``modules``, which are imported.

    A module or entry point at fault stops no other one.

    Args:
        modules: Dotted names; each has a ``connectors``, or ``module:attribute`` says what to take.
        entry_points: Whether to look at installed distributions at all.
    """
    found: list[ConnectorOffer] = []
    refused: list[ConnectorError] = []
    points = metadata.entry_points(group=ENTRY_POINT_GROUP) if entry_points else ()
    sources = [
        (_origin(point), point.value, point) for point in sorted(points, key=lambda point: (_origin(point), point.name))
    ]
    for module in modules:
        where = module if ":" in module else f"{module}:{MODULE_ATTRIBUTE}"
        if not all(part.isidentifier() for part in where.replace(":", ".").split(".")):
            refused.append(ConnectorError(module, "import", "is no 'package.module' or 'package.module:attribute'"))
            continue
        sources.append((module, where, metadata.EntryPoint(module, where, ENTRY_POINT_GROUP)))
    for origin, where, point in sources:
        try:
            found += _offered(point, origin, where)
        except ConnectorError as error:
            refused.append(error)
    return Offers(found, refused)


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""


def _offered(point: metadata.EntryPoint, origin: str, where: str) -> Iterator[ConnectorOffer]:
    """What is behind an entry point, which may be anything that others wrote."""
    try:
        importlib.import_module(point.module)
        loaded = point.load()
        offered = (loaded,) if isinstance(loaded, Connector) or callable(loaded) else tuple(loaded)
    except (Exception, SystemExit) as error:
        raise ConnectorError(where, "import", f"{type(error).__name__}: {error}") from error
    for loader in offered:
        if not isinstance(loader, Connector) and not callable(loader):
            problem = f"must be a connector class, or what makes a connector, is {type(loader).__name__}"
            raise ConnectorError(where, "offer", problem)
        yield ConnectorOffer(loader, origin, where)
