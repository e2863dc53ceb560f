"""Which connector runs a task type.

``offers`` finds what installed distributions and modules offer; what is wrong with one of them costs that one
only. ``choose`` says which of the connectors that were made of it run what. A *registry* holds these.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any, Final, Self

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

NATIVE_DISTRIBUTION: Final = "propfan"
"""Connectors that it brings itself give way to those that were installed or named on purpose."""

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


class NotOffered(tuple[type[Connector], ...]):  # noqa: SLOT001 - tuples have none but what the instance tells
    """In the place of connectors, of which it has none: what they are and what they lack.

    Attributes:
        connectors: What there would be.
        way_out: What to do about it: ``pip install 'propfan[slurm]'``.
    """

    connectors: Sequence[type[Connector]]
    way_out: str

    def __new__(cls, connectors: Sequence[type[Connector]], way_out: str) -> Self:
        made = super().__new__(cls)
        made.connectors, made.way_out = connectors, way_out
        return made


class ConnectorRegistry:
    """Connectors by what they run. Not for several threads at once.

    Args:
        not_offered: Told to whoever asks for what they would run.
    """

    def __init__(self, connectors: Iterable[Connector] = (), not_offered: Sequence[NotOffered] = ()) -> None:
        self._by_category: Final[dict[TaskCategory, Connector]] = {}
        self._not_offered: Final = not_offered
        for connector in connectors:
            self.register(connector)

    def register(self, connector: Connector, *, override: bool = False, without: Collection[TaskCategory] = ()) -> None:
        """Adds a connector.

        Args:
            override: Takes over categories that another connector has; else they are refused.
            without: Categories of its own that it does not get.

        Raises:
            ConnectorError: it breaks a rule, or collides with one that is there; nothing is changed.
        """
        check_connector(connector)
        categories = [category for category in connector.categories if category not in without]
        taken = [category for category in categories if category in self._by_category]
        if taken and not override:
            first = taken[0]
            problem = f"Duplicate connector for task type: {first.name} and version: {first.version}"
            owner = self._by_category[first].name
            raise ConnectorError(connector.name, "categories", f"{problem}; '{owner}' has it already")
        self._check_kind(connector, set(taken))
        for category in categories:
            self._by_category.pop(category, None)  # the order tells of the connector that has it now
            self._by_category[category] = connector

    def _check_kind(self, connector: Connector, replaced: set[TaskCategory]) -> None:
        """In lists there is one line for a name, which says whether it is synchronous."""
        is_sync = isinstance(connector, SyncConnector)
        for category, other in self._by_category.items():
            if category not in replaced and _differ_in_kind(connector, other):
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
            missing = self._what_would_run(TaskCategory(name, version))
            if missing is not None:
                hint = f"its connector needs {missing.way_out}"
            elif versions:
                hint = f"there is version {', '.join(versions)}"
            else:
                known = sorted({category.name for category in self._by_category})
                hint = f"there are: {', '.join(known)}" if known else "no connector is registered"
            raise ConnectorNotFoundError(f"task type: {name} and version: {version}", hint)
        return connector

    def _what_would_run(self, category: TaskCategory) -> NotOffered | None:
        for each in self._not_offered:
            if any(category in connector.categories for connector in each.connectors):
                return each
        return None

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
        is_native: Whether it is one of propfan's own, which no user asked for.
    """

    loader: Any
    origin: str
    where: str
    is_native: bool = False

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
    """What was found, what was refused and why, and what is not there for want of something."""

    found: Sequence[ConnectorOffer]
    refused: Sequence[ConnectorError]
    not_offered: Sequence[NotOffered] = ()


def offers(modules: Sequence[str] = (), *, entry_points: bool = True) -> Offers:
    """The connectors of installed distributions, then those of ``modules``, which are imported.

    A module or entry point at fault stops no other one.

    Args:
        modules: Dotted names; each has a ``connectors``, or ``module:attribute`` says what to take.
        entry_points: Whether to look at installed distributions at all.
    """
    found: list[ConnectorOffer] = []
    refused: list[ConnectorError] = []
    not_offered: list[NotOffered] = []
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
            loaded = _loaded(point, where)
        except ConnectorError as error:
            refused.append(error)
            continue
        if isinstance(loaded, NotOffered):
            not_offered.append(loaded)
        is_native = point.dist is not None and point.dist.name == NATIVE_DISTRIBUTION
        for loader in loaded:
            if isinstance(loader, Connector) or callable(loader):
                found.append(ConnectorOffer(loader, origin, where, is_native))
            else:
                problem = f"must be a connector class, or what makes a connector, is {type(loader).__name__}"
                refused.append(ConnectorError(where, "offer", problem))
    return Offers(found, refused, not_offered)


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""


def _loaded(point: metadata.EntryPoint, where: str) -> Sequence[Any]:
    """What is behind an entry point, which may be anything that others wrote."""
    try:
        importlib.import_module(point.module)
        loaded = point.load()
        if isinstance(loaded, NotOffered):
            return loaded
        return (loaded,) if isinstance(loaded, Connector) or callable(loaded) else tuple(loaded)
    except (Exception, SystemExit) as error:
        raise ConnectorError(where, "import", f"{type(error).__name__}: {error}") from error


class GivenWay(msgspec.Struct, frozen=True):
    """A native connector that another one stands in for, wholly or in part."""

    native: Connector
    other: Connector


class Choice(msgspec.Struct, frozen=True):
    """Which connectors run tasks.

    Attributes:
        registry: Those that run something.
        refused: What was refused, when it was looked for, made or chosen; native ones last.
        given_way: What an administrator may want to know of native ones.
        is_native: Whether all that is in the registry came with propfan.
    """

    registry: ConnectorRegistry
    refused: Sequence[ConnectorError]
    given_way: Sequence[GivenWay]
    is_native: bool


def choose(offered: Offers, made: Sequence[Connector | ConnectorError]) -> Choice:
    """Of several connectors for one task type and version a native one gives way; else the later one is refused.

    A native one also gives way to another one of its name which is not synchronous where it is, or the reverse,
    since a name stands for one kind.

    Args:
        made: What became of ``offered.found``, one for each.
    """
    registry = ConnectorRegistry(not_offered=offered.not_offered)
    refused, given_way = list(offered.refused), []
    results = list(zip(offered.found, made, strict=True))
    for _, connector in (each for each in results if not each[0].is_native):
        _register(registry, connector, refused)
    others = list(registry)
    for _, connector in (each for each in results if each[0].is_native):
        if isinstance(connector, ConnectorError):
            refused.append(connector)
            continue
        rivals = [other for other in others if _collide(connector, other)]
        given_way += [GivenWay(connector, other) for other in rivals]
        if not any(_differ_in_kind(connector, other) for other in rivals):
            _register(registry, connector, refused, {category for other in rivals for category in other.categories})
    return Choice(registry, refused, given_way, not others)


def _register(
    registry: ConnectorRegistry,
    made: Connector | ConnectorError,
    refused: list[ConnectorError],
    without: Collection[TaskCategory] = (),
) -> None:
    try:
        if isinstance(made, ConnectorError):
            raise made
        registry.register(made, without=without)
    except ConnectorError as error:
        refused.append(error)


def _collide(one: Connector, other: Connector) -> bool:
    return _differ_in_kind(one, other) or not set(one.categories).isdisjoint(other.categories)


def _differ_in_kind(one: Connector, other: Connector) -> bool:
    """Whether one name would stand for a synchronous and an asynchronous connector."""
    return one.name == other.name and isinstance(one, SyncConnector) != isinstance(other, SyncConnector)
