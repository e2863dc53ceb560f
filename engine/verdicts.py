"""What the moves of the state machine share: reporting a phase, failing an attempt, ending a task.

Pure functions from a state to a ``Step``; the conditions, phase history and error state of the
``TaskAction`` are kept here and nowhere else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from propfan.engine.task_state import (
    FAULT_BACKOFF,
    WAITING_FOR_SIGNAL,
    Command,
    Outcome,
    Persist,
    Report,
    Stage,
    Step,
    TaskState,
    TimeLimit,
    seconds,
)
from propfan.pluginmachinery.errors import ENGINE_STOPPED, NON_RETRYABLE_CODES
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase, TaskInfo
from propfan.pluginmachinery.taskaction import Condition, PhaseHistoryEntry

MAX_HISTORY: Final = 200
"""Entries kept of the phase history; the oldest after the first go, so that an object cannot grow for ever."""

MAX_ATTEMPT_ERRORS: Final = 8

_PROGRESS: Final = {
    Phase.NOT_READY: "Queued",
    Phase.QUEUED: "Queued",
    Phase.WAITING_FOR_RESOURCES: "Queued",
    Phase.WAITING_FOR_CACHE: "Queued",
    Phase.INITIALIZING: "Initializing",
    Phase.RUNNING: "Executing",
}
"""Reason of the Progressing condition, and name in the history, of each phase that goes on."""

_ORDER: Final = {
    phase: rank
    for rank, phase in enumerate(
        (Phase.UNDEFINED, Phase.NOT_READY, Phase.WAITING_FOR_CACHE, Phase.WAITING_FOR_RESOURCES, Phase.QUEUED,
         Phase.INITIALIZING, Phase.RUNNING)
    )
}  # fmt: skip
"""The way of an attempt. One that goes back in it goes on with higher versions."""

_FINAL_PHASE: Final = {
    Outcome.COMPLETED: Phase.SUCCESS,
    Outcome.SIGNALED: Phase.SUCCESS,
    Outcome.ABORTED: Phase.ABORTED,
}

_replace = msgspec.structs.replace


def advance(
    state: TaskState, phase: Phase, version: int, reason: str, now: datetime, info: TaskInfo | None = None
) -> Step:
    """The task goes on in ``phase``; told only when (phase, version) is new within the attempt."""
    base = state.version_base if _ORDER[phase] >= _ORDER[state.phase] else state.top_version + 1
    version += base
    if phase is state.phase:
        version = max(version, state.phase_version)
        if reason != state.reason and version == state.phase_version:
            version += 1
    is_news = phase is not state.phase or version != state.phase_version
    reasons = info.additional_reasons if info is not None else ()
    if not is_news and not reasons:
        return Step(state)
    if not is_news:
        version += 1
    name = _PROGRESS[phase]
    state = _replace(
        state,
        phase=phase,
        phase_version=version,
        version_base=base,
        top_version=max(state.top_version, version),
        reason=reason,
        conditions=set_condition(state.conditions, "Progressing", "True", name, reason, now),
        history=_append(state.history, name, reason, now),
    )
    return Step(state, (_report(state, now, info), Persist()))


def attempt_failed(state: TaskState, error: ExecutionError, now: datetime, info: TaskInfo | None = None) -> Step:
    """The user's failure: the next attempt if there is one, else the end."""
    limits = state.limits
    if error.code in NON_RETRYABLE_CODES:
        return fail(state, error, now, info)
    if state.attempt >= limits.max_attempts:
        return fail(state, error, now, info)
    failed_report = Report(
        attempt=state.attempt,
        phase=Phase.RETRYABLE_FAILURE,
        version=0,
        occurred_at=now,
        error=error,
        cache_status=state.cache_status,
        info=info,
    )
    wait_s = limits.retry_backoff.wait_s(state.attempt)
    text = f"attempt {state.attempt}: [{error.code}] {error.message}"
    state = _replace(
        _clean_up(state, now),
        attempt=state.attempt + 1,
        phase=Phase.QUEUED,
        phase_version=0,
        version_base=0,
        top_version=0,
        reason="restarting task",
        launch_at=now + seconds(wait_s) if wait_s else None,
        waiting_for="",
        error=error,
        attempt_errors=(*state.attempt_errors, text)[-MAX_ATTEMPT_ERRORS:],
        conditions=set_condition(state.conditions, "Progressing", "True", "RetryableFailure", error.message, now),
        history=_append(state.history, "Queued", "restarting task", now),
    )
    return Step(state, (failed_report, _report(state, now), Persist(urgent=True)))


def system_failure(
    state: TaskState, code: str, message: str, now: datetime, *, relaunch: bool, info: TaskInfo | None = None
) -> Step:
    """The system's failure: spends one of the engine's retries; ``relaunch`` replaces the object.

    What the engine stopped because it was leaving spends none.
    """
    if code in NON_RETRYABLE_CODES:
        return fail(state, ExecutionError(code, message, ErrorKind.USER), now, info)
    spent = state.system_failures + (code != ENGINE_STOPPED)
    text = f"[{code}] {message}" if code else message
    if spent > state.limits.max_system_failures:
        whole = f'plugin "{state.plugin_id}" failed with system error {spent} times: {text}'
        error = ExecutionError("MaxSystemFailuresExceeded", whole, ErrorKind.SYSTEM)
        return fail(_replace(state, system_failures=spent), error, now, info)
    state = _replace(state, system_failures=spent, waiting_for=f"system failure {spent}: {text}")
    if not relaunch:
        return Step(state, (Persist(),))
    state = _replace(
        _clean_up(state, now),
        version_base=state.top_version + 1,
        launch_at=now + seconds(FAULT_BACKOFF.wait_s(spent)),
    )
    told = advance(state, Phase.QUEUED, 0, f"relaunching after a system failure: {text}", now, info)
    reports = tuple(command for command in told.commands if not isinstance(command, Persist))
    return Step(told.state, (*reports, Persist(urgent=True)))


def _clean_up(state: TaskState, now: datetime) -> TaskState:
    """The present object is to go, and with it all that was known of its life; a launch follows.

    What the plugin kept stays until then: it may be all that finds what is to be removed.
    """
    return _replace(
        state,
        stage=Stage.CLEANING,
        removing_attempt=state.attempt,
        pending=None,
        queued_since=now,
        running_since=None,
        undefined_since=None,
        recheck_at=None,
        tries=0,
        retry_at=None,
    )


def time_out(state: TaskState, limit: TimeLimit, now: datetime) -> Step:
    """A limit of the attempt costs the attempt, a limit of the whole ends it."""
    limits = state.limits
    messages = {
        TimeLimit.ATTEMPT: f"attempt {state.attempt} ran for more than {limits.attempt_timeout_s:g} s",
        TimeLimit.QUEUED: f"attempt {state.attempt} waited for more than {limits.queued_timeout_s:g} s to start",
        TimeLimit.DEADLINE: f"not done within {limits.deadline_s:g} s of its creation",
        TimeLimit.CONDITION: f"condition timed out after {limits.condition_timeout_s:g}s without a signal",
    }
    error = ExecutionError(limit.value, messages[limit], ErrorKind.USER)
    if limit in (TimeLimit.DEADLINE, TimeLimit.CONDITION) or state.attempt >= limits.max_attempts:
        return end(state, Outcome.TIMED_OUT, error, error.message, now)
    return attempt_failed(state, error, now)


def fail(
    state: TaskState,
    error: ExecutionError,
    now: datetime,
    info: TaskInfo | None = None,
    *,
    remove_object: bool = False,
) -> Step:
    """The task fails for good."""
    return end(state, Outcome.FAILED, error, error.message, now, info=info, remove_object=remove_object)


def end(
    state: TaskState,
    outcome: Outcome,
    error: ExecutionError | None,
    message: str,
    now: datetime,
    *,
    info: TaskInfo | None = None,
    remove_object: bool = False,
) -> Step:
    """The verdict. Only chores are left; they begin when it is reported and written down.

    What was stopped from outside must go; what ended by itself stays to be looked at.
    """
    reason = outcome.value
    if outcome is Outcome.COMPLETED:
        progressing, final = "TaskAction has completed", "TaskAction completed successfully"
    else:
        progressing = final = message
    conditions = set_condition(state.conditions, "Progressing", "False", reason, progressing, now)
    kind = "Succeeded" if outcome.is_success else "Failed"
    phase = _FINAL_PHASE.get(outcome, Phase.PERMANENT_FAILURE)
    same = phase is state.phase
    state = _replace(
        state,
        stage=Stage.ENDING,
        phase=phase,
        phase_version=state.phase_version + 1 if same else 0,
        reason=message,
        outcome=outcome,
        pending=None,
        remove_object=remove_object or outcome in (Outcome.ABORTED, Outcome.TIMED_OUT),
        queued_since=None,
        recheck_at=None,
        undefined_since=None,
        retry_at=None,
        tries=0,
        waiting_for="",
        error=error,
        conditions=set_condition(conditions, kind, "True", reason, final, now),
        history=_append(state.history, reason, final, now),
    )
    return Step(state, (_report(state, now, info), Persist(urgent=True)))


def pause(state: TaskState, now: datetime) -> Step:
    """A condition action waits for its signal."""
    state = _replace(
        state,
        stage=Stage.PAUSED,
        phase=Phase.NOT_READY,
        reason=WAITING_FOR_SIGNAL,
        waiting_for=WAITING_FOR_SIGNAL,
        tries=0,
        retry_at=None,
        conditions=set_condition(state.conditions, "Progressing", "True", "Paused", WAITING_FOR_SIGNAL, now),
        history=_append(state.history, "Paused", WAITING_FOR_SIGNAL, now),
    )
    return Step(state, (_report(state, now), Persist()))


def note_delay(state: TaskState, reason: str, now: datetime) -> Step:
    """Shows in the condition why the task stands still; its phase is what it was."""
    if state.stage.is_over:
        return Step(state)
    current = next((c for c in state.conditions if c.type == "Progressing"), None)
    if current is not None and current.message == reason:
        return Step(state)
    name = current.reason if current is not None else "Queued"
    conditions = set_condition(state.conditions, "Progressing", "True", name, reason, now)
    return Step(_replace(state, conditions=conditions), (Persist(),))


def set_condition(
    conditions: tuple[Condition, ...], kind: str, status: str, reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    """The transition time changes only when the status does."""
    changed = []
    found = False
    for condition in conditions:
        if condition.type == kind:
            found = True
            since = condition.last_transition_time if condition.status == status else now
            changed.append(Condition(kind, status, reason, message, since))
        else:
            changed.append(condition)
    if not found:
        changed.append(Condition(kind, status, reason, message, now))
    return tuple(changed)


def _append(
    history: tuple[PhaseHistoryEntry, ...], phase: str, message: str, now: datetime
) -> tuple[PhaseHistoryEntry, ...]:
    if history and history[-1].phase == phase:
        return history
    longer = (*history, PhaseHistoryEntry(phase, now, message))
    return longer if len(longer) <= MAX_HISTORY else (longer[0], *longer[len(longer) - MAX_HISTORY + 1 :])


def _report(state: TaskState, now: datetime, info: TaskInfo | None = None) -> Command:
    return Report(
        attempt=state.attempt,
        phase=state.phase,
        version=state.phase_version,
        occurred_at=info.occurred_at if info is not None and info.occurred_at is not None else now,
        reason=state.reason,
        error=state.error if state.outcome is not None else None,
        outcome=state.outcome,
        cache_status=state.cache_status,
        info=info,
        reasons=info.additional_reasons if info is not None else (),
    )
