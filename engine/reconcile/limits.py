"""The bounds of a task, from its template and the engine's configuration."""

from __future__ import annotations

from typing import Final

from flyteidl2.core import tasks_pb2
from google.protobuf.duration_pb2 import Duration

from propfan.engine.config import LONGEST_S, EngineConfig
from propfan.engine.task_state import Backoff, Limits

_LONGEST_BACKOFF_S: Final = 86_400.0


def of_template(template: tasks_pb2.TaskTemplate, config: EngineConfig) -> Limits:
    """``metadata.retries``, ``metadata.timeout`` and ``metadata.timeouts`` as limits; unset and 0 are no limit.

    A back-off without a cap grows to a day, or to its base where that is longer.
    """
    metadata = template.metadata
    retries = metadata.retries
    backoff = retries.backoff
    base_s = _seconds(backoff.base)
    return Limits(
        max_attempts=retries.retries + 1,
        max_system_failures=config.max_system_failures,
        attempt_timeout_s=_seconds(metadata.timeout),
        queued_timeout_s=_seconds(metadata.timeouts.queued_timeout),
        deadline_s=_seconds(metadata.timeouts.deadline),
        undefined_timeout_s=config.undefined_timeout_s,
        resync_s=config.resync_s,
        retry_backoff=Backoff(
            base_s,
            backoff.factor if backoff.factor > 0 else 2.0,  # also where it is no number
            _seconds(backoff.cap) or max(base_s, _LONGEST_BACKOFF_S),
        ),
    )


def of_condition(timeout: Duration, config: EngineConfig) -> Limits:
    return Limits(condition_timeout_s=_seconds(timeout), resync_s=config.resync_s)


def default(config: EngineConfig) -> Limits:
    """Of a task whose template says nothing, or can not be read."""
    return Limits(
        max_system_failures=config.max_system_failures,
        undefined_timeout_s=config.undefined_timeout_s,
        resync_s=config.resync_s,
    )


def _seconds(duration: Duration) -> float:
    """Templates may hold any 64 bits; negative times count as none, and no time is beyond the calendar."""
    return min(max(0.0, duration.seconds + duration.nanos / 1e9), LONGEST_S)
