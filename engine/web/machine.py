"""The life of one job: a pure step from what a call brought to what is persisted and told.

::

    NOT_STARTED -> CREATING -> RESOURCES_CREATED -> SUCCEEDED
                      |               |-----------> USER_FAILURE
                      |               `-----------> SYSTEM_FAILURE
                      |`--> USER_FAILURE, without a job: the service refused
                      `---> SYSTEM_FAILURE: too many calls got no answer

The runner makes CREATING durable before ``create`` is called for the first time. From then on, until
the service answers, there may be a job whose meta nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.errors import InvalidTransitionError
from propfan.pluginmachinery.phases import Phase, PhaseInfo
from propfan.pluginmachinery.web_plugin import WebPhase, WebPluginState

LOOKS_FAILED: Final = "AutoRefreshCacheFailed"
"""Code of a task whose job could not be looked at any more; the name is Flyte's."""

CREATION_UNANSWERED: Final = "CreationUnanswered"

LAUNCHED_VERSION: Final = 2
"""Of phase QUEUED once the job exists, as in Flyte."""

_replace = msgspec.structs.replace


class CallEvent(msgspec.Struct, frozen=True):
    """Base of what a call can bring."""


class Accepted(CallEvent, frozen=True):
    """``create`` answered: the job exists."""

    meta: bytes


class Declined(CallEvent, frozen=True):
    """``create`` failed in a way that says that there is no job; ``info`` is the verdict on the attempt."""

    info: PhaseInfo


class Unanswered(CallEvent, frozen=True):
    """``create`` may or may not have made the job. ``counts`` when the service is there and too slow."""

    problem: str
    counts: bool
    retry_after_s: float = 0.0


class Told(CallEvent, frozen=True):
    """A look, or a synchronous call, brought a verdict."""

    info: PhaseInfo
    links_digest: int = 0


class Unseen(CallEvent, frozen=True):
    """A look failed. ``is_final`` when no later one can tell more."""

    code: str
    problem: str
    is_final: bool = False


class WebStep(msgspec.Struct, frozen=True):
    """What comes of an event.

    Attributes:
        info: The verdict to tell; ``None`` when there is none.
        waiting_for: Why the job stands still; with no ``info``.
        retry_after_s: Least wait before the next try.
    """

    state: WebPluginState
    info: PhaseInfo | None = None
    waiting_for: str = ""
    retry_after_s: float = 0.0


def step(state: WebPluginState, event: CallEvent, max_failures: int, now: datetime) -> WebStep:
    """Advance one job by one event. A job that is over comes back unchanged.

    Args:
        max_failures: Calls in a row that may fail; the next one that does ends the job.

    Raises:
        InvalidTransitionError: the phase has no move for this event: a bug of the engine.
    """
    if state.phase.is_terminal:
        return WebStep(state)
    move = TRANSITIONS.get((state.phase, type(event)))
    if move is None:
        raise InvalidTransitionError(state.idempotency_key, state.phase.name, type(event).__name__)
    return move(state, event, max_failures, now)


def _accepted(state: WebPluginState, event: Accepted, max_failures: int, now: datetime) -> WebStep:
    """The job is there: from now on it is looked at."""
    state = _replace(state, phase=WebPhase.RESOURCES_CREATED, resource_meta=event.meta, failures=0, problem="")
    return WebStep(state, phases.queued(now, LAUNCHED_VERSION, "launched"))


def _declined(state: WebPluginState, event: Declined, max_failures: int, now: datetime) -> WebStep:
    """There is no job and will be none under this key."""
    return WebStep(_replace(state, phase=WebPhase.USER_FAILURE), event.info)


def _unanswered(state: WebPluginState, event: Unanswered, max_failures: int, now: datetime) -> WebStep:
    """Called again with the same key; a service that is only slow has so many chances."""
    failures = state.failures + event.counts
    state = _replace(state, failures=failures, problem=event.problem)
    if failures <= max_failures:
        return WebStep(state, None, event.problem, event.retry_after_s)
    message = f"the service took the job {failures} times and never answered: {event.problem}"
    verdict = phases.system_failure(CREATION_UNANSWERED, message, now, cleanup=True)
    return WebStep(_replace(state, phase=WebPhase.SYSTEM_FAILURE), verdict)


def _told(state: WebPluginState, event: Told, max_failures: int, now: datetime) -> WebStep:
    """The verdict; a job that has ended is never looked at again."""
    phase = event.info.phase
    reached = state.phase
    if phase is Phase.SUCCESS:
        reached = WebPhase.SUCCEEDED
    elif phase.is_terminal:
        reached = WebPhase.USER_FAILURE
    return WebStep(_replace(state, phase=reached, links_digest=event.links_digest, failures=0, problem=""), event.info)


def _unseen(state: WebPluginState, event: Unseen, max_failures: int, now: datetime) -> WebStep:
    """One more look failed; too many in a row end the task, and its job is deleted."""
    failures = state.failures + 1
    state = _replace(state, failures=failures, problem=event.problem)
    if not event.is_final and failures <= max_failures:
        return WebStep(state, None, event.problem)
    code, message = event.code, event.problem
    if not event.is_final:
        code, message = LOOKS_FAILED, f"{failures} looks at the job in a row failed, the last: {event.problem}"
    verdict = phases.failure(code or LOOKS_FAILED, message, now, cleanup=True)
    return WebStep(_replace(state, phase=WebPhase.SYSTEM_FAILURE), verdict)


Move = Callable[[WebPluginState, Any, int, datetime], WebStep]

TRANSITIONS: Final[Mapping[tuple[WebPhase, type[CallEvent]], Move]] = MappingProxyType(
    {
        (WebPhase.CREATING, Accepted): _accepted,
        (WebPhase.CREATING, Declined): _declined,
        (WebPhase.CREATING, Unanswered): _unanswered,
        (WebPhase.CREATING, Told): _told,
        (WebPhase.RESOURCES_CREATED, Told): _told,
        (WebPhase.RESOURCES_CREATED, Unseen): _unseen,
    }
)
"""Every legal move."""


def may_run(state: WebPluginState) -> bool:
    """Whether there may be a job that works on, and so has to be deleted when nobody wants it any more."""
    return state.phase in (WebPhase.CREATING, WebPhase.RESOURCES_CREATED, WebPhase.SYSTEM_FAILURE)
