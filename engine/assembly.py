"""Puts the parts together that drive tasks: the same ones in an embedded engine and in the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster, Kind
from propfan.engine.config import EngineConfig
from propfan.engine.crd_schemas import ClusterCrdSchemas
from propfan.engine.pod_templates import WatchedPodTemplates
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.reconciler import Reconciler
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.reconcile.task_context import Ports
from propfan.engine.secret_managers.cascade import CascadingSecrets
from propfan.engine.storage import ObjectStore
from propfan.engine.task_cache import StoreCache, TaskCache
from propfan.engine.task_events import EventSink
from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.contexts import DataStore, SecretManager
from propfan.pluginmachinery.entries import LoadedClusterPlugin, LoadedKubernetesPlugin, SetupContext
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.registry import Registry

logger = structlog.get_logger(__name__)


class Foundation(msgspec.Struct, frozen=True):
    """What lives as long as an engine does."""

    config: EngineConfig
    k8s: K8sConfig
    cluster: Cluster
    store: DataStore
    store_root: str
    secrets: SecretManager
    registry: Registry
    pod_templates: WatchedPodTemplates
    clock: Clock


def lay(
    config: EngineConfig,
    cluster: Cluster,
    clock: Clock,
    *,
    registry: Registry | None = None,
    store: DataStore | None = None,
) -> Foundation:
    """Loads the plugins; nothing runs yet. A plugin that can not be loaded is logged, and its tasks are refused.

    Args:
        registry: In place of the installed plugins.
        store: In place of object stores by URI.

    Raises:
        ConfigError: a setting is wrong.
    """
    k8s = decode_config(K8sConfig, config.plugins.get("k8s"), "plugins.k8s")
    logs = decode_config(LogsConfig, config.plugins.get("logs"), "plugins.logs")
    root = store_root(config)
    secrets = CascadingSecrets.configured(config.secrets, os.environ, cluster, clock)
    pod_templates = WatchedPodTemplates(cluster, config.namespace, config.namespaces)
    registry = registry or installed_plugins(config)
    crds = ClusterCrdSchemas(cluster, clock)
    setup = SetupContext(k8s, logs, secrets, pod_templates, config.plugins, dict(os.environ), crds=crds)
    for problem in registry.load(setup):
        logger.error("plugin can not be loaded", plugin=problem.plugin, error=str(problem))
    store = store or ObjectStore(config.storage.with_environment(os.environ))
    return Foundation(config, k8s, cluster, store, root, secrets, registry, pod_templates, clock)


def own_cache(foundation: Foundation) -> TaskCache:
    """The cache of an engine that has no cache service."""
    prefix = iopaths.join(foundation.store_root, "cache")
    return StoreCache(foundation.store, prefix, foundation.clock, limit_bytes=foundation.config.max_payload_bytes)


def reconciler(
    foundation: Foundation,
    *,
    cluster: Cluster,
    cache: TaskCache,
    sink: EventSink,
    on_final: Callable[[LiveTask], None],
    shards: frozenset[int] | None = None,
    may_act: Callable[[], bool] = lambda: True,
    rounds: Callable[..., Rounds] = Rounds,
) -> Reconciler:
    """A reconciler that has not seen any task yet.

    Args:
        cluster: As this reconciler may use it; the foundation's own, perhaps behind a fence.
        shards, may_act: See ``Reconciler``.
        rounds: Makes them from what ``Rounds`` is made of.
    """
    config, clock = foundation.config, foundation.clock
    ports = Ports(
        cluster,
        foundation.store,
        foundation.secrets,
        config.max_payload_bytes,
        config.default_service_account,
        config.sharding.shards if shards is not None else 0,
        config.quotas,
    )
    made = rounds(foundation.registry, ports, cache, config, foundation.k8s, clock)
    return Reconciler(
        cluster,
        made,
        sink,
        config,
        clock,
        watched=watched(foundation.registry),
        on_final=on_final,
        shards=shards,
        tells_events=foundation.k8s.send_object_events,
        may_act=may_act,
    )


def installed_plugins(config: EngineConfig) -> Registry:
    """A registry of everything that is installed and enabled; what is refused is logged by name.

    Raises:
        ConfigError: a plugin is enabled that is not installed.
    """
    registry = Registry(config.default_for_task_types, config.default_plugin, config.enabled_plugins)
    for problem in registry.discover():
        logger.error("plugin refused", plugin=problem.plugin, error=str(problem))
    if missing := sorted(set(config.enabled_plugins) - registry.ids):
        raise ConfigError("enabled-plugins", f"no plugin '{missing[0]}' is installed: 'propfan plugins' lists them")
    return registry


def store_root(config: EngineConfig) -> str:
    """URI below which tasks leave what they make.

    Raises:
        ConfigError: the folder can not be made.
    """
    if config.store:
        return config.store.rstrip("/")
    if config.data_dir is None:
        return "memory://propfan"
    folder = Path(config.data_dir).absolute() / "store"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("data_dir", f"{folder} can not be made: {error}") from error
    return f"file://{folder}"  # not as_uri(): stores and the SDK take names as they are, without percent signs


def shared(registry: Registry) -> frozenset[Kind]:
    """Kinds of the clusters that tasks share."""
    return frozenset(loaded.cluster_watched for loaded in registry.plugins if isinstance(loaded, LoadedClusterPlugin))


def watched(registry: Registry) -> frozenset[Kind]:
    """Kinds of the objects that tasks run as."""
    return frozenset(
        loaded.entry.watched
        for loaded in registry.plugins
        if isinstance(loaded, LoadedKubernetesPlugin | LoadedClusterPlugin)
    )
