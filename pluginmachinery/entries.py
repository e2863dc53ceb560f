"""What a plugin registers itself with, and how it is checked and made.

An *entry* is inert until ``load`` makes its plugin with a ``SetupContext``; ``check`` refuses an
entry that could never be loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from propfan.pluginmachinery import conformance
from propfan.pluginmachinery.config import DEFAULT_STORAGE, K8sConfig, StorageConfig, decode_config
from propfan.pluginmachinery.contexts import NoPodTemplates, PodTemplateStore, SecretManager
from propfan.pluginmachinery.core_plugin import CorePlugin, CoreProperties
from propfan.pluginmachinery.errors import PluginError
from propfan.pluginmachinery.kubernetes_plugin import ClusterPlugin, Kind, KubernetesPlugin, Properties
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.web_plugin import AsyncWebPlugin, Discovering, SyncWebPlugin, WebPluginConfig

T = TypeVar("T")

_NO_TASK_TYPE: Final = "must name at least one task type"


class CrdSchemas(Protocol):
    """What the custom resource definitions of the cluster say."""

    async def has_field(self, kind: Kind, path: str) -> bool:
        """Whether the schema of a kind, in its version, has a field.

        Args:
            path: From the object's root, e.g. ``spec.driver.template``.

        Returns:
            ``False`` also when the cluster does not serve that kind in that version, or nobody may look.

        Raises:
            ApiError, DecodeError: the definition can not be read now.
        """
        ...


class NoCrdSchemas:
    """Of a cluster that has no definitions, or where nobody looks."""

    async def has_field(self, kind: Kind, path: str) -> bool:
        return False


class SetupContext(msgspec.Struct, frozen=True):
    """What a plugin may use while it is loaded; all of it may be kept.

    Attributes:
        k8s: Configuration of everything that builds pods.
        logs: Configuration of log links.
        sections: The plugins' own configuration sections as they were read, by name below ``plugins``.
        environment: Variables of the engine's process, of which the configuration may pass some on.
        storage: Of the engine, for containers that move inputs and outputs.
        crds: For plugins whose objects depend on the version of their operator; asking costs a request.
        logger_level: Of those containers; 3 is warnings.
        workflow_id: Of the workflow that the engine itself runs in, which its tasks are told; may be empty.
    """

    k8s: K8sConfig
    logs: LogsConfig
    secrets: SecretManager
    pod_templates: PodTemplateStore = NoPodTemplates()
    sections: Mapping[str, Mapping[str, Any]] = {}
    environment: Mapping[str, str] = {}
    storage: StorageConfig = DEFAULT_STORAGE
    crds: CrdSchemas = NoCrdSchemas()
    logger_level: int = 3
    workflow_id: str = ""

    def section(self, name: str, shape: type[T]) -> T:
        """The section ``name`` as a Struct; its defaults where the section is absent.

        Raises:
            ConfigError: values have a wrong type or keys are unknown; each is named by its dotted path.
        """
        return decode_config(shape, self.sections.get(name), f"plugins.{name}")


KubernetesLoader = KubernetesPlugin | Callable[[SetupContext], KubernetesPlugin]
ClusterLoader = ClusterPlugin | Callable[[SetupContext], ClusterPlugin]
CoreLoader = CorePlugin | Callable[[SetupContext], CorePlugin]
WebPlugin = AsyncWebPlugin[Any] | SyncWebPlugin
WebLoader = WebPlugin | Callable[[SetupContext], WebPlugin]


Sections = Mapping[str, Mapping[str, Any]]


class KubernetesPluginEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin whose tasks are one Kubernetes object each: exactly one of ``load`` and ``load_cluster``.

    Attributes:
        id: Unique among all plugins.
        task_types: Each is served by one plugin only.
        watched: Kind of the objects, whose changes the engine watches.
        load: The plugin, or what makes it (its class will do).
        load_cluster: Likewise, for jobs on a shared cluster.
        cluster_watched: Kind of that cluster.
        probes_definition: Whether, under these sections below ``plugins``, the plugin asks ``SetupContext.crds`` about the
            ``watched`` kind: the engine wants the right to read that one definition then.
        is_default: Also runs task types that no plugin serves; at most one plugin may.
    """

    id: str
    task_types: Collection[str]
    watched: Kind
    load: KubernetesLoader | None = None
    load_cluster: ClusterLoader | None = None
    cluster_watched: Kind | None = None
    probes_definition: Callable[[Sections], bool] | None = None
    is_default: bool = False


class CorePluginEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that runs tasks by itself; the attributes are as of ``KubernetesPluginEntry``."""

    id: str
    task_types: Collection[str]
    load: CoreLoader
    is_default: bool = False


class WebPluginEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that runs tasks on an external service; the attributes are as of ``KubernetesPluginEntry``.

    ``task_types`` may be empty for a plugin that discovers them (``web_plugin.Discovering``).
    """

    id: str
    task_types: Collection[str] = ()
    load: WebLoader
    is_default: bool = False


PluginEntry = KubernetesPluginEntry | CorePluginEntry | WebPluginEntry


class LoadedKubernetesPlugin(msgspec.Struct, frozen=True):
    entry: KubernetesPluginEntry
    plugin: KubernetesPlugin
    properties: Properties


class LoadedClusterPlugin(msgspec.Struct, frozen=True):
    entry: KubernetesPluginEntry
    plugin: ClusterPlugin
    properties: Properties
    cluster_watched: Kind


class LoadedCorePlugin(msgspec.Struct, frozen=True):
    entry: CorePluginEntry
    plugin: CorePlugin
    properties: CoreProperties


class LoadedWebPlugin(msgspec.Struct, frozen=True):
    entry: WebPluginEntry
    plugin: WebPlugin
    config: WebPluginConfig


LoadedPlugin = LoadedKubernetesPlugin | LoadedClusterPlugin | LoadedCorePlugin | LoadedWebPlugin


def check(entry: PluginEntry) -> None:
    """Raises ``PluginError`` when the entry, or an instance in it, breaks a rule."""
    if not isinstance(entry, PluginEntry):
        raise PluginError(str(getattr(entry, "id", "")), "entry", f"must be a plugin entry, is {type(entry).__name__}")
    if not _is_name(entry.id):
        raise PluginError(str(entry.id), "id", f"is required: a name that is unique among all plugins, is {entry.id!r}")
    conformance.check_flag(entry.id, entry, "is_default")
    _check_task_types(entry.id, entry.task_types, may_be_none=isinstance(entry, WebPluginEntry))
    if isinstance(entry, KubernetesPluginEntry):
        _check_kubernetes(entry)
    elif entry.load is None:
        raise PluginError(entry.id, "load", "is required: a plugin, or what makes one")
    field, loader, protocols = _loader(entry)
    if _is_plugin(loader, protocols):
        _checked(entry, loader)
    else:
        _check_loader(entry.id, field, loader)


def load(entry: PluginEntry, setup: SetupContext) -> LoadedPlugin:
    """Makes the plugin and checks it.

    Raises:
        PluginError: it can not be made, or is not what its entry says.
    """
    field, loader, protocols = _loader(entry)
    if _is_plugin(loader, protocols):
        return _checked(entry, loader)
    try:
        plugin = loader(setup)
    except Exception as error:
        raise PluginError(entry.id, field, f"raised {type(error).__name__}: {error}") from error
    if plugin is None:
        raise PluginError(entry.id, field, "returned None instead of a plugin")
    return _checked(entry, plugin)


def _check_task_types(plugin: str, task_types: object, *, may_be_none: bool) -> None:
    field = "task_types"
    if isinstance(task_types, str) or not isinstance(task_types, Collection):
        raise PluginError(plugin, field, f"must be a collection of strings, is {type(task_types).__name__}")
    if not task_types and not may_be_none:
        raise PluginError(plugin, field, _NO_TASK_TYPE)
    for task_type in task_types:
        if not _is_name(task_type):
            raise PluginError(plugin, field, f"must be names, one is {task_type!r}")
    if len(set(task_types)) != len(task_types):
        raise PluginError(plugin, field, "names a task type twice")


def _check_kubernetes(entry: KubernetesPluginEntry) -> None:
    if entry.load is None and entry.load_cluster is None:
        raise PluginError(entry.id, "load", "is required, or load_cluster: a plugin, or what makes one")
    if entry.load is not None and entry.load_cluster is not None:
        raise PluginError(entry.id, "load_cluster", "must not be set together with load")
    _check_kind(entry.id, "watched", entry.watched)
    if entry.load_cluster is not None:
        _check_kind(entry.id, "cluster_watched", entry.cluster_watched)
    elif entry.cluster_watched is not None:
        raise PluginError(entry.id, "cluster_watched", "is only for load_cluster")


def _check_kind(plugin: str, field: str, kind: object) -> None:
    if not isinstance(kind, Kind):
        raise PluginError(plugin, field, f"is required: the Kind of object to watch, is {type(kind).__name__}")
    for part in ("version", "kind", "plural"):
        if not _is_name(getattr(kind, part)):
            raise PluginError(plugin, f"{field}.{part}", f"must be a name, is {getattr(kind, part)!r}")
    group: object = kind.group
    if not isinstance(group, str):
        raise PluginError(plugin, f"{field}.group", f"must be a string, is {type(group).__name__}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value == value.strip()


def _loader(entry: PluginEntry) -> tuple[str, Any, tuple[type, ...]]:
    """Name and value of the loading attribute, and the protocols that its plugin may have."""
    match entry:
        case KubernetesPluginEntry():
            if entry.load is not None:
                return "load", entry.load, (KubernetesPlugin,)
            return "load_cluster", entry.load_cluster, (ClusterPlugin,)
        case CorePluginEntry():
            return "load", entry.load, (CorePlugin,)
        case WebPluginEntry():
            return "load", entry.load, (AsyncWebPlugin, SyncWebPlugin)


def _is_plugin(loader: object, protocols: tuple[type, ...]) -> bool:
    """Whether it is a plugin, however broken, rather than what makes one."""
    if isinstance(loader, type):
        return False
    return any(hasattr(loader, name) for protocol in protocols for name in conformance.method_names(protocol))


def _check_loader(plugin: str, field: str, loader: Any) -> None:
    if not callable(loader):
        raise PluginError(plugin, field, f"must be a plugin, or what makes one, is {type(loader).__name__}")
    if inspect.iscoroutinefunction(loader):
        raise PluginError(plugin, field, "must not be async: load a plugin without waiting for anything")
    try:
        inspect.signature(loader).bind("setup")
    except TypeError as error:
        raise PluginError(plugin, field, f"must be callable with one SetupContext: {error}") from None
    except ValueError:  # compiled without a signature: loading will tell
        return


def _checked(entry: PluginEntry, plugin: Any) -> LoadedPlugin:
    match entry:
        case KubernetesPluginEntry() if entry.cluster_watched is not None:
            properties = conformance.check_kubernetes_plugin(entry.id, plugin, ClusterPlugin)
            return LoadedClusterPlugin(entry, plugin, properties, entry.cluster_watched)
        case KubernetesPluginEntry():
            properties = conformance.check_kubernetes_plugin(entry.id, plugin, KubernetesPlugin)
            return LoadedKubernetesPlugin(entry, plugin, properties)
        case CorePluginEntry():
            return LoadedCorePlugin(entry, plugin, conformance.check_core_plugin(entry.id, plugin))
        case WebPluginEntry():
            config = conformance.check_web_plugin(entry.id, plugin)
            if not entry.task_types and not isinstance(plugin, Discovering):
                raise PluginError(entry.id, "task_types", f"{_NO_TASK_TYPE}: the plugin does not discover any")
            return LoadedWebPlugin(entry, plugin, config)
