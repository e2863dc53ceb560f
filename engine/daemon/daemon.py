"""The life of a replica: start, terms, drain.

It starts in the order in which things depend on each other: what is seen from outside, the API
server, what it must have, the plugins, the control plane. Then it joins the other replicas. A *term*
lasts from joining to leaving, or to the moment when the replica could not renew its lease in time:
then everything that could write is cancelled, and the next term begins from what is written down.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
import msgspec
import structlog
from anyio import CancelScope

from propfan.engine import assembly
from propfan.engine.assembly import Foundation
from propfan.engine.clock import Clock, SystemClock
from propfan.engine.cluster import Cluster, ObjectMeta
from propfan.engine.config import EngineConfig
from propfan.engine.daemon import preflight, probes, tracing
from propfan.engine.daemon.fence import Fence, FencedCluster, FencedSink
from propfan.engine.daemon.logs import LoggedSink
from propfan.engine.daemon.membership import Membership
from propfan.engine.daemon.metrics import CONTROLLER, MeteredCluster, MeteredSink, Metrics, gauge
from propfan.engine.daemon.rounds import seen
from propfan.engine.daemon.tracing import Tracer
from propfan.engine.garbage import GarbageCollector
from propfan.engine.reconcile.reconciler import Reconciler
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.task_cache import TaskCache
from propfan.engine.task_events import EventSink
from propfan.pluginmachinery.contexts import DataStore
from propfan.pluginmachinery.names import dns1123_subdomain
from propfan.pluginmachinery.registry import Registry

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

    from propfan.engine.kubernetes.cluster import KubernetesCluster

logger = structlog.get_logger(__name__)

_LAST_WRITES_S: Final = 2.0
"""Of the time to drain, what is kept for giving up the shards."""

_PAUSE_S: Final = 1.0
"""Between a term that ended by itself and the next one."""


class Daemon:
    """One replica of ``propfan serve``.

    Args:
        registry: In place of the installed plugins.
        store: In place of object stores by URI.
        sink: In place of the control plane that the configuration names.

    Attributes:
        address: Where probes and metrics are served; empty before that, and if they are not.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        registry: Registry | None = None,
        store: DataStore | None = None,
        sink: EventSink | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config: Final = config
        self._given_registry: Final = registry
        self._given_store: Final = store
        self._given_sink: Final = sink
        self._clock: Final = clock or SystemClock()
        self._stop: Final = anyio.Event()
        self._whole: Final = CancelScope()
        self._readiness: Final = probes.Readiness()
        self._metrics: Final = Metrics()
        self._reconciler: Reconciler | None = None
        self._membership: Membership | None = None
        self.address = ""

    def stop(self) -> None:
        """Asks for the drain, after which ``run`` returns."""
        self._readiness.why_not = lambda: "draining"
        self._stop.set()
        if self._membership is None:
            self._whole.cancel()

    async def run(self) -> None:
        """Serves until it is stopped.

        Raises:
            ConfigError: a setting is wrong, or the cluster lacks what is needed; the message says the way out.
        """
        serving = self.config.serving
        tracer = tracing.tracer(is_wanted=serving.tracing)
        self._metrics.max_workers.labels(CONTROLLER).set(self.config.workers)
        self._metrics.observe(self._numbers)
        async with AsyncExitStack() as stack:
            if serving.metrics_address:
                self.address = await stack.enter_async_context(
                    probes.serve(serving.metrics_address, self._metrics.registry, self._readiness)
                )
                logger.info("serving probes and metrics", address=self.address)
            with self._whole:
                await self._serve(tracer)
        logger.info("stopped")

    async def _serve(self, tracer: Tracer) -> None:
        from propfan.engine.kubernetes.cluster import KubernetesCluster

        config = self.config
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(KubernetesCluster.connect(config.kubernetes))
            self._metrics.host = urlsplit(cluster.server).netloc
            user = await preflight.await_server(cluster)
            logger.info("connected", server=cluster.server, user=user)
            await preflight.check_definitions(cluster)
            seen_cluster = MeteredCluster(cluster, self._metrics, tracer)
            parts = assembly.lay(
                config, seen_cluster, self._clock, registry=self._given_registry, store=self._given_store
            )
            lease_namespace = config.sharding.namespace or cluster.namespace or "default"
            needed = preflight.needed_rights(
                config, parts.k8s, parts.registry, lease_namespace, cluster.namespace or "default"
            )
            await preflight.check_rights(cluster, needed, user)
            await stack.enter_async_context(self._webhook(seen_cluster, cluster.namespace or "default"))
            sink = await stack.enter_async_context(self._sink())
            term = _Term(
                cluster=cluster,
                tracer=tracer,
                parts=parts,
                sink=MeteredSink(LoggedSink(sink), self._metrics),
                cache=await stack.enter_async_context(self._caches(parts)),
                lease_namespace=lease_namespace,
                rounds=seen(self._metrics, tracer),
            )
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(parts.pod_templates.run)
            await parts.pod_templates.synced()
            while not self._stop.is_set():
                await self._serve_term(term)
                if not self._stop.is_set():
                    await anyio.sleep(_PAUSE_S)

    @asynccontextmanager
    async def _webhook(self, cluster: Cluster, namespace: str) -> AsyncIterator[None]:
        config = self.config
        if not config.webhook.enabled:
            yield
            return
        from propfan.engine.webhook.serving import Webhook

        webhook = Webhook(
            config.webhook,
            config.secrets,
            cluster,
            self._clock,
            namespace=config.webhook.namespace or namespace,
            task_namespaces=config.namespaces,
        )
        async with webhook.serving():
            yield

    @asynccontextmanager
    async def _sink(self) -> AsyncIterator[EventSink | None]:
        flyte = self.config.flyte
        if self._given_sink is not None or not flyte.events_url:
            yield self._given_sink
            return
        from propfan.engine.flyte.connect import ConnectClient
        from propfan.engine.flyte.events import FlyteEventSink

        async with ConnectClient.open(flyte.events_url, flyte.timeout_s, "flyte.events-url") as client:
            yield FlyteEventSink(
                client, self._clock, cluster_name=self.config.cluster_name, organization=flyte.organization
            )

    @asynccontextmanager
    async def _caches(self, parts: Foundation) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[TaskCache]]]:
        """Makes the cache of a term; its reservations are not kept beyond that."""
        config = self.config
        flyte = config.flyte
        if not flyte.cache_url:
            yield lambda: nullcontext(assembly.own_cache(parts))
            return
        from propfan.engine.flyte.cache import FlyteCache
        from propfan.engine.flyte.connect import ConnectClient

        async with ConnectClient.open(flyte.cache_url, flyte.timeout_s, "flyte.cache-url") as client:
            yield lambda: FlyteCache.open(
                client,
                parts.store,
                self._clock,
                organization=flyte.organization,
                heartbeat_s=flyte.reservation_heartbeat_s,
                limit_bytes=config.max_payload_bytes,
            )

    # -- Terms -------------------------------------------------------------------------------------

    async def _serve_term(self, term: _Term) -> None:
        """From joining to leaving, or to the loss of the lease."""
        async with term.cache() as cache:
            await self._serve_with(cache, term)

    async def _serve_with(self, cache: TaskCache, term: _Term) -> None:
        config, parts = self.config, term.parts
        fence = Fence()
        # Fenced twice: before a write begins, and after it has waited for its turn, right before it is sent.
        guarded = MeteredCluster(term.cluster.guarded(fence.check), self._metrics, term.tracer)
        fenced = FencedCluster(guarded, fence)
        reconciler = assembly.reconciler(
            parts,
            cluster=fenced,
            cache=cache,
            sink=FencedSink(term.sink, fence),
            on_final=lambda _: None,
            shards=frozenset(),
            may_act=fence.may_act,
            rounds=term.rounds,
        )
        membership = Membership(
            parts.cluster,
            config.sharding,
            term.lease_namespace,
            config.sharding.replica or dns1123_subdomain(socket.gethostname()),
            fence,
            reconciler,
            self._clock,
        )
        garbage = GarbageCollector(
            fenced, config, self._clock, before_delete=_keep_nothing, may_sweep=lambda: 0 in membership.owned
        )
        self._metrics.terms.inc()
        self._reconciler, self._membership = reconciler, membership
        if not self._stop.is_set():
            self._readiness.why_not = lambda: _why_not_ready(reconciler, membership)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reconciler.run)
                tasks.start_soon(garbage.run)
                tasks.start_soon(self._leave_when_told, membership, tasks.cancel_scope)
                await membership.run()
                logger.error("this replica may not act any more, and begins anew", why=fence.why)
                tasks.cancel_scope.cancel()
        finally:
            self._reconciler = self._membership = None

    async def _leave_when_told(self, membership: Membership, scope: CancelScope) -> None:
        await self._stop.wait()
        logger.info("draining", limit_s=self.config.serving.drain_s)
        limit_s = self.config.serving.drain_s
        with anyio.move_on_after(limit_s) as waiting:
            await membership.leave(max(limit_s - _LAST_WRITES_S, limit_s / 2))
        if waiting.cancelled_caught:
            logger.error("not everything was given up in time: others take over when the leases expire")
        scope.cancel()

    def _numbers(self) -> Sequence[GaugeMetricFamily]:
        """Read when somebody asks for the metrics."""
        reconciler, membership = self._reconciler, self._membership
        live = list(reconciler.live.values()) if reconciler is not None else []
        stages = Counter(task.state.stage.value for task in live)
        busy = reconciler.busy_workers if reconciler is not None else 0
        queued = reconciler.queue_depth if reconciler is not None else 0
        unsent = sum(len(task.unsent) for task in live)
        is_answering = reconciler is None or not reconciler.sink_problem
        return [
            gauge("workqueue_depth", "Tasks that wait for a worker", {(CONTROLLER,): queued}, ["name"]),
            gauge("controller_runtime_active_workers", "Rounds under way", {(CONTROLLER,): busy}, ["controller"]),
            gauge("propfan_tasks", "Tasks that this replica drives", {(s,): n for s, n in stages.items()}, ["stage"]),
            gauge("propfan_events_unsent", "Events that the control plane has not taken yet", {(): unsent}),
            gauge("propfan_event_sink_up", "Whether the control plane takes events", {(): float(is_answering)}),
            gauge("propfan_shards_owned", "Shards of this replica", {(): len(membership.owned) if membership else 0}),
            gauge("propfan_members", "Replicas that are alive", {(): len(membership.members) if membership else 0}),
        ]


class _Term(msgspec.Struct, frozen=True):
    """What terms have in common."""

    cluster: KubernetesCluster
    tracer: Tracer
    parts: Foundation
    sink: EventSink
    cache: Callable[[], AbstractAsyncContextManager[TaskCache]]
    lease_namespace: str
    rounds: Callable[..., Rounds]


def _why_not_ready(reconciler: Reconciler, membership: Membership) -> str:
    if not membership.has_joined:
        return "has not joined the other replicas yet"
    if not reconciler.is_listed:
        return "objects are being listed"
    return ""


async def _keep_nothing(task: ObjectMeta) -> None:
    """The control plane has the events of a task that is deleted."""
