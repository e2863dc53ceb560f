"""A ``TaskState`` as the status of a ``TaskAction``, and back.

What clients read goes into the public fields; the rest goes into ``pluginState`` as JSON under a
version of our own, so that state written by another executor is recognised and never misread.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from propfan.engine.task_events import TaskEvent, readable, readable_error
from propfan.engine.task_state import Limits, Outcome, Pending, PluginData, Stage, TaskState
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.phases import ZERO_TIME, ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.taskaction import (
    FINALIZER,
    TERMINATION_STATUS_LABEL,
    Condition,
    PhaseHistoryEntry,
    TaskAction,
    TaskActionStatus,
)

STATE_VERSION: Final = 80
"""``pluginStateVersion`` of our states. The Go executor's are small numbers over gob bytes."""

_CONDITION_CHARS: Final = 32_768
"""Of a condition's message, by the schema of ``metav1.Condition``."""

_NOTE_CHARS: Final = 4096
"""Of each text of which a status has many: together they must fit into the 1.5 MiB that etcd takes."""

_INT32: Final = 2**31 - 1
"""The schema's numbers are int32; a plugin may count its versions further."""

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """The private part of a state."""

    stage: Stage
    plugin_id: str = ""
    version_base: int = 0
    top_version: int = -1
    pending: Pending | None = None
    queued_since: _Time | None = None
    running_since: _Time | None = None
    undefined_since: _Time | None = None
    retry_at: _Time | None = None
    launch_at: _Time | None = None
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
    writer: int = 0


_SAVED_FIELDS: Final = tuple(name for name in _Saved.__struct_fields__ if name not in ("unsent", "writer"))
_saved_values: Final = operator.attrgetter(*_SAVED_FIELDS)
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Saved)


def to_patch(
    state: TaskState, run_action: str, now: datetime, unsent: Sequence[TaskEvent] = (), *, writer: int = 0
) -> Mapping[str, Any]:
    """The merge patch of the status sub-resource.

    Args:
        run_action: ``<run>/<action>``, for the observability field.
        unsent: Events that the control plane has not acknowledged; they are sent again after a restart.
        writer: Signs the private part; ``writer_of`` tells it again. 0 leaves it unsigned.
    """
    saved = dict(zip(_SAVED_FIELDS, _saved_values(state), strict=True))
    attempt_errors = tuple([readable(text, _NOTE_CHARS) for text in state.attempt_errors])
    saved |= {
        "reason": readable(state.reason, _NOTE_CHARS),
        "waiting_for": readable(state.waiting_for, _NOTE_CHARS),
        "error": readable_error(state.error),
        "attempt_errors": attempt_errors,
    }
    if state.pending is not None:
        error = readable_error(state.pending.error)
        saved["pending"] = msgspec.structs.replace(state.pending, info=None, error=error)
    phase = state.phase.wire_name
    observability = {"phase": phase, "actionId": run_action, "timestamp": now, "attemptErrors": attempt_errors}
    return {
        "status": {
            "stateJson": _encoder.encode(observability).decode(),
            "pluginState": _encoder.encode(_Saved(**saved, unsent=_shortened(unsent), writer=writer)),
            "pluginStateVersion": STATE_VERSION,
            "pluginPhase": phase,
            "pluginPhaseVersion": min(state.phase_version, _INT32),
            "attempts": min(state.attempt, _INT32),
            "systemFailures": min(state.system_failures, _INT32),
            "cacheStatus": state.cache_status,
            "conditions": [_condition(condition) for condition in state.conditions],
            "phaseHistory": [_history_entry(entry) for entry in state.history],
            "errorState": _error_state(state.error),
        }
    }


def _shortened(unsent: Sequence[TaskEvent]) -> tuple[TaskEvent, ...]:
    """The last error is told in full; earlier ones, of which there can be many, are not."""
    return tuple(
        [
            event
            if event is unsent[-1] or event.error is None
            else msgspec.structs.replace(event, error=readable_error(event.error, _NOTE_CHARS))
            for event in unsent
        ]
    )


def _condition(condition: Condition) -> Condition:
    message = readable(condition.message, _CONDITION_CHARS)
    return condition if message == condition.message else msgspec.structs.replace(condition, message=message)


def _history_entry(entry: PhaseHistoryEntry) -> PhaseHistoryEntry:
    message = readable(entry.message, _NOTE_CHARS)
    return entry if message == entry.message else msgspec.structs.replace(entry, message=message)


def _error_state(error: ExecutionError | None) -> Mapping[str, str] | None:
    """With every member: one that a merge patch leaves out would keep its value of an earlier error."""
    shown = readable_error(error)
    if shown is None:
        return None
    kind = "" if shown.kind is ErrorKind.UNKNOWN else shown.kind.value
    return {"code": shown.code, "kind": kind, "message": shown.message}


def load(action: TaskAction, limits: Limits) -> tuple[TaskState, Sequence[TaskEvent]]:
    """The state that was persisted, and the events that may not have reached the control plane.

    A fresh object starts at RECEIVED. One that another executor drove is taken over: a final one
    stays final, any other launches (and so adopts) the object of its present attempt.

    A final one whose private part can not be read stays final likewise.

    Raises:
        DecodeError: the status holds our version but is not ours.
    """
    meta, status = action.metadata, action.status
    fresh = TaskState(
        task=f"{meta.namespace}/{meta.name}",
        limits=limits,
        created_at=meta.creation_timestamp or ZERO_TIME,
        attempt=max(status.attempts, 1),
        system_failures=max(status.system_failures, 0),
    )
    public = {
        "phase_version": max(status.plugin_phase_version, 0),
        "cache_status": status.cache_status,
        "conditions": tuple(status.conditions),
        "history": tuple(status.phase_history),
    }
    if status.plugin_state_version != STATE_VERSION:
        return _adopt_foreign(fresh, public, action), ()
    try:
        saved, phase = _private(status)
    except (ValueError, KeyError, RecursionError) as error:
        if final_condition(status) is not None:
            return _adopt_foreign(fresh, public, action), ()
        raise DecodeError(f"TaskAction {fresh.task}", f"status.pluginState: {error}") from error
    private = {name: getattr(saved, name) for name in _SAVED_FIELDS}
    return msgspec.structs.replace(fresh, **public, **private, phase=phase), saved.unsent


class _Signed(msgspec.Struct, frozen=True):
    writer: int = 0


_signature_decoder: Final = msgspec.json.Decoder(_Signed)


def writer_of(plugin_state: bytes | None, version: int) -> int:
    """Who signed the private part of a status; 0 when nobody did, or it is not ours."""
    if version != STATE_VERSION or not plugin_state:
        return 0
    try:
        return _signature_decoder.decode(plugin_state).writer
    except (msgspec.DecodeError, RecursionError):
        return 0


def is_foreign(action: TaskAction) -> bool:
    """Whether another executor has begun it and not ended it; its own state is gob, or unknown, and is never read."""
    status = action.status
    has_begun = bool(status.plugin_state or status.plugin_phase)
    return has_begun and status.plugin_state_version != STATE_VERSION and final_condition(status) is None


def _private(status: TaskActionStatus) -> tuple[_Saved, Phase]:
    saved = _decoder.decode(status.plugin_state or b"")
    if saved.stage.is_over and saved.outcome is None:
        raise ValueError(f"the stage is {saved.stage.value}, and there is no outcome")
    return saved, Phase.from_wire_name(status.plugin_phase)


def _adopt_foreign(fresh: TaskState, public: Mapping[str, Any], action: TaskAction) -> TaskState:
    final = final_condition(action.status)
    if final is not None:
        outcome = outcome_of(final)
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
    version = public["phase_version"]
    return msgspec.structs.replace(fresh, **public, top_version=version, version_base=version + 1)


def final_condition(status: TaskActionStatus) -> Condition | None:
    """The one that holds the verdict; ``None`` while the task goes on."""
    return next((c for c in status.conditions if c.type in ("Succeeded", "Failed") and c.status == "True"), None)


def outcome_of(final: Condition) -> Outcome:
    return next((o for o in Outcome if o.value == final.reason), Outcome.FAILED)
