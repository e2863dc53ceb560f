"""The bounds of a task, from its template and the engine's configuration."""

from __future__ import annotations

from flyteidl2.core import tasks_pb2
from google.protobuf.duration_pb2 import Duration

from propfan.engine.config import EngineConfig
from propfan.engine.task_state import Backoff, Limits


def of_template(template: tasks_pb2.TaskTemplate, config: EngineConfig) -> Limits:
    """``metadata.retries``, ``metadata.timeout`` and ``metadata.timeouts`` as limits; unset and 0 are no limit."""
    metadata = template.metadata
    retries = metadata.retries
    backoff = retries.backoff
    return Limits(
        max_attempts=retries.retries + 1,
        max_system_failures=config.max_system_failures,
        attempt_timeout_s=_seconds(metadata.timeout),
        queued_timeout_s=_seconds(metadata.timeouts.queued_timeout),
        deadline_s=_seconds(metadata.timeouts.deadline),
        undefined_timeout_s=config.undefined_timeout_s,
        resync_s=config.resync_s,
        retry_backoff=Backoff(_seconds(backoff.base), backoff.factor or 2.0, _seconds(backoff.cap)),
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
    return max(0.0, duration.seconds + duration.nanos / 1e9)
