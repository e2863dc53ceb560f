"""A ``TaskState`` as the status of a ``TaskAction``, and back.

What clients read goes into the public fields; the rest goes into ``pluginState`` as JSON under a
version of our own, so that state written by another executor is recognised and never misread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan.engine.task_events import TaskEvent
from propfan.engine.task_state import Limits, Outcome, Pending, PluginData, Stage, TaskState
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.taskaction import (
    FINALIZER,
    TERMINATION_STATUS_LABEL,
    ErrorState,
    TaskAction,
    TaskActionStatus,
)

STATE_VERSION: Final = 80
"""``pluginStateVersion`` of our states. The Go executor's are small numbers over gob bytes."""


class _Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """The private part of a state."""

    stage: Stage
    plugin_id: str = ""
    version_base: int = 0
    top_version: int = -1
    pending: Pending | None = None
    queued_since: datetime | None = None
    running_since: datetime | None = None
    undefined_since: datetime | None = None
    retry_at: datetime | None = None
    launch_at: datetime | None = None
    tries: int = 0
    waiting_for: str = ""
    reason: str = ""
    removing_attempt: int = 0
    outcome: Outcome | None = None
    remove_object: bool = False
    error: ExecutionError | None = None
    attempt_errors: tuple[str, ...] = ()
    plugin_data: PluginData | None = None
    unsent: tuple[TaskEvent, ...] = ()


_SAVED_FIELDS: Final = tuple(name for name in _Saved.__struct_fields__ if name != "unsent")
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Saved)


def to_patch(state: TaskState, run_action: str, now: datetime, unsent: Sequence[TaskEvent] = ()) -> Mapping[str, Any]:
    """The merge patch of the status sub-resource.

    Args:
        run_action: ``<run>/<action>``, for the observability field.
        unsent: Events that the control plane has not acknowledged; they are sent again after a restart.
    """
    saved = {name: getattr(state, name) for name in _SAVED_FIELDS}
    if state.pending is not None:
        saved["pending"] = msgspec.structs.replace(state.pending, info=None)
    phase = state.phase.wire_name
    observability = {"phase": phase, "actionId": run_action, "timestamp": now, "attemptErrors": state.attempt_errors}
    return {
        "status": {
            "stateJson": _encoder.encode(observability).decode(),
            "pluginState": _encoder.encode(_Saved(**saved, unsent=tuple(unsent))),
            "pluginStateVersion": STATE_VERSION,
            "pluginPhase": phase,
            "pluginPhaseVersion": state.phase_version,
            "attempts": state.attempt,
            "systemFailures": state.system_failures,
            "cacheStatus": state.cache_status,
            "conditions": state.conditions,
            "phaseHistory": state.history,
            "errorState": _error_state(state.error),
        }
    }


def _error_state(error: ExecutionError | None) -> ErrorState | None:
    if error is None:
        return None
    kind = "" if error.kind is ErrorKind.UNKNOWN else error.kind.value
    return ErrorState(code=error.code, kind=kind, message=error.message)


def load(action: TaskAction, limits: Limits) -> tuple[TaskState, Sequence[TaskEvent]]:
    """The state that was persisted, and the events that may not have reached the control plane.

    A fresh object starts at RECEIVED. One that another executor drove is taken over: a final one
    stays final, any other launches (and so adopts) the object of its present attempt.

    Raises:
        DecodeError: the status holds our version but is not ours.
    """
    meta, status = action.metadata, action.status
    fresh = TaskState(
        task=f"{meta.namespace}/{meta.name}",
        limits=limits,
        created_at=meta.creation_timestamp or datetime.min,
        attempt=max(status.attempts, 1),
        system_failures=status.system_failures,
    )
    public = {
        "phase_version": status.plugin_phase_version,
        "cache_status": status.cache_status,
        "conditions": tuple(status.conditions),
        "history": tuple(status.phase_history),
    }
    if status.plugin_state_version != STATE_VERSION:
        return _adopt_foreign(fresh, public, action), ()
    try:
        saved = _decoder.decode(status.plugin_state or b"")
        phase = Phase.from_wire_name(status.plugin_phase)
    except (msgspec.DecodeError, KeyError) as error:
        raise DecodeError(f"TaskAction {fresh.task}", f"status.pluginState: {error}") from error
    private = {name: getattr(saved, name) for name in _SAVED_FIELDS}
    return msgspec.structs.replace(fresh, **public, **private, phase=phase), saved.unsent


def _adopt_foreign(fresh: TaskState, public: Mapping[str, Any], action: TaskAction) -> TaskState:
    final = next((c for c in action.status.conditions if c.type in ("Succeeded", "Failed") and c.status == "True"), None)
    if final is not None:
        outcome = next((o for o in Outcome if o.value == final.reason), Outcome.FAILED)
        is_tidy = TERMINATION_STATUS_LABEL in action.metadata.labels and FINALIZER not in action.metadata.finalizers
        return msgspec.structs.replace(
            fresh,
            **public,
            stage=Stage.ENDED if is_tidy else Stage.ENDING,
            outcome=outcome,
            phase=Phase.SUCCESS if outcome.is_success else Phase.PERMANENT_FAILURE,
        )
    if not action.status.plugin_phase:
        return fresh
    return msgspec.structs.replace(fresh, **public, top_version=public["phase_version"], version_base=public["phase_version"] + 1)


def is_final(status: TaskActionStatus) -> bool:
    """Whether the verdict is in."""
    return any(c.type in ("Succeeded", "Failed") and c.status == "True" for c in status.conditions)
