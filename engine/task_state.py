"""Where a task stands: the value that the state machine takes and returns.

A ``TaskState`` holds everything that must outlive the process; ``engine/status.py`` writes it into
the status of the ``TaskAction`` and reads it back. ``Limits`` come from the template and the
configuration and are never persisted.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from propfan.pluginmachinery.contexts import ExecutionErrorDocument
from propfan.pluginmachinery.phases import ExecutionError, Phase, ReasonInfo, TaskInfo
from propfan.pluginmachinery.taskaction import Condition, PhaseHistoryEntry


class PluginData(msgspec.Struct, frozen=True):
    """What a core or web plugin keeps for one task: opaque bytes with a version."""

    version: int = 0
    content: bytes = b""


class Stage(enum.Enum):
    """What the engine is doing for a task. Each stage has one goal (see ``machine.goal``)."""

    RECEIVED = "Received"
    CHECKING_CACHE = "CheckingCache"
    WAITING_FOR_CACHE = "WaitingForCache"
    LAUNCHING = "Launching"
    WAITING_FOR_RESOURCES = "WaitingForResources"
    ACTIVE = "Active"
    COLLECTING = "Collecting"
    CLEANING = "Cleaning"
    PAUSED = "Paused"
    ENDING = "Ending"
    ENDED = "Ended"

    __hash__ = object.__hash__  # tables are keyed by it, and Enum's own is in Python

    @property
    def is_over(self) -> bool:
        """The verdict is known and final."""
        return self is Stage.ENDING or self is Stage.ENDED


class Outcome(enum.Enum):
    """The final verdict on a task; the value is the reason in its conditions and history."""

    COMPLETED = "Completed"
    FAILED = "PermanentFailure"
    TIMED_OUT = "TimedOut"
    ABORTED = "Aborted"
    SIGNALED = "Signaled"
    INVALID = "InvalidSpec"
    NO_PLUGIN = "PluginNotFound"

    @property
    def is_success(self) -> bool:
        return self is Outcome.COMPLETED or self is Outcome.SIGNALED


class TimeLimit(enum.Enum):
    """Which bound was reached; the value is the error code that clients see."""

    ATTEMPT = "AttemptTimedOut"
    QUEUED = "QueuedTimedOut"
    DEADLINE = "DeadlineExceeded"
    CONDITION = "ConditionTimedOut"


class Backoff(msgspec.Struct, frozen=True):
    """Waiting time before try ``n`` (from 1): ``base_s * factor ** (n - 1)``, at most ``cap_s``."""

    base_s: float = 0.0
    factor: float = 2.0
    cap_s: float = 0.0

    def wait_s(self, tries: int) -> float:
        """Seconds to wait; 0 when no back-off is configured."""
        if self.base_s <= 0 or tries < 1:
            return 0.0
        growth = max(self.factor, 1.0)
        wait = self.base_s
        for _ in range(min(tries - 1, 64)):
            wait *= growth
            if self.cap_s and wait >= self.cap_s:
                break
        return min(wait, self.cap_s) if self.cap_s else wait


FAULT_BACKOFF: Final = Backoff(base_s=1.0, factor=2.0, cap_s=30.0)
"""Between looks after a system fault. The reference waits 10 s each time."""

DELAY_BACKOFF: Final = Backoff(base_s=0.5, factor=2.0, cap_s=60.0)
"""Between tries while a store, the cluster or a sink is out of order."""


WAITING_FOR_SIGNAL: Final = "waiting for signal"
"""Reason of a condition action that is paused; by it a paused one is told from one that is not ready."""


class Limits(msgspec.Struct, frozen=True):
    """The bounds of one task. ``None`` and 0 are no bound.

    Attributes:
        max_attempts: User attempts, the first included; at least 1.
        max_system_failures: The engine's own retries over the task's whole life; one more is fatal.
        attempt_timeout_s: Time in RUNNING, per attempt.
        queued_timeout_s: Time before INITIALIZING or RUNNING, per attempt.
        deadline_s: Time from creation to the end, over all attempts.
        condition_timeout_s: Time a condition action waits for its signal, from creation.
        undefined_timeout_s: Time a plugin may go on without knowing a phase before it is a fault.
        resync_s: A silent task is looked at this often, in case a change was never announced.
        retry_backoff: Before the next user attempt.
    """

    max_attempts: int = 1
    max_system_failures: int = 3
    attempt_timeout_s: float = 0.0
    queued_timeout_s: float = 0.0
    deadline_s: float = 0.0
    condition_timeout_s: float = 0.0
    undefined_timeout_s: float = 600.0
    resync_s: float = 600.0
    retry_backoff: Backoff = Backoff()

    @property
    def is_any(self) -> bool:
        """Whether any of the four timeouts is set."""
        return (
            self.deadline_s > 0
            or self.attempt_timeout_s > 0
            or self.queued_timeout_s > 0
            or self.condition_timeout_s > 0
        )


class TaskState(msgspec.Struct, frozen=True):
    """One task at one moment.

    Attributes:
        task: ``namespace/name``, for messages.
        plugin_id: For messages; empty until a plugin is found.
        attempt: The present user attempt, from 1.
        system_failures: Spent of the engine's own retries; never goes down.
        phase, phase_version, reason: As last reported. Versions grow within an attempt.
        version_base: Added to the plugin's own versions, so that a relaunch within the same
            attempt never repeats a (phase, version) that was reported before.
        top_version: Highest version reported in this attempt.
        pending: What the object said when it ended, while its outputs are being read.
        queued_since: When this attempt began to wait; ``None`` once it initialises or runs.
        running_since: When this attempt began to run.
        undefined_since: Since when the plugin knows no phase.
        recheck_at: When the plugin wants to be asked again without a change.
        retry_at: Earliest time of the next try of the stage's goal.
        launch_at: Earliest time of the next launch, once the old object is away.
        tries: Failed tries of the present goal in a row, for the back-off.
        waiting_for: Why nothing happens at the moment, for people.
        removing_attempt: Whose object is being removed while CLEANING.
        remove_object: The task is over and its object must go even if it has ended by itself.
        error: The latest error; of the verdict when the task is over.
        plugin_data: What a core or web plugin keeps for this attempt, until what it made is removed.
        awaits_write: The goal may be pursued only once this very state is written down; never persisted itself.
        attempt_errors: Why earlier attempts failed, oldest first, at most the last 8.
    """

    task: str
    limits: Limits
    created_at: datetime
    stage: Stage = Stage.RECEIVED
    plugin_id: str = ""
    attempt: int = 1
    system_failures: int = 0
    phase: Phase = Phase.UNDEFINED
    phase_version: int = 0
    reason: str = ""
    version_base: int = 0
    top_version: int = -1
    pending: Pending | None = None
    queued_since: datetime | None = None
    running_since: datetime | None = None
    undefined_since: datetime | None = None
    observed_at: datetime | None = None
    recheck_at: datetime | None = None
    retry_at: datetime | None = None
    launch_at: datetime | None = None
    tries: int = 0
    waiting_for: str = ""
    cache_status: str = ""
    removing_attempt: int = 0
    outcome: Outcome | None = None
    remove_object: bool = False
    error: ExecutionError | None = None
    attempt_errors: tuple[str, ...] = ()
    plugin_data: PluginData | None = None
    awaits_write: bool = False
    conditions: tuple[Condition, ...] = ()
    history: tuple[PhaseHistoryEntry, ...] = ()


class Pending(msgspec.Struct, frozen=True):
    """A verdict on the object that waits for what the attempt left in the store."""

    phase: Phase
    error: ExecutionError | None = None
    remove_object: bool = False
    info: TaskInfo | None = None


# -- Events: what happened -------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Base of everything that can happen to a task."""


class Admitted(Event, frozen=True):
    """The object is valid and has a plugin, or is a condition action."""

    plugin_id: str
    is_condition: bool = False
    checks_cache: bool = False


class Rejected(Event, frozen=True):
    """The object can never run: ``outcome`` is INVALID or NO_PLUGIN."""

    outcome: Outcome
    message: str


class CacheHit(Event, frozen=True):
    """The outputs were in the cache and are now this task's."""


class CacheMissed(Event, frozen=True):
    """Run it. The reservation, if one was wanted, is ours."""


class CacheBusy(Event, frozen=True):
    """Somebody else is computing the value: ask again after ``retry_after_s``."""

    owner: str
    retry_after_s: float


class Launched(Event, frozen=True):
    """The attempt's object exists (made now, or found with us as its owner).

    Attributes:
        plugin_data: To be written down before anything else is done.
    """

    reason: str = "task submitted to K8s"
    plugin_data: PluginData | None = None


class Refused(Event, frozen=True):
    """The cluster will never take the object as it is."""

    error: ExecutionError


class Postponed(Event, frozen=True):
    """The cluster has no room or right for the object now: try again after ``retry_after_s``."""

    reason: str
    retry_after_s: float


class Delayed(Event, frozen=True):
    """Something that the engine needs is out of order; no one's budget is charged."""

    reason: str
    retry_after_s: float = 0.0


class Observed(Event, frozen=True):
    """The plugin's verdict on the object."""

    phase: Phase
    version: int = 0
    reason: str = ""
    error: ExecutionError | None = None
    info: TaskInfo | None = None
    remove_object: bool = False
    recheck_at: datetime | None = None
    plugin_data: PluginData | None = None


class ObjectLost(Event, frozen=True):
    """The object is gone or going though nobody here asked for it; a live read said so."""

    code: str
    message: str


class Collected(Event, frozen=True):
    """What the attempt left: an error document, or outputs (``document`` is ``None``)."""

    document: ExecutionErrorDocument | None = None
    cache_status: str = ""


class Faulted(Event, frozen=True):
    """A fault: a plugin raised or hung, outputs are missing, an API call makes no sense.

    Attributes:
        is_permanent: No retry can help: the task fails with this very error.
    """

    code: str
    message: str
    is_permanent: bool = False


class ObjectGone(Event, frozen=True):
    """The attempt's object does not exist (any more)."""


class TimedOut(Event, frozen=True):
    limit: TimeLimit


class AbortRequested(Event, frozen=True):
    reason: str


class Signaled(Event, frozen=True):
    by: str


class Finalized(Event, frozen=True):
    """Everything that had to be done after the verdict is done."""


EVENTS: Final[tuple[type[Event], ...]] = (
    Admitted, Rejected, CacheHit, CacheMissed, CacheBusy, Launched, Refused, Postponed, Delayed, Observed,
    ObjectLost, Collected, Faulted, ObjectGone, TimedOut, AbortRequested, Signaled, Finalized,
)  # fmt: skip


# -- Commands: what to do --------------------------------------------------------------------------


class Goal(enum.Enum):
    """What a stage is there to get done. Each is safe to repeat."""

    ADMIT = "admit"
    LOOK_UP_CACHE = "look up cache"
    LAUNCH = "launch"
    OBSERVE = "observe"
    COLLECT = "collect"
    REMOVE_OBJECT = "remove object"
    AWAIT_SIGNAL = "await signal"
    FINALIZE = "finalize"
    NONE = "none"


class Report(msgspec.Struct, frozen=True):
    """Command: tell the control plane. At least once, keyed by (attempt, phase, version).

    Attributes:
        error: Why the attempt failed; why the task failed when ``outcome`` is set.
        outcome: Set on the one report that is final.
    """

    attempt: int
    phase: Phase
    version: int
    occurred_at: datetime
    reason: str = ""
    error: ExecutionError | None = None
    outcome: Outcome | None = None
    cache_status: str = ""
    info: TaskInfo | None = None
    reasons: tuple[ReasonInfo, ...] = ()


class Persist(msgspec.Struct, frozen=True):
    """Command: write the state down. ``urgent`` when what follows must not happen before it."""

    urgent: bool = False


Command = Report | Persist


class Step(msgspec.Struct, frozen=True):
    """What one event leads to: the new state, and commands to run in order.

    The goal of the new state's stage follows them; it is not listed, because it follows also after
    a restart (see ``machine.goal``).
    """

    state: TaskState
    commands: tuple[Command, ...] = ()


@lru_cache(maxsize=256)
def seconds(value: float) -> timedelta:
    """Remembered: most are settings, and a new one takes ten times as long."""
    return timedelta(seconds=value)
