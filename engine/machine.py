"""The life of a task: one pure, total step.

``step(state, event, now)`` returns the next state and what to tell and write; ``goal(state)`` says
what to get done in it; ``next_wake(state)`` when to look at the task again without any event. There
is no I/O and no clock here. The engine runs the commands in order, then the goal, whose result is
the next event. A crash between any two commands converges: every goal is safe to repeat, and a
stage whose goal destroys something is entered only after its decision was persisted.

``TRANSITIONS`` has a cell for every stage and event; ``docs/state-machine.md`` is generated from it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import msgspec

from propfan.engine import verdicts
from propfan.engine.task_state import (
    DELAY_BACKOFF,
    EVENTS,
    FAULT_BACKOFF,
    AbortRequested,
    Admitted,
    CacheBusy,
    CacheHit,
    CacheMissed,
    Collected,
    Delayed,
    Event,
    Faulted,
    Finalized,
    Goal,
    Launched,
    ObjectGone,
    ObjectLost,
    Observed,
    Outcome,
    Pending,
    Persist,
    Postponed,
    Refused,
    Rejected,
    Signaled,
    Stage,
    Step,
    TaskState,
    TimedOut,
    TimeLimit,
    seconds,
)
from propfan.engine.verdicts import advance, attempt_failed, end, fail, system_failure
from propfan.pluginmachinery.errors import InvalidTransitionError
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase

Move = Callable[[TaskState, Any, datetime], Step]

_replace = msgspec.structs.replace

ABORTED: Final = "TaskAction was aborted"
"""Begins the message of an abort; a colon and its reason follow when it has one."""

_FIRST_LOOK: Final = timedelta(seconds=5)
"""An object that is silent for so long after its creation is looked at all the same: its plugin may know a limit."""


def goal(state: TaskState) -> Goal:
    """What to get done now, also after a restart."""
    return _GOALS[state.stage]


def must_be_durable(state: TaskState) -> bool:
    """Whether the goal may run only after the state was written down."""
    return state.awaits_write or state.stage is Stage.CLEANING or state.stage is Stage.ENDING


def next_wake(state: TaskState) -> tuple[datetime, str] | None:
    """When the task must be looked at without any event, and why; ``None`` only when it has ended."""
    if state.stage is Stage.ENDED:
        return None
    if state.retry_at is not None:  # nothing is tried before, whatever else is due
        wake, why = state.retry_at, f"next try to {goal(state).value}"
    else:
        wake, why = (state.observed_at or state.created_at) + seconds(state.limits.resync_s), "safety resync"
        if state.recheck_at is not None and state.recheck_at < wake:
            wake, why = state.recheck_at, "the plugin asked to be asked again"
    for limit, when in _time_limits(state):
        if when < wake:
            wake, why = when, limit.value
    return wake, why


def reached_limit(state: TaskState, now: datetime) -> TimeLimit | None:
    """The time limit that has been reached, the strongest first."""
    for limit, when in _time_limits(state):
        if when <= now:
            return limit
    return None


def _time_limits(state: TaskState) -> Sequence[tuple[TimeLimit, datetime]]:
    limits, stage = state.limits, state.stage
    if not limits.is_any or stage.is_over:
        return ()
    if stage is Stage.PAUSED:
        if limits.condition_timeout_s <= 0:
            return ()
        return [(TimeLimit.CONDITION, state.created_at + seconds(limits.condition_timeout_s))]
    found = []
    if limits.deadline_s > 0:
        found.append((TimeLimit.DEADLINE, state.created_at + seconds(limits.deadline_s)))
    if limits.attempt_timeout_s > 0 and state.running_since is not None and stage is Stage.ACTIVE:
        found.append((TimeLimit.ATTEMPT, state.running_since + seconds(limits.attempt_timeout_s)))
    if limits.queued_timeout_s > 0 and state.queued_since is not None and stage in _QUEUED_STAGES:
        found.append((TimeLimit.QUEUED, state.queued_since + seconds(limits.queued_timeout_s)))
    return found


_QUEUED_STAGES: Final = frozenset({Stage.LAUNCHING, Stage.WAITING_FOR_RESOURCES, Stage.ACTIVE})


def step(state: TaskState, event: Event, now: datetime) -> Step:
    """Advance one task by one event.

    A task that is over comes back unchanged on events that may be late (an abort, a signal, a time
    limit), so that repeating them is harmless.

    Raises:
        InvalidTransitionError: the stage has no move for this event: a bug of the engine.
    """
    move = TRANSITIONS[state.stage, type(event)]
    if move is None:
        raise InvalidTransitionError(state.task, state.stage.name, type(event).__name__)
    return move(state, event, now)


# -- Moves -----------------------------------------------------------------------------------------


def _ignore(state: TaskState, event: Event, now: datetime) -> Step:
    """Nothing to do."""
    return Step(state)


def _admit(state: TaskState, event: Admitted, now: datetime) -> Step:
    """A condition action is paused; a task checks the cache or is launched."""
    if event.is_condition:
        return verdicts.pause(state, now)
    stage = Stage.CHECKING_CACHE if event.checks_cache else Stage.LAUNCHING
    state = _replace(state, stage=stage, plugin_id=event.plugin_id, queued_since=now)
    return Step(state)


def _reject(state: TaskState, event: Rejected, now: datetime) -> Step:
    """The task fails for good before anything was created."""
    error = ExecutionError(event.outcome.value, event.message, ErrorKind.USER)
    return end(state, event.outcome, error, event.message, now)


def _cache_hit(state: TaskState, event: CacheHit, now: datetime) -> Step:
    """Done without running."""
    state = _replace(state, cache_status="CACHE_HIT")
    return end(state, Outcome.COMPLETED, None, "cache hit", now)


def _cache_missed(state: TaskState, event: CacheMissed, now: datetime) -> Step:
    """It has to run."""
    return Step(_fresh_goal(state, Stage.LAUNCHING, queued_since=state.queued_since or now))


def _cache_busy(state: TaskState, event: CacheBusy, now: datetime) -> Step:
    """Somebody else runs it: wait and ask again."""
    reason = f'waiting for cache to be populated by reservation owner "{event.owner}"'
    state = _replace(
        state,
        stage=Stage.WAITING_FOR_CACHE,
        retry_at=now + seconds(event.retry_after_s),
        tries=0,
        waiting_for=reason,
        cache_status="CACHE_MISS",
    )
    return advance(state, Phase.WAITING_FOR_CACHE, 0, reason, now)


def _launched(state: TaskState, event: Launched, now: datetime) -> Step:
    """The object is there, or what it begins with is written down first: watch it."""
    data = event.plugin_data
    state = _fresh_goal(state, Stage.ACTIVE, observed_at=now, recheck_at=now + _FIRST_LOOK, awaits_write=False)
    if data is None:
        return advance(state, Phase.QUEUED, 0, event.reason, now)
    told = advance(_replace(state, plugin_data=data, awaits_write=True), Phase.QUEUED, 0, event.reason, now)
    reports = tuple([command for command in told.commands if not isinstance(command, Persist)])
    return Step(told.state, (*reports, Persist(urgent=True)))


def _refuse(state: TaskState, event: Refused, now: datetime) -> Step:
    """The object can not be made: the task fails for good."""
    return fail(state, event.error, now)


def _postpone(state: TaskState, event: Postponed, now: datetime) -> Step:
    """No room or no right for it yet: say so, and try again."""
    tries = state.tries + 1
    wait_s = max(event.retry_after_s, _jittered(state, DELAY_BACKOFF.wait_s(tries), tries))
    state = _replace(
        state,
        stage=Stage.WAITING_FOR_RESOURCES,
        tries=tries,
        retry_at=now + seconds(wait_s),
        waiting_for=event.reason,
        queued_since=state.queued_since or now,
        awaits_write=False,
    )
    return advance(state, Phase.WAITING_FOR_RESOURCES, 0, event.reason, now)


def _delay(state: TaskState, event: Delayed, now: datetime) -> Step:
    """Something outside is out of order: keep the stage, back off, say why."""
    tries = state.tries + 1
    wait_s = max(event.retry_after_s, _jittered(state, DELAY_BACKOFF.wait_s(tries), tries))
    state = _replace(state, tries=tries, retry_at=now + seconds(wait_s), waiting_for=event.reason)
    return verdicts.note_delay(state, event.reason, now)


def _observe(state: TaskState, event: Observed, now: datetime) -> Step:
    """The plugin's verdict decides; an end of the object is confirmed by what it left behind."""
    was_waiting = state.waiting_for != ""
    state = _replace(
        state, observed_at=now, recheck_at=event.recheck_at, retry_at=None, tries=0, waiting_for="", awaits_write=False
    )
    if event.plugin_data is not None:
        state = _replace(state, plugin_data=event.plugin_data)
    phase = event.phase
    if phase is Phase.UNDEFINED:
        return _undefined(state, event, now)
    if phase is Phase.ABORTED:
        return end(state, Outcome.ABORTED, event.error, event.reason or "TaskAction was aborted", now, info=event.info)
    if phase.is_terminal:
        pending = Pending(phase, event.error, event.remove_object, event.info)
        return Step(_replace(state, stage=Stage.COLLECTING, pending=pending, recheck_at=None, undefined_since=None))
    state = _replace(state, undefined_since=None)
    if phase is Phase.RUNNING and state.running_since is None:
        began = event.info.occurred_at if event.info is not None else None
        state = _replace(state, running_since=min(began, now) if began and began.year > 1 else now)
    if phase in (Phase.INITIALIZING, Phase.RUNNING):
        state = _replace(state, queued_since=None)
    told = advance(state, phase, event.version, event.reason, now, event.info)
    if told.commands:
        return told
    if was_waiting:
        told = verdicts.note_delay(told.state, told.state.reason, now)  # it does not wait any more
    return Step(told.state, (Persist(),)) if event.plugin_data is not None else told


def _undefined(state: TaskState, event: Observed, now: datetime) -> Step:
    since = state.undefined_since or now
    until = since + seconds(state.limits.undefined_timeout_s)
    if now >= until:
        message = f"no phase known for {state.limits.undefined_timeout_s:g} s: {event.reason or 'no reason given'}"
        return system_failure(_replace(state, undefined_since=None), "PhaseUndefined", message, now, relaunch=True)
    recheck = min(until, event.recheck_at) if event.recheck_at else until
    return Step(_replace(state, undefined_since=since, recheck_at=recheck))


def _lost(state: TaskState, event: ObjectLost, now: datetime) -> Step:
    """The object vanished: launch it again, at the engine's expense."""
    return system_failure(state, event.code, event.message, now, relaunch=True)


def _collect(state: TaskState, event: Collected, now: datetime) -> Step:
    """An error document decides over everything the object said."""
    pending = state.pending or Pending(Phase.SUCCESS)
    state = _replace(state, pending=None, tries=0, retry_at=None, waiting_for="")
    if event.cache_status:
        state = _replace(state, cache_status=event.cache_status)
    if event.document is not None:
        error = event.document.error
        if event.document.is_recoverable:
            return attempt_failed(state, error, now, pending.info)
        return fail(state, error, now, pending.info, remove_object=pending.remove_object)
    if pending.phase is Phase.SUCCESS:
        return end(state, Outcome.COMPLETED, None, "TaskAction completed successfully", now, info=pending.info)
    error = pending.error or ExecutionError("Unknown", "Unknown error message", ErrorKind.UNKNOWN)
    if pending.phase is Phase.PERMANENT_FAILURE:
        return fail(state, error, now, pending.info, remove_object=pending.remove_object)
    if error.kind is ErrorKind.SYSTEM:
        return system_failure(state, error.code, error.message, now, relaunch=True, info=pending.info)
    return attempt_failed(state, error, now, pending.info)


def _fault(state: TaskState, event: Faulted, now: datetime) -> Step:
    """Charged to the engine's retries; the same goal is tried again. A permanent fault ends the task."""
    if event.is_permanent:
        return fail(state, ExecutionError(event.code, event.message, ErrorKind.USER), now)
    step_ = system_failure(state, event.code, event.message, now, relaunch=False)
    if step_.state.stage.is_over:
        return step_
    tries = state.tries + 1
    wait_s = _jittered(state, FAULT_BACKOFF.wait_s(tries), tries)
    waiting = _replace(step_.state, tries=tries, retry_at=now + seconds(wait_s))
    return Step(waiting, step_.commands)


def _stuck(state: TaskState, event: Faulted, now: datetime) -> Step:
    """Tidying up failed: it is tried until it works, and says why it does not."""
    return _delay(state, Delayed(f"[{event.code}] {event.message}" if event.code else event.message), now)


def _missing_outputs(state: TaskState, event: Faulted, now: datetime) -> Step:
    """Neither outputs nor an error: only running it again can mend that. A permanent fault ends the task."""
    if event.is_permanent:
        return fail(state, ExecutionError(event.code, event.message, ErrorKind.USER), now)
    return system_failure(_replace(state, pending=None), event.code, event.message, now, relaunch=True)


def _relaunch(state: TaskState, event: ObjectGone, now: datetime) -> Step:
    """The old object is away: the next one may come, after its back-off.

    One of the same name may not until this is written down: an engine that found the task still
    cleaning would take the new object for the old one.
    """
    has_same_name = state.removing_attempt == state.attempt
    waits = state.launch_at if state.launch_at is not None and state.launch_at > now else None
    state = _fresh_goal(
        state,
        Stage.LAUNCHING,
        queued_since=waits or now,
        observed_at=now,
        launch_at=None,
        removing_attempt=0,
        plugin_data=None,
        awaits_write=has_same_name,
    )
    return Step(_replace(state, retry_at=waits), (Persist(urgent=True),) if has_same_name else ())


def _time_out(state: TaskState, event: TimedOut, now: datetime) -> Step:
    """The deadline ends the task; a limit of the attempt costs that attempt."""
    return verdicts.time_out(state, event.limit, now)


def _abort(state: TaskState, event: AbortRequested, now: datetime) -> Step:
    """Whatever it was doing: stop it."""
    message = f"{ABORTED}: {event.reason}" if event.reason else ABORTED
    return end(state, Outcome.ABORTED, None, message, now)


def _signal(state: TaskState, event: Signaled, now: datetime) -> Step:
    """The condition is met."""
    return end(state, Outcome.SIGNALED, None, f'condition signalled by "{event.by}"', now)


def _finalized(state: TaskState, event: Finalized, now: datetime) -> Step:
    """Nothing is left to do."""
    return Step(_replace(state, stage=Stage.ENDED, remove_object=False, retry_at=None, waiting_for=""))


def _fresh_goal(state: TaskState, stage: Stage, **changes: Any) -> TaskState:
    return _replace(state, stage=stage, retry_at=None, tries=0, waiting_for="", **changes)


def _jittered(state: TaskState, wait_s: float, tries: int) -> float:
    """Up to a fifth longer, by task and try, so that a thousand tasks do not come back at once."""
    return wait_s * (1.0 + 0.2 * (zlib.crc32(f"{state.task}#{tries}".encode()) & 0xFF) / 255)


# -- The table -------------------------------------------------------------------------------------

_ANY_TIME: Final[dict[type[Event], Move]] = {AbortRequested: _abort, TimedOut: _time_out}
_TRYING: Final[dict[type[Event], Move]] = {**_ANY_TIME, Delayed: _delay, Faulted: _fault}
_LATE: Final[dict[type[Event], Move]] = {AbortRequested: _ignore, TimedOut: _ignore, Signaled: _ignore}

_ROWS: Final[dict[Stage, dict[type[Event], Move]]] = {
    Stage.RECEIVED: {**_TRYING, Admitted: _admit, Rejected: _reject, Refused: _refuse},
    Stage.CHECKING_CACHE: {**_TRYING, CacheHit: _cache_hit, CacheMissed: _cache_missed, CacheBusy: _cache_busy},
    Stage.WAITING_FOR_CACHE: {**_TRYING, CacheHit: _cache_hit, CacheMissed: _cache_missed, CacheBusy: _cache_busy},
    Stage.LAUNCHING: {**_TRYING, Launched: _launched, Postponed: _postpone, Refused: _refuse},
    Stage.WAITING_FOR_RESOURCES: {**_TRYING, Launched: _launched, Postponed: _postpone, Refused: _refuse},
    Stage.ACTIVE: {**_TRYING, Observed: _observe, ObjectLost: _lost},
    Stage.COLLECTING: {**_ANY_TIME, Delayed: _delay, Collected: _collect, Faulted: _missing_outputs},
    Stage.CLEANING: {**_ANY_TIME, Delayed: _delay, Faulted: _stuck, ObjectGone: _relaunch},
    Stage.PAUSED: {**_ANY_TIME, Signaled: _signal, Delayed: _delay, Faulted: _stuck},
    Stage.ENDING: {**_LATE, Delayed: _delay, Faulted: _stuck, Finalized: _finalized},
    Stage.ENDED: _LATE,
}  # fmt: skip

TRANSITIONS: Final[Mapping[tuple[Stage, type[Event]], Move | None]] = MappingProxyType(
    {(stage, event): _ROWS[stage].get(event) for stage in Stage for event in EVENTS}
)
"""Every stage and event; ``None`` where the event cannot happen."""

_GOALS: Final = {
    Stage.RECEIVED: Goal.ADMIT,
    Stage.CHECKING_CACHE: Goal.LOOK_UP_CACHE,
    Stage.WAITING_FOR_CACHE: Goal.LOOK_UP_CACHE,
    Stage.LAUNCHING: Goal.LAUNCH,
    Stage.WAITING_FOR_RESOURCES: Goal.LAUNCH,
    Stage.ACTIVE: Goal.OBSERVE,
    Stage.COLLECTING: Goal.COLLECT,
    Stage.CLEANING: Goal.REMOVE_OBJECT,
    Stage.PAUSED: Goal.AWAIT_SIGNAL,
    Stage.ENDING: Goal.FINALIZE,
    Stage.ENDED: Goal.NONE,
}
