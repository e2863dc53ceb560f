"""Rounds that are seen from outside: measured, traced, and with the task in every line of their log."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from propfan.engine import machine
from propfan.engine.daemon import logs
from propfan.engine.daemon.metrics import CONTROLLER, Metrics
from propfan.engine.daemon.tracing import Tracer
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.rounds import Rounds
from propfan.engine.task_state import Delayed, Event, Faulted

if TYPE_CHECKING:
    from collections.abc import Callable


class SeenRounds(Rounds):
    """A round is what controller-runtime calls a reconcile.

    Its result is ``success``, ``requeue_after`` when it is to be tried again, or ``error`` for a fault.
    """

    def __init__(self, *arguments: Any, metrics: Metrics, tracer: Tracer, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._metrics: Final = metrics
        self._tracer: Final = tracer
        self._results: Final = {
            result: metrics.rounds.labels(CONTROLLER, result) for result in ("success", "requeue_after", "error")
        }
        self._errors: Final = metrics.round_errors.labels(CONTROLLER)
        self._seconds: Final = metrics.round_seconds.labels(CONTROLLER)

    async def next_event(self, live: LiveTask, now: datetime) -> Event | None:
        identity = live.identity
        began = time.perf_counter()
        names = {
            "task": str(live.key), "run": identity.run, "action": identity.action, "attempt": live.state.attempt
        }  # fmt: skip
        token = logs.subject.set(names)
        try:
            with self._tracer.round(live.key, identity.run, identity.action, machine.goal(live.state).value):
                event = await super().next_event(live, now)
        finally:
            logs.subject.reset(token)
            self._seconds.observe(time.perf_counter() - began)
        match event:
            case Faulted():
                self._results["error"].inc()
                self._errors.inc()
            case Delayed():
                self._results["requeue_after"].inc()
            case _:
                self._results["success"].inc()
        return event


def seen(metrics: Metrics, tracer: Tracer) -> Callable[..., Rounds]:
    """Makes them as ``Rounds`` are made."""

    def make(*arguments: Any, **more: Any) -> Rounds:
        return SeenRounds(*arguments, metrics=metrics, tracer=tracer, **more)

    return make
