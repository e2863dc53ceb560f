"""Prometheus' view of the service; the names are those of Flyte's own connector servers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

UNKNOWN: Final = "unknown"
"""In place of a task type that no connector runs: callers do not choose our labels."""


class ServiceMetrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        prefix = "flyte_connector"
        labels = ("task_type", "operation")
        self._successes: Final = Counter(
            f"{prefix}_requests_success_total", "Calls that went well.", labels, registry=self.registry
        )
        self._failures: Final = Counter(
            f"{prefix}_requests_failure_total",
            "Calls that failed, by the HTTP status that the gRPC one corresponds to.",
            (*labels, "error_code"),
            registry=self.registry,
        )
        self._latency: Final = Histogram(
            f"{prefix}_request_latency_seconds", "Of a call, waiting included.", labels, registry=self.registry
        )
        self._input_bytes: Final = Summary(
            f"{prefix}_input_literal_bytes", "Size of a task's inputs.", ("task_type",), registry=self.registry
        )
        self._in_flight: Final = Gauge(
            f"{prefix}_calls_in_flight",
            "Calls that the connector has not ended.",
            ("connector",),
            registry=self.registry,
        )
        self._blocked: Final = Gauge(
            f"{prefix}_loop_blocked_seconds",
            "How long the connector's event loop has not reacted.",
            ("connector",),
            registry=self.registry,
        )

    def succeeded(self, task_type: str, operation: str, latency_s: float) -> None:
        self._successes.labels(task_type, operation).inc()
        self._latency.labels(task_type, operation).observe(latency_s)

    def failed(self, task_type: str, operation: str, latency_s: float, error_code: str) -> None:
        self._failures.labels(task_type, operation, error_code).inc()
        self._latency.labels(task_type, operation).observe(latency_s)

    def had_inputs(self, task_type: str, size_bytes: int) -> None:
        self._input_bytes.labels(task_type).observe(size_bytes)

    def looked(self, hosts: Iterable[tuple[str, int, float]]) -> None:
        """Connector, calls in flight and seconds blocked, of all."""
        for connector, in_flight, blocked_s in hosts:
            self._in_flight.labels(connector).set(in_flight)
            self._blocked.labels(connector).set(blocked_s)
