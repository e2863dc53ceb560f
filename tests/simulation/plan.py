"""What a seed stands for: tasks with scripted attempts, and how the world misbehaves meanwhile."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from propfan.engine.task_state import Outcome
from tests.simulation.dice import Dice

MAX_SYSTEM_FAILURES: Final = 3

LONG_S: Final = 3000.0
"""A time limit that only an attempt that hangs can reach, however bad the faults are."""


class Result(enum.Enum):
    """How one launch of an attempt ends."""

    SUCCESS = "success"
    RETRYABLE = "retryable"
    FATAL = "fatal"
    UNSTARTABLE = "unstartable"
    """It can never start: a permanent failure while the object lives, which must be removed."""
    ERROR_FILE = "error file"
    FATAL_ERROR_FILE = "fatal error file"
    SYSTEM = "system"
    NO_OUTPUTS = "no outputs"
    NEVER_STARTS = "never starts"
    NEVER_ENDS = "never ends"


CODES: Final[Mapping[Result, str]] = {
    Result.RETRYABLE: "Exit1",
    Result.FATAL: "Fatal",
    Result.UNSTARTABLE: "BadImage",
    Result.ERROR_FILE: "UserError",
    Result.FATAL_ERROR_FILE: "UserFatal",
    Result.SYSTEM: "Evicted",
}
_RETRIED: Final = frozenset({Result.RETRYABLE, Result.ERROR_FILE})
_CHARGED: Final = frozenset({Result.SYSTEM, Result.NO_OUTPUTS})


class Kind(enum.Enum):
    POD = "pod"
    CORE = "core"
    CONDITION = "condition"
    INVALID = "invalid"
    UNKNOWN = "unknown"


class Attempt(msgspec.Struct, frozen=True):
    """``preludes`` come first, one for each launch that ends, then ``result``."""

    result: Result
    preludes: tuple[Result, ...] = ()

    def ending(self, launch: int) -> Result:
        """How launch number ``launch`` (from 1) ends."""
        return self.preludes[launch - 1] if launch <= len(self.preludes) else self.result


class Ending(msgspec.Struct, frozen=True):
    """``attempts`` of 0 is any number."""

    outcome: Outcome
    attempts: int = 0
    code: str = ""


class Task(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    submit_at_s: float
    attempts: tuple[Attempt, ...] = (Attempt(Result.SUCCESS),)
    attempt_timeout_s: float = 0.0
    queued_timeout_s: float = 0.0
    deadline_s: float = 0.0
    backoff_s: float = 0.0
    cache_key: str = ""
    signal_at_s: float | None = None
    abort_at_s: float | None = None
    delete_at_s: float | None = None
    lose_object_at_s: float | None = None

    def ending(self) -> Ending:
        """How the task ends when nothing but its script goes wrong."""
        match self.kind:
            case Kind.INVALID:
                return Ending(Outcome.INVALID, 1, "InvalidSpec")
            case Kind.UNKNOWN:
                return Ending(Outcome.NO_PLUGIN, 1, "PluginNotFound")
            case Kind.CONDITION if self.signal_at_s is not None:
                return Ending(Outcome.SIGNALED, 1)
            case Kind.CONDITION:
                return Ending(Outcome.TIMED_OUT, 1, "ConditionTimedOut")
        charged = 0
        for number, attempt in enumerate(self.attempts, 1):
            is_last = number == len(self.attempts)
            charged += len(attempt.preludes)
            if charged > MAX_SYSTEM_FAILURES:
                return Ending(Outcome.FAILED, number, "MaxSystemFailuresExceeded")
            match attempt.result:
                case Result.SUCCESS:
                    return Ending(Outcome.COMPLETED, number)
                case Result.NEVER_STARTS | Result.NEVER_ENDS:
                    queued = attempt.result is Result.NEVER_STARTS
                    limit = self.queued_timeout_s if queued else self.attempt_timeout_s
                    if not limit:
                        return Ending(Outcome.TIMED_OUT, number, "DeadlineExceeded")
                    if is_last:
                        return Ending(Outcome.TIMED_OUT, number, "QueuedTimedOut" if queued else "AttemptTimedOut")
                case result if is_last or result not in _RETRIED:
                    return Ending(Outcome.FAILED, number, CODES[result])
        raise AssertionError("a task has at least one attempt")


class Faults(msgspec.Struct, frozen=True):
    """Probabilities are per call or event; nothing misbehaves after ``until_s`` but what was begun before."""

    until_s: float
    crashes: tuple[int, ...] = ()
    """After so many calls to the outside each life of the engine dies; the life after the last one does not."""
    slow: float = 0.0
    latency_s: float = 0.0
    api_error: float = 0.0
    lost_answer: float = 0.0
    """The write was applied, its caller is told that it was not."""
    stale_list: float = 0.0
    watch_lag_s: float = 0.0
    watch_shuffle: float = 0.0
    watch_repeat: float = 0.0
    watch_end: float = 0.0
    watch_expire: float = 0.0
    watch_silent: float = 0.0
    sink_error: float = 0.0
    sink_slow: float = 0.0
    store_error: float = 0.0
    plugin_fault: float = 0.0
    plugin_undefined: float = 0.0
    plugin_hold_s: float = 0.0
    quota: float = 0.0
    down: tuple[tuple[str, float, float], ...] = ()
    """What (``cluster``, ``sink``, ``store``) answers nothing but errors, from when until when."""
    stuck_terminating: float = 0.0

    @property
    def charges(self) -> bool:
        """Whether they spend budgets of tasks."""
        return self.plugin_fault > 0


class Plan(msgspec.Struct, frozen=True):
    seed: int
    tasks: tuple[Task, ...]
    faults: Faults
    resync_s: float
    linger_s: float


def plan(seed: int) -> Plan:
    """The plan of a seed. One seed in four is a quiet world with crashes at one or two exact calls."""
    dice = Dice(seed)
    is_sweep = seed % 4 == 0
    count = 1 if is_sweep else dice.integer(1, 4, "tasks")
    has_charges = not is_sweep and dice.chance(0.4, "charging")
    tasks = tuple(_task(dice, index, has_charges=has_charges, is_sweep=is_sweep) for index in range(count))
    if is_sweep:
        step = seed // 4
        crashes: tuple[int, ...] = (step % 64,) if step % 2 else (step // 2 % 48, dice.integer(0, 40, "second crash"))
        faults = Faults(until_s=60.0, crashes=crashes)
    else:
        faults = _faults(dice, has_charges=has_charges)
    resync_s = 600.0 if dice.chance(0.2, "resync") else 1e6
    return Plan(seed, tasks, faults, resync_s, dice.pick((0.0, 0.05, 0.5), "linger"))


def _faults(dice: Dice, *, has_charges: bool) -> Faults:
    until = dice.uniform(20.0, 200.0, "until")

    def some(what: str, most: float, probability: float = 0.4) -> float:
        return dice.uniform(0.0, most, what, "much") if dice.chance(probability, what) else 0.0

    crashes = dice.integer(0, 4, "crashes") if dice.chance(0.6, "crashing") else 0
    down = tuple(
        (what, begin := dice.uniform(0.0, until * 0.7, what, "from"), begin + dice.uniform(1.0, 90.0, what, "for"))
        for what in ("cluster", "sink", "store")
        if dice.chance(0.2, what, "down")
    )
    return Faults(
        until_s=until,
        crashes=tuple(dice.integer(0, 90, "crash", number) for number in range(crashes)),
        slow=some("slow", 0.5),
        latency_s=dice.pick((0.01, 0.5, 6.0), "latency"),
        api_error=some("api", 0.3),
        lost_answer=some("lost", 0.3),
        stale_list=some("stale", 1.0),
        watch_lag_s=some("lag", 10.0),
        watch_shuffle=some("shuffle", 1.0),
        watch_repeat=some("repeat", 0.5),
        watch_end=some("end", 0.4),
        watch_expire=some("expire", 0.3),
        watch_silent=some("silent", 0.1, 0.2),
        sink_error=some("sink", 0.6),
        sink_slow=some("slow sink", 0.5),
        store_error=some("store", 0.4),
        plugin_fault=some("plugin", 0.3, 0.5) if has_charges else 0.0,
        plugin_undefined=some("undefined", 0.3),
        plugin_hold_s=some("hold", 20.0, 0.3),
        quota=some("quota", 0.8, 0.3),
        down=down,
        stuck_terminating=some("stuck", 0.8, 0.3),
    )


_KINDS: Final = (Kind.POD,) * 7 + (Kind.CORE,) * 2 + (Kind.CONDITION, Kind.INVALID, Kind.UNKNOWN)
_RESULTS: Final = (
    (Result.SUCCESS,) * 6
    + (Result.RETRYABLE,) * 4
    + (Result.ERROR_FILE,) * 2
    + (Result.FATAL, Result.FATAL_ERROR_FILE, Result.UNSTARTABLE, Result.NEVER_ENDS, Result.NEVER_STARTS)
)


def _task(dice: Dice, index: int, *, has_charges: bool, is_sweep: bool) -> Task:
    kind = Kind.POD if is_sweep and dice.chance(0.8, "pod") else dice.pick(_KINDS, index, "kind")
    attempts: list[Attempt] = []
    if kind in (Kind.POD, Kind.CORE):
        for number in range(dice.integer(1, 3, index, "attempts")):
            result = dice.pick(_RESULTS, index, number, "result")
            if kind is Kind.CORE and result not in (Result.SUCCESS, Result.RETRYABLE, Result.FATAL, Result.NEVER_ENDS):
                result = Result.RETRYABLE
            preludes = dice.integer(1, 2, index, number, "preludes") if dice.chance(0.2, index, number, "system") else 0
            kinds = (Result.SYSTEM,) if kind is Kind.CORE else (Result.SYSTEM, Result.NO_OUTPUTS)
            attempts.append(
                Attempt(result, tuple(dice.pick(kinds, index, number, n, "prelude") for n in range(preludes)))
            )
    hangs = {attempt.result for attempt in attempts} & {Result.NEVER_ENDS, Result.NEVER_STARTS}
    has_deadline = bool(hangs) and dice.chance(0.3, index, "deadline")
    has_limits = bool(hangs) and not has_deadline
    cache_key = ""
    if kind is Kind.POD and dice.chance(0.15, index, "cached"):
        cache_key, attempts, hangs = "shared", [Attempt(Result.SUCCESS)], set()
    horizon = 60.0
    stop = dice.roll(index, "stop") if not is_sweep or dice.chance(0.3, "stops") else 1.0
    return Task(
        name=f"t{index}",
        kind=kind,
        submit_at_s=0.0 if is_sweep else dice.uniform(0.0, 5.0, index, "submit"),
        attempts=tuple(attempts) or (Attempt(Result.SUCCESS),),
        attempt_timeout_s=LONG_S if has_limits else 0.0,
        queued_timeout_s=LONG_S if has_limits else 0.0,
        deadline_s=6 * LONG_S if has_deadline else 0.0,
        backoff_s=dice.uniform(0.1, 30.0, index, "backoff") if dice.chance(0.3, index, "backs off") else 0.0,
        cache_key=cache_key,
        signal_at_s=dice.uniform(0.0, horizon, index, "signal") if dice.chance(0.7, index, "signalled") else None,
        abort_at_s=dice.uniform(0.0, horizon, index, "abort") if stop < 0.15 else None,
        delete_at_s=dice.uniform(0.0, horizon, index, "delete") if 0.15 <= stop < 0.3 else None,
        lose_object_at_s=dice.uniform(0.0, 40.0, index, "lose")
        if has_charges and dice.chance(0.5, index, "lost")
        else None,
    )
