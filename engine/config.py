"""The engine's configuration: frozen values, read once and passed in."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.processes.scheduler import Capacity
from propfan.engine.resources.config import QuotasSection
from propfan.engine.secret_managers.config import SecretsSection
from propfan.engine.storage import StorageConfig
from propfan.engine.webhook.config import WebhookSection

LONGEST_S: Final = 100 * 365 * 86_400.0
"""A hundred years: what is longer, and infinite, has no date at its end."""

Seconds = Annotated[float, Meta(gt=0, le=LONGEST_S)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=LONGEST_S)]


class ShardingSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``sharding``: how replicas of ``propfan serve`` share the tasks.

    Attributes:
        shards: Into so many parts tasks are divided by their run. The same for all replicas: to change it,
            stop them all first.
        group: Replicas of one group share; the Leases' names begin with it.
        namespace: Of the Leases; that of the pod, or of the kubeconfig's context, when empty.
        replica: Name of this replica, for people; the host's when empty.
        lease_duration_s: A replica that says nothing for so long is taken for dead, and its shards are taken over.
            It stops by itself after seven tenths of that.
    """

    shards: Annotated[int, Meta(ge=1, le=1024)] = 16
    group: str = "propfan"
    namespace: str = ""
    replica: str = ""
    lease_duration_s: Annotated[float, Meta(ge=1, le=600)] = 10.0


class ForeignState(enum.Enum):
    """What becomes of a task that another executor has begun and not ended.

    RESTART takes it over: its present attempt is launched, and so finds the object that is there.
    REFUSE fails it, and says so.
    """

    RESTART = "restart"
    REFUSE = "refuse"


class FlyteSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``flyte``: services of a Flyte 2 control plane, by Connect over HTTP.

    Attributes:
        events_url: Base URL of ``EventsProxyService``; without it events are logged and go nowhere else.
        cache_url: Base URL of ``CacheService``; without it records of cached outputs are kept in the object store.
        organization: Told in events and to the cache. Flyte 2 has none; services that insist on one take any.
        timeout_s: A call that takes longer has failed.
        reservation_heartbeat_s: A reservation of the cache is extended this often; it ends after three times that.
    """

    events_url: str = ""
    cache_url: str = ""
    organization: str = ""
    timeout_s: Seconds = 30.0
    reservation_heartbeat_s: Seconds = 10.0


class LogLevel(enum.Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.Enum):
    JSON = "json"
    CONSOLE = "console"


class ServingSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``serving``: how ``propfan serve`` is seen from outside.

    Attributes:
        metrics_address: ``host:port`` of ``/metrics``, ``/healthz`` and ``/readyz``; all addresses without a host,
            nothing is served when empty.
        log_format: One JSON object per line, or lines for people.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        drain_s: Time to end rounds and write down what was decided, once it was told to stop.
        tracing: Spans of rounds and writes, if OpenTelemetry is installed; it takes its own ``OTEL_...`` variables.
    """

    metrics_address: str = ":10254"
    log_format: LogFormat = LogFormat.JSON
    log_level: LogLevel = LogLevel.INFO
    drain_s: Seconds = 20.0
    tracing: bool = False


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What an engine needs to know.

    Attributes:
        data_dir: Where the embedded cluster, the logs and the scratch directories live;
            ``None`` keeps everything in memory and runs no processes.
        store: URI under which tasks leave their outputs; ``<data_dir>/store`` when empty, or memory without one.
        namespace: Of the tasks that are submitted without one; its PodTemplates serve all others too.
        namespaces: Only tasks in these are driven; in all when empty.
        cluster_name: Told in events.
        capacity: Resources that the process runtime hands out; what is not named is this machine's.
        keep_work: Keep the working folders of processes when their pods go. Tasks of Flyte's SDK leave files there
            that are named in outputs, where the store is a ``file://`` one.
        max_system_failures: The engine's own retries over a task's life; the one after is fatal.
        workers: Rounds that may run at once.
        plugin_timeout_s: A round that takes longer is cancelled and counts as a system failure.
        status_linger_s: A change that is not final waits this long for another one, so that quick
            changes cost one write. What is only on its way to run waits forty times as long, and longer in a crowd.
        undefined_timeout_s: How long a plugin may know no phase.
        resync_s: A silent task is looked at this often. Watches make it needless; it is the net below them.
        core_poll_s: How often a plugin without objects is asked when it names no time.
        cluster_sweep_s: Between looks for shared clusters that nobody uses any more; none is called idle before
            three times that.
        event_batch: Most events sent at once.
        sink_timeout_s: A batch of events that takes longer is sent again.
        gc_interval_s: Between looks for tasks that were over long ago; 0 keeps them all.
        gc_ttl_s: How long a task is kept after its end, to the minute.
        max_payload_bytes: Largest ``inputs.pb``, ``outputs.pb`` and ``error.pb`` that is read.
            2 MiB, as ``storage.limits.maxDownloadMBs`` of Flyte.
        default_service_account: For tasks whose template names none.
        default_for_task_types: Task type to plugin id, where several plugins could serve it.
        default_plugin: Runs task types that no plugin serves; empty refuses them.
        enabled_plugins: Ids of the plugins that are loaded, ``propfan plugins`` lists them; all when empty.
        plugins: The ``plugins`` section: ``k8s``, ``logs`` and the plugins' own.
        storage: Access to object stores.
        secrets: Where the engine's own calls of other services find their secrets.
        quotas: How many tasks run at the same time.
        foreign_state: Tasks that another executor has begun.
        kubernetes, sharding, flyte, serving: For ``propfan serve``: the cluster, its replicas, the control plane,
            and what is seen from outside.
        webhook: For ``propfan serve``: secrets for pods.
    """

    data_dir: Path | None = None
    store: str = ""
    namespace: str = "default"
    namespaces: tuple[str, ...] = ()
    cluster_name: str = "local"
    capacity: Capacity = Capacity()
    keep_work: bool = False
    max_system_failures: Annotated[int, Meta(ge=0)] = 3
    workers: Annotated[int, Meta(ge=1, le=10_000)] = 256
    plugin_timeout_s: Seconds = 60.0
    status_linger_s: SecondsOrNone = 0.05
    undefined_timeout_s: Seconds = 600.0
    resync_s: Seconds = 600.0
    core_poll_s: Seconds = 10.0
    cluster_sweep_s: Seconds = 30.0
    event_batch: Annotated[int, Meta(ge=1, le=10_000)] = 400
    sink_timeout_s: Seconds = 30.0
    gc_interval_s: SecondsOrNone = 1800.0
    gc_ttl_s: SecondsOrNone = 3600.0
    max_payload_bytes: Annotated[int, Meta(ge=1024)] = 2 * 1024 * 1024
    default_service_account: str = ""
    default_for_task_types: Mapping[str, str] = {}
    default_plugin: str = ""
    enabled_plugins: Sequence[str] = ()
    plugins: Mapping[str, Mapping[str, Any]] = {}
    storage: StorageConfig = StorageConfig()
    secrets: SecretsSection = SecretsSection()
    quotas: QuotasSection = QuotasSection()
    foreign_state: ForeignState = ForeignState.RESTART
    kubernetes: KubernetesConfig = KubernetesConfig()
    sharding: ShardingSection = ShardingSection()
    flyte: FlyteSection = FlyteSection()
    serving: ServingSection = ServingSection()
    webhook: WebhookSection = WebhookSection()
