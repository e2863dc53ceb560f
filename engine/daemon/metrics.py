"""What is counted and measured, for Prometheus; by controller-runtime's names where it has them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from propfan.engine.cluster import Cluster, Kind, LabelSelector, ObjectList, ObservedObject, WatchEvent
from propfan.engine.daemon.tracing import Tracer
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.task_events import EventSink, TaskEvent
from propfan.pluginmachinery.errors import ApiError

CONTROLLER: Final = "taskaction"

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_Answer = TypeVar("_Answer")


class Metrics:
    """All instruments, in a registry of their own."""

    def __init__(self, host: str = "") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: Final = CollectorRegistry()
        self.host = host
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.rounds: Final = Counter(
            "controller_runtime_reconcile",
            "Rounds, by how they ended",
            ["controller", "result"],
            registry=self.registry,
        )
        self.round_errors: Final = Counter(
            "controller_runtime_reconcile_errors",
            "Rounds that ended with an error",
            ["controller"],
            registry=self.registry,
        )
        self.round_seconds: Final = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Duration of a round",
            ["controller"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.max_workers: Final = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "Rounds that may run at once",
            ["controller"],
            registry=self.registry,
        )
        self.requests: Final = Counter(
            "rest_client_requests",
            "Calls of the API server, by their outcome",
            ["code", "method", "host"],
            registry=self.registry,
        )
        self.request_seconds: Final = Histogram(
            "propfan_cluster_request_seconds",
            "Duration of calls of the API server",
            ["method", "resource"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.events: Final = Counter("propfan_events", "Events told, by phase", ["phase"], registry=self.registry)
        self.tasks_over: Final = Counter(
            "propfan_tasks_over", "Final verdicts told, repeats included", ["phase", "code"], registry=self.registry
        )
        self.sink_seconds: Final = Histogram(
            "propfan_event_sink_seconds",
            "Duration of a call of the event sink",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.sink_errors: Final = Counter(
            "propfan_event_sink_errors", "Failed calls of the event sink", registry=self.registry
        )
        self.terms: Final = Counter("propfan_terms", "Times that this replica joined the group", registry=self.registry)
        for result in ("success", "error", "requeue_after"):
            self.rounds.labels(CONTROLLER, result)

    def observe(self, collect: Callable[[], Sequence[GaugeMetricFamily]]) -> None:
        """Has numbers read when they are asked for."""
        self.registry.register(_OnDemand(collect))


class _OnDemand(Collector):
    def __init__(self, collect: Callable[[], Sequence[GaugeMetricFamily]]) -> None:
        self._collect: Final = collect

    def collect(self) -> Iterator[Metric]:
        yield from self._collect()


def gauge(
    name: str, text: str, values: Mapping[tuple[str, ...], float], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """A number that is read on demand, for each combination of labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


class MeteredCluster(ForwardingCluster):
    """A cluster whose calls are counted, timed and traced."""

    def __init__(self, cluster: Cluster, metrics: Metrics, tracer: Tracer) -> None:
        super().__init__(cluster)
        self._metrics: Final = metrics
        self._tracer: Final = tracer
        self._counts: Final[dict[tuple[int, str], Counter]] = {}
        self._times: Final[dict[tuple[str, Kind], Histogram]] = {}

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        return await self._call("GET", kind, 200, self._cluster.get(kind, namespace, name))

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> ObjectList:
        listing = self._cluster.list(
            kind, namespace=namespace, labels=labels, limit=limit, continue_token=continue_token
        )
        return await self._call("GET", kind, 200, listing)

    def watch(
        self, kind: Kind, *, namespace: str = "", labels: LabelSelector | None = None, resource_version: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[WatchEvent]]]:
        self._metrics.requests.labels("200", "GET", self._metrics.host).inc()
        return self._cluster.watch(kind, namespace=namespace, labels=labels, resource_version=resource_version)

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        return await self._call("POST", kind, 201, self._cluster.create(kind, body))

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Mapping[str, Any] | msgspec.Struct,
        *,
        subresource: str = "",
        resource_version: str = "",
    ) -> ObservedObject:
        writing = self._cluster.patch(
            kind, namespace, name, patch, subresource=subresource, resource_version=resource_version
        )
        return await self._call("PATCH", kind, 200, writing)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        deleting = self._cluster.delete(kind, namespace, name, uid=uid, grace_period_s=grace_period_s)
        await self._call("DELETE", kind, 200, deleting)

    async def _call(self, method: str, kind: Kind, good: int, call: Awaitable[_Answer]) -> _Answer:
        began = time.perf_counter()
        code = good
        try:
            with self._tracer.call(f"{method} {kind}"):
                return await call
        except ApiError as error:
            code = error.status
            raise
        finally:
            self._count(code, method).inc()
            self._time(method, kind).observe(time.perf_counter() - began)

    def _count(self, code: int, method: str) -> Counter:
        found = self._counts.get((code, method))
        if found is None:
            found = self._counts[code, method] = self._metrics.requests.labels(str(code), method, self._metrics.host)
        return found

    def _time(self, method: str, kind: Kind) -> Histogram:
        found = self._times.get((method, kind))
        if found is None:
            found = self._times[method, kind] = self._metrics.request_seconds.labels(method, str(kind))
        return found


class MeteredSink:
    """A sink whose events are counted, and whose calls are timed."""

    def __init__(self, sink: EventSink, metrics: Metrics) -> None:
        self._sink: Final = sink
        self._metrics: Final = metrics

    async def record(self, events: Sequence[TaskEvent]) -> None:
        began = time.perf_counter()
        try:
            await self._sink.record(events)
        except Exception:
            self._metrics.sink_errors.inc()
            raise
        finally:
            self._metrics.sink_seconds.observe(time.perf_counter() - began)
        for event in events:
            self._metrics.events.labels(event.phase.name).inc()
            if event.is_final:
                self._metrics.tasks_over.labels(event.phase.name, event.error.code if event.error else "").inc()
