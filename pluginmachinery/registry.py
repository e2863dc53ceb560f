"""Which plugin runs a task type, found, checked and loaded before the first task.

A *registry* is filled with *entries*, by hand or from installed distributions
(``Registry.discover``), then every plugin is loaded (``Registry.load``), then task types are
resolved. What is wrong with a plugin is a ``PluginError`` that names plugin, field and rule, and
costs that plugin only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from typing import Final

import msgspec

from propfan.pluginmachinery import entries
from propfan.pluginmachinery.entries import (
    CorePluginEntry,
    KubernetesPluginEntry,
    LoadedClusterPlugin,
    LoadedCorePlugin,
    LoadedKubernetesPlugin,
    LoadedPlugin,
    LoadedWebPlugin,
    PluginEntry,
    Sections,
    SetupContext,
    WebPluginEntry,
)
from propfan.pluginmachinery.errors import ConfigError, PluginError, PluginNotFoundError, TransientError
from propfan.pluginmachinery.kubernetes_plugin import Kind
from propfan.pluginmachinery.web_plugin import Discovering, Discovery

__all__ = [
    "ENTRY_POINT_GROUP",
    "CorePluginEntry",
    "KubernetesPluginEntry",
    "LoadedClusterPlugin",
    "LoadedCorePlugin",
    "LoadedKubernetesPlugin",
    "LoadedPlugin",
    "LoadedWebPlugin",
    "PluginDescription",
    "PluginEntry",
    "Registry",
    "SetupContext",
    "WebPluginEntry",
]

ENTRY_POINT_GROUP: Final = "propfan.plugins"
"""Where a distribution offers its entries: each entry point is an entry, or a collection of them."""


class PluginDescription(msgspec.Struct, frozen=True):
    """One line of ``propfan plugins``.

    Attributes:
        contract: ``kubernetes``, ``cluster``, ``core`` or ``web``.
        task_types: Those that are routed to it, sorted.
        watched: ``<plural>.<group>`` of its objects; empty when it has none.
        origin: Name and version of the distribution it was found in; empty when registered by hand.
        error: Why it could not be loaded; empty when it could, or when nobody tried.
    """

    id: str
    contract: str
    task_types: tuple[str, ...]
    watched: str
    is_default: bool
    is_loaded: bool
    origin: str
    error: str


class Registry:
    """All plugins of one engine.

    Args:
        default_for_task_types: Task type to plugin id: decides between several plugins that serve
            a type, and routes further types to a plugin.
        default_plugin: Id of the plugin that runs types nobody serves, before any ``is_default``;
            without one such a type is refused.
        enabled: Ids of the plugins that ``discover`` takes; all when empty.
    """

    def __init__(
        self,
        default_for_task_types: Mapping[str, str] | None = None,
        default_plugin: str = "",
        enabled: Collection[str] = (),
    ) -> None:
        self._enabled: Final = frozenset(enabled)
        self._routes: Final = dict(default_for_task_types or {})
        self._default_plugin: Final = default_plugin
        self._entries: Final[dict[str, PluginEntry]] = {}
        self._origins: Final[dict[str, str]] = {}
        self._servers: Final[dict[str, str]] = {}
        self._loaded: dict[str, LoadedPlugin] = {}
        self._discovering: Mapping[str, Discovering] = {}
        self._failures: dict[str, PluginError] = {}

    @property
    def plugins(self) -> tuple[LoadedPlugin, ...]:
        """Those that are loaded, in the order of their registration."""
        return tuple(self._loaded.values())

    @property
    def ids(self) -> frozenset[str]:
        """Of all plugins that are registered, also those that can not be loaded."""
        return frozenset(self._entries)

    @property
    def kinds(self) -> frozenset[Kind]:
        """Of the objects that plugins make, also of those that are not loaded."""
        found = [entry for entry in self._entries.values() if isinstance(entry, KubernetesPluginEntry)]
        shared = [entry.cluster_watched for entry in found if entry.cluster_watched is not None]
        return frozenset([*(entry.watched for entry in found), *shared])

    def probed(self, sections: Sections) -> frozenset[Kind]:
        """Kinds whose definitions plugins ask about under these sections below ``plugins``."""
        found = [entry for entry in self._entries.values() if isinstance(entry, KubernetesPluginEntry)]
        return frozenset(entry.watched for entry in found if _probes(entry, sections))

    def register(self, entry: PluginEntry) -> None:
        """Adds a plugin; an instance is checked at once, what makes one when it is loaded.

        Raises:
            PluginError: the entry breaks a rule, or collides with one that is there; nothing is changed.
        """
        self._register(entry, "")

    def discover(self) -> tuple[PluginError, ...]:
        """Registers what installed distributions offer as ``propfan.plugins``, in the order of their names.

        Returns:
            What was refused and why; a distribution at fault stops no other.
        """
        refused: list[PluginError] = []
        points = metadata.entry_points(group=ENTRY_POINT_GROUP)
        for point in sorted(points, key=lambda point: (_origin(point), point.name)):
            try:
                for entry in _offered(point):
                    if self._enabled and entry.id not in self._enabled:
                        continue
                    try:
                        self._register(entry, _origin(point))
                    except PluginError as error:
                        refused.append(error)
            except PluginError as error:
                refused.append(error)
        return tuple(refused)

    def load(self, setup: SetupContext) -> tuple[PluginError, ...]:
        """Makes every registered plugin; again makes them anew.

        Returns:
            Why plugins could not be loaded; a plugin at fault stops no other.

        Raises:
            ConfigError: the defaults name a plugin that is not registered.
        """
        for task_type, plugin in self._routes.items():
            self._check_known(f"default_for_task_types.{task_type}", plugin)
        if self._default_plugin:
            self._check_known("default_plugin", self._default_plugin)
        loaded: dict[str, LoadedPlugin] = {}
        failures: dict[str, PluginError] = {}
        for entry in self._entries.values():
            try:
                loaded[entry.id] = entries.load(entry, setup)
            except PluginError as error:
                failures[entry.id] = error
        self._loaded, self._failures = loaded, failures
        self._discovering = {
            plugin: it.plugin
            for plugin, it in loaded.items()
            if isinstance(it, LoadedWebPlugin) and isinstance(it.plugin, Discovering)
        }
        return tuple(failures.values())

    def resolve(self, task_type: str) -> LoadedPlugin:
        """The plugin that runs ``task_type``: the routed one, one that names it, one that discovered it, the default.

        Raises:
            PluginNotFoundError: none serves it and there is no default plugin.
            TransientError: none serves it yet; a service that may do so was not heard of so far.
            PluginError: the one that serves it could not be loaded; never another one in its place.
        """
        plugin = self._routes.get(task_type) or self._servers.get(task_type) or self._discoverer(task_type)
        plugin = plugin or self._default_id()
        if plugin is None:
            raise PluginNotFoundError(task_type)
        loaded = self._loaded.get(plugin)
        if loaded is None:
            raise self._failures.get(plugin) or PluginError(plugin, "load", "is not loaded: call Registry.load first")
        return loaded

    def describe(self) -> tuple[PluginDescription, ...]:
        """All registered plugins, in the order of their registration."""
        found = {t: plugin for plugin, known in self._discoveries() for t in known.task_types}
        routes = found | self._servers | self._routes
        default = self._default_id()
        return tuple(
            PluginDescription(
                id=entry.id,
                contract=_contract(entry),
                task_types=tuple(sorted(t for t, plugin in routes.items() if plugin == entry.id)),
                watched=str(entry.watched) if isinstance(entry, KubernetesPluginEntry) else "",
                is_default=entry.id == default,
                is_loaded=entry.id in self._loaded,
                origin=self._origins[entry.id],
                error=str(self._failures.get(entry.id, "")),
            )
            for entry in self._entries.values()
        )

    def _register(self, entry: PluginEntry, origin: str) -> None:
        entries.check(entry)
        self._check_collisions(entry)
        self._entries[entry.id] = entry
        self._origins[entry.id] = origin
        for task_type in entry.task_types:
            self._servers.setdefault(task_type, entry.id)

    def _check_collisions(self, entry: PluginEntry) -> None:
        if entry.id in self._entries:
            where = self._origins[entry.id] or "this program"
            raise PluginError(entry.id, "id", f"is taken by a plugin of {where}")
        for task_type in entry.task_types:
            server = self._servers.get(task_type)
            if server is not None and self._routes.get(task_type) not in (server, entry.id):
                raise PluginError(
                    entry.id,
                    "task_types",
                    f"'{task_type}' is served by plugin '{server}' already; "
                    f"choose one of them by default_for_task_types.{task_type}",
                )
        default = next((other.id for other in self._entries.values() if other.is_default), None)
        if entry.is_default and default is not None:
            raise PluginError(entry.id, "is_default", f"plugin '{default}' is the default already")

    def _discoveries(self) -> Iterator[tuple[str, Discovery]]:
        return ((plugin, discovering.discovered()) for plugin, discovering in self._discovering.items())

    def _discoverer(self, task_type: str) -> str | None:
        """Who discovered it. While somebody may yet, nobody else is taken in their place.

        Where there is a default plugin, which runs whatever nobody else does, that is so until every
        service was asked once; a service that is down for long must not hold it up.
        """
        unheard: list[str] = []
        for plugin, known in self._discoveries():
            if task_type in known.task_types:
                return plugin
            if not known.has_begun or not self._default_id():
                unheard += known.unheard
        if unheard:
            reason = f'no plugin serves task type "{task_type}" so far; not heard of yet: {", ".join(unheard)}'
            raise TransientError("PluginNotFound", reason)
        return None

    def _default_id(self) -> str | None:
        if self._default_plugin:
            return self._default_plugin
        return next((entry.id for entry in self._entries.values() if entry.is_default), None)

    def _check_known(self, field: str, plugin: str) -> None:
        if plugin not in self._entries:
            known = ", ".join(sorted(self._entries)) or "none"
            raise ConfigError(field, f"there is no plugin '{plugin}'; registered are: {known}")


def _probes(entry: KubernetesPluginEntry, sections: Sections) -> bool:
    try:
        return entry.probes_definition is not None and entry.probes_definition(sections)
    except ConfigError:  # loading the plugin says what is wrong, and it asks nothing then
        return False


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""


def _offered(point: metadata.EntryPoint) -> Iterator[PluginEntry]:
    """The entries behind an entry point, which may be anything that others wrote."""
    name = f"{point.name} ({_origin(point)})"
    try:
        found = point.load()
        offered = (found,) if isinstance(found, PluginEntry) else tuple(found)
    except (Exception, SystemExit) as error:
        raise PluginError(name, point.value, f"can not be loaded: {type(error).__name__}: {error}") from error
    for entry in offered:
        if not isinstance(entry, PluginEntry):
            raise PluginError(name, point.value, f"must be plugin entries, is {type(entry).__name__}")
        yield entry


def _contract(entry: PluginEntry) -> str:
    match entry:
        case KubernetesPluginEntry():
            return "kubernetes" if entry.load is not None else "cluster"
        case CorePluginEntry():
            return "core"
        case WebPluginEntry():
            return "web"
