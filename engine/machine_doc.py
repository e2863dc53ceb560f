"""The state machine as a diagram and a table, found by trying every cell of its table.

``python -m propfan.engine.machine_doc docs/state-machine.md`` writes both between the markers of
that file; a test holds them equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from propfan.engine import machine
from propfan.engine.task_state import (
    EVENTS,
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
    Launched,
    Limits,
    ObjectGone,
    ObjectLost,
    Observed,
    Outcome,
    Pending,
    Postponed,
    Refused,
    Rejected,
    Signaled,
    Stage,
    TaskState,
    TimedOut,
    TimeLimit,
)
from propfan.pluginmachinery.contexts import ExecutionErrorDocument
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase

_BEGIN: Final = "<!-- generated: {} -->"
_END: Final = "<!-- end of generated: {} -->"
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_USER: Final = ExecutionError("Error", "exit code 1", ErrorKind.USER)
_SYSTEM: Final = ExecutionError("Interrupted", "node gone", ErrorKind.SYSTEM)

_SAMPLES: Final[Mapping[type[Event], Sequence[Event]]] = {
    Admitted: (Admitted("pod"), Admitted("pod", checks_cache=True), Admitted("", is_condition=True)),
    Rejected: (Rejected(Outcome.INVALID, "no run name"),),
    CacheHit: (CacheHit(),),
    CacheMissed: (CacheMissed(),),
    CacheBusy: (CacheBusy("other", 5.0),),
    Launched: (Launched(),),
    Refused: (Refused(_USER),),
    Postponed: (Postponed("exceeded quota", 1.0),),
    Delayed: (Delayed("store down"),),
    Observed: (
        *(Observed(phase) for phase in (Phase.QUEUED, Phase.INITIALIZING, Phase.RUNNING, Phase.SUCCESS)),
        Observed(Phase.PERMANENT_FAILURE, error=_USER),
        Observed(Phase.ABORTED),
    ),
    ObjectLost: (ObjectLost("ResourceDeletedExternally", "gone"),),
    Collected: (Collected(), Collected(ExecutionErrorDocument(_USER, is_recoverable=True))),
    Faulted: (Faulted("RuntimeError", "plugin raised"),),
    ObjectGone: (ObjectGone(),),
    TimedOut: (TimedOut(TimeLimit.ATTEMPT), TimedOut(TimeLimit.DEADLINE)),
    AbortRequested: (AbortRequested("enough"),),
    Signaled: (Signaled("me"),),
    Finalized: (Finalized(),),
}


def targets() -> Mapping[tuple[Stage, type[Event]], Sequence[Stage]]:
    """Where each cell of the table can lead, in the order of ``Stage``; empty where the event cannot happen."""
    found: dict[tuple[Stage, type[Event]], Sequence[Stage]] = {}
    for (stage, kind), move in machine.TRANSITIONS.items():
        reached = set()
        if move is not None:
            for state in _states(stage):
                reached |= {machine.step(state, event, _NOW).state.stage for event in _SAMPLES[kind]}
        found[stage, kind] = tuple(s for s in Stage if s in reached)
    return found


def _states(stage: Stage) -> Iterator[TaskState]:
    for attempt in (1, 2):
        for failures in (0, 3):
            for pending in (Pending(Phase.SUCCESS), Pending(Phase.RETRYABLE_FAILURE, _SYSTEM)):
                yield TaskState(
                    task="ns/task",
                    limits=Limits(max_attempts=2, max_system_failures=3),
                    created_at=_NOW,
                    stage=stage,
                    attempt=attempt,
                    system_failures=failures,
                    pending=pending,
                )


def diagram() -> str:
    """A Mermaid state diagram; moves that keep the stage, and aborts and time limits, are left out."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Stage.RECEIVED.value}"]
    edges: dict[tuple[Stage, Stage], list[str]] = {}
    for (stage, kind), reached in targets().items():
        if kind in (AbortRequested, TimedOut):
            continue
        for target in reached:
            if target is not stage:
                edges.setdefault((stage, target), []).append(kind.__name__)
    lines += [f"    {a.value} --> {b.value}: {', '.join(names)}" for (a, b), names in edges.items()]
    return "\n".join([*lines, f"    {Stage.ENDED.value} --> [*]", "```"])


def table() -> str:
    """A Markdown table: a row per event, a column per stage."""
    reached = targets()
    lines = [
        "| event | " + " | ".join(stage.value for stage in Stage) + " |",
        "|---" * (len(Stage) + 1) + "|",
    ]
    for kind in EVENTS:
        cells = [", ".join(s.value if s is not stage else "*stays*" for s in reached[stage, kind]) for stage in Stage]
        lines.append(f"| {kind.__name__} | " + " | ".join(cell or "-" for cell in cells) + " |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """``text`` with what stands between the markers made anew.

    Raises:
        ValueError: a marker is missing.
    """
    for name, content in (("diagram", diagram()), ("table", table())):
        begin, end = _BEGIN.format(name), _END.format(name)
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the markers '{begin}' and '{end}' are missing")
        text = f"{head}{begin}\n{content}\n{end}{tail}"
    return text


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
