"""What is counted of calls, events and rounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from propfan.engine.clock import SystemClock
from propfan.engine.cluster import POD
from propfan.engine.config import EngineConfig
from propfan.engine.daemon.metrics import CONTROLLER, MeteredCluster, MeteredSink, Metrics
from propfan.engine.daemon.rounds import seen
from propfan.engine.daemon.tracing import NoTracer, SpanTracer, tracer
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_events import ActionPhase
from propfan.engine.task_state import Launched
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.errors import NotFoundError
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.testing.fakes import setup_context
from tests.unit.engine.flyte.test_events import event
from tests.unit.engine.reconcile.rig import PodPlugin
from tests.unit.engine.reconcile.single_task import NOW, single_task

pytestmark = pytest.mark.anyio

POD_BODY = msgspec.json.encode({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}})


async def test_calls_are_counted_by_their_outcome() -> None:
    metrics = Metrics("server:6443")

    def count(code: str, method: str) -> float:
        labels = {"code": code, "method": method, "host": "server:6443"}
        return metrics.registry.get_sample_value("rest_client_requests_total", labels) or 0

    async with EmbeddedCluster.open() as truth:
        cluster = MeteredCluster(truth, metrics, NoTracer())
        await cluster.create(POD, POD_BODY)
        await cluster.patch(POD, "n", "p", {"metadata": {"labels": {"a": "b"}}})
        await cluster.list(POD)
        async with cluster.watch(POD, resource_version="0"):
            pass
        await cluster.delete(POD, "n", "p", grace_period_s=0)
        with pytest.raises(NotFoundError):
            await cluster.get(POD, "n", "p")
    assert [count("201", "POST"), count("200", "PATCH"), count("200", "DELETE")] == [1, 1, 1]
    assert [count("200", "GET"), count("404", "GET")] == [2, 1]


class Sink:
    error: Exception | None = None

    async def record(self, events: Any) -> None:
        if self.error is not None:
            raise self.error


async def test_events_are_counted_once_they_are_told() -> None:
    metrics, sink = Metrics(), Sink()
    metered = MeteredSink(sink, metrics)
    sink.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await metered.record([event()])
    sink.error = None
    await metered.record([event(), event(phase=ActionPhase.SUCCEEDED, is_final=True)])
    value = metrics.registry.get_sample_value
    assert value("propfan_event_sink_errors_total") == 1
    assert value("propfan_events_total", {"phase": "RUNNING"}) == 1
    assert value("propfan_tasks_over_total", {"phase": "SUCCEEDED", "code": ""}) == 1


async def test_rounds_are_counted_by_their_result() -> None:
    metrics = Metrics()
    registry = Registry()
    registry.register(KubernetesPluginEntry(id="pods", task_types=("pod",), watched=POD, load=PodPlugin()))
    registry.load(setup_context())
    async with single_task() as it:
        rounds = seen(metrics, NoTracer())(registry, it.ports, it.cache, EngineConfig(), K8sConfig(), SystemClock())
        assert isinstance(await rounds.next_event(it.live, NOW), Launched)
    counted = {
        result: metrics.registry.get_sample_value(
            "controller_runtime_reconcile_total", {"controller": CONTROLLER, "result": result}
        )
        for result in ("success", "error", "requeue_after")
    }
    assert counted == {"success": 1, "error": 0, "requeue_after": 0}
    labels = {"controller": CONTROLLER}
    assert metrics.registry.get_sample_value("controller_runtime_reconcile_time_seconds_count", labels) == 1


def test_spans_are_made_where_they_are_wanted() -> None:
    assert isinstance(tracer(is_wanted=False), NoTracer)
    wanted = tracer(is_wanted=True)
    assert isinstance(wanted, SpanTracer)
    with wanted.round(TaskKey("n", "a"), "r", "a0", "launch"), wanted.call("GET pods"):
        pass
