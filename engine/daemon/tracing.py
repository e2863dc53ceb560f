"""Spans of rounds and of calls of the cluster and the sink, if OpenTelemetry is there.

Only its API is used: which SDK collects the spans, and where they go, is set up by its own
``OTEL_...`` variables (``opentelemetry-instrument propfan serve``).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

from propfan.engine.reconcile.live_task import TaskKey
from propfan.pluginmachinery.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer as OpenTelemetryTracer


class Tracer(Protocol):
    def round(self, key: TaskKey, run: str, action: str, goal: str) -> AbstractContextManager[object]: ...

    def call(self, name: str, **attributes: str | int) -> AbstractContextManager[object]: ...


class NoTracer:
    def round(self, key: TaskKey, run: str, action: str, goal: str) -> AbstractContextManager[object]:
        return nullcontext()

    def call(self, name: str, **attributes: str | int) -> AbstractContextManager[object]:
        return nullcontext()


class SpanTracer:
    """Calls within a round are children of its span."""

    def __init__(self, tracer: OpenTelemetryTracer) -> None:
        self._tracer: Final = tracer

    def round(self, key: TaskKey, run: str, action: str, goal: str) -> AbstractContextManager[object]:
        names = {
            "k8s.namespace.name": key.namespace,
            "propfan.task": key.name,
            "flyte.run": run,
            "flyte.action": action,
        }
        return self._tracer.start_as_current_span(f"round: {goal}", attributes=names)

    def call(self, name: str, **attributes: str | int) -> AbstractContextManager[object]:
        return self._tracer.start_as_current_span(name, attributes=attributes)


def tracer(*, is_wanted: bool) -> Tracer:
    """Raises ``ConfigError`` when spans are wanted and OpenTelemetry is not installed."""
    if not is_wanted:
        return NoTracer()
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise ConfigError("serving.tracing", "needs OpenTelemetry: pip install 'propfan[tracing]'") from error
    return SpanTracer(trace.get_tracer("propfan"))
