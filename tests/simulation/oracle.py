"""What must hold whatever happens: checked while the world turns, and at its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from propfan.engine.cluster import TASK_ACTION, ObservedObject
from propfan.engine.reconcile.live_task import decode
from propfan.engine.reconcile.reconciler import Reconciler
from propfan.engine.status import STATE_VERSION, load
from propfan.engine.task_state import Limits, Outcome
from propfan.pluginmachinery.errors import DecodeError, NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.taskaction import (
    COMPLETED_TIME_LABEL,
    FINALIZER,
    TERMINATION_STATUS_LABEL,
    Condition,
    TaskActionStatus,
)
from tests.simulation.plan import MAX_SYSTEM_FAILURES, Ending, Kind, Task

if TYPE_CHECKING:
    from tests.simulation.world import World

_LIMITS: Final = Limits()


def verdict(seen: ObservedObject) -> tuple[str, int, str] | None:
    """Outcome, attempts and error code; ``None`` while the task goes on."""
    status = decode(seen).status
    final = _final(status)
    if final is None:
        return None
    return final.reason, status.attempts, status.error_state.code if status.error_state is not None else ""


def _final(status: TaskActionStatus) -> Condition | None:
    return next((c for c in status.conditions if c.type in ("Succeeded", "Failed") and c.status == "True"), None)


def check_idle(reconciler: Reconciler, problems: list[str]) -> None:
    """Called whenever nothing is ready: every task must be waiting for something that will come."""
    if len(problems) > 20:
        return
    timed = {(id(live), when) for when, _, live in reconciler._timers._heap}
    for key, live in reconciler._live.items():
        if live.is_ended:
            problems.append(f"{key}: has ended and is still live")
        if live.is_busy or live.is_queued:
            continue
        if live.wake_at is None or (id(live), live.wake_at) not in timed:
            problems.append(f"{key}: sleeps in {live.state.stage.name} and nothing will ever wake it")
        if live.write_at is not None and not live.is_writing and (id(live), live.write_at) not in timed:
            problems.append(f"{key}: a write is due that nothing will begin")
        if not live.is_durable and not (live.is_writing or live.is_publishing or live.write_at is not None):
            problems.append(f"{key}: what was decided is not written down and nobody is about to")


def check_status(seen: ObservedObject) -> list[str]:
    """Of every status that was ever visible."""
    name = seen.metadata.name
    try:
        action = decode(seen)
        state, _ = load(action, _LIMITS)
    except DecodeError as error:
        return [f"{name}: its status can not be read: {error}"]
    status = action.status
    if not status.plugin_state_version:
        return []
    problems = []
    if status.plugin_state_version != STATE_VERSION:
        problems.append(f"{name}: plugin state version {status.plugin_state_version}")
    kinds = [condition.type for condition in status.conditions if condition.status == "True"]
    if len(kinds) > 1:
        problems.append(f"{name}: conditions {kinds} are all true")
    if status.conditions and not kinds:
        problems.append(f"{name}: no condition is true")
    if (state.outcome is not None) != (_final(status) is not None):
        problems.append(f"{name}: outcome {state.outcome} with conditions {kinds}")
    if status.system_failures > MAX_SYSTEM_FAILURES + 1:
        problems.append(f"{name}: {status.system_failures} system failures")
    return problems


def unfinished(world: World) -> list[str]:
    problems = []
    for name in sorted(world._open):
        live = next((live for key, live in world.last._live.items() if key.name == name), None) if world.last else None
        where = "the engine does not know it"
        if live is not None:
            where = f"{live.state.stage.name}, waiting for {live.state.waiting_for!r}, wakes at {live.wake_at}"
        problems.append(f"{name}: not over after {world.loop.time():.0f} s: {where}")
    return problems


async def judge(world: World) -> list[str]:
    """At the end of a world in which every task is over."""
    problems = [*world.kubelet.violations, *world.service.violations, *_memory(world)]
    pods = (await world.cluster.list(POD)).items
    for task in world.plan.tasks:
        problems += await _judge_task(world, task)
    for pod in pods:
        seen = decode_phase(pod)
        if seen not in ("Succeeded", "Failed"):
            problems.append(f"{pod.metadata.name}: left behind, {seen}")
        elif pod.metadata.finalizers:
            problems.append(f"{pod.metadata.name}: keeps finalizers {pod.metadata.finalizers}")
    for name in world.service.jobs:
        problems.append(f"job {name}: left behind")
    for known, again, first, second in world.record.contradictions:
        if first == second:  # an engine that died between the report and the status forgets what it has told
            problems.append(
                f"told twice under {known.key}: {known.reason} {known.error} / {again.reason} {again.error}"
            )
    problems += _versions(world)
    return problems


def decode_phase(pod: ObservedObject) -> str:
    from tests.simulation.plugins import _decode_pod

    return _decode_pod(pod.raw).status.phase


def _memory(world: World) -> list[str]:
    engine, rounds = world.last, world.last_rounds
    assert engine is not None
    assert rounds is not None
    assert world.cache is not None
    publisher = engine._publisher
    left: Mapping[str, Collection[object]] = {
        "live tasks": engine._live,
        "found objects": engine._found,
        "queue": engine._queue,
        "decoded values": rounds._values,
        "events to send": publisher._to_send,
        "writes": publisher._to_write,
        "reservations": world.cache._holders,
        "reserving tasks": world.cache._reserved,
    }
    return [f"memory: {what} is not empty: {list(kept)}" for what, kept in left.items() if kept]


async def _judge_task(world: World, task: Task) -> list[str]:
    name = f"{task.name}-a0"
    problems = _launches(world, task)
    uid = world.uids[task.name]
    is_silent = task.kind is Kind.CONDITION and task.delete_at_s is not None
    finals = world.record.finals.get(uid, [])
    was_seen = any(event.uid == uid for event in world.record.events.values())
    if not finals and not is_silent and (was_seen or task.delete_at_s is None):
        problems.append(f"{name}: its end was never reported")
    if len(finals) > 1 and len({life for _, life in finals}) == 1:
        problems.append(f"{name}: ended {len(finals)} times: {finals}")
    try:
        seen = await world.cluster.get(TASK_ACTION, "default", name)
    except NotFoundError:
        return problems if task.delete_at_s is not None else [*problems, f"{name}: is gone"]
    if seen.metadata.deletion_timestamp is not None:
        problems.append(f"{name}: is still being deleted")
    if FINALIZER in seen.metadata.finalizers:
        problems.append(f"{name}: keeps its finalizer")
    if not {TERMINATION_STATUS_LABEL, COMPLETED_TIME_LABEL} <= set(seen.metadata.labels):
        problems.append(f"{name}: has no terminal labels")
    found = verdict(seen)
    assert found is not None
    outcome, attempts, code = found
    ending = Ending(Outcome(outcome), attempts, code)
    allowed = _allowed(world, task)
    if not any(_fits(ending, one) for one in allowed):
        problems.append(f"{name}: ended as {ending}, expected {allowed}")
    return problems


def _allowed(world: World, task: Task) -> Sequence[Ending]:
    """How the task may end: as its script says, but for what was done to it."""
    allowed = [task.ending()]
    if task.abort_at_s is not None or task.delete_at_s is not None:
        allowed.append(Ending(Outcome.ABORTED))
    if world.plan.faults.charges or task.lose_object_at_s is not None:
        allowed.append(Ending(Outcome.FAILED, 0, "MaxSystemFailuresExceeded"))
    if world.plan.faults.charges:
        allowed.append(Ending(Outcome.FAILED, 0, "InvalidPluginObject"))
    return allowed


def _fits(ending: Ending, allowed: Ending) -> bool:
    return (
        ending.outcome is allowed.outcome
        and ending.code == allowed.code
        and (not allowed.attempts or ending.attempts == allowed.attempts)
    )


def _launches(world: World, task: Task) -> list[str]:
    problems = []
    for launches in (world.kubelet.launches, world.service.launches):
        for (name, attempt), count in launches.items():
            if name == task.name and count > 1 + MAX_SYSTEM_FAILURES + world.crashes:
                problems.append(f"{name}: attempt {attempt} was launched {count} times")
            preludes = len(task.attempts[attempt - 1].preludes) if name == task.name else 0
            is_quiet = not world.crashes and not world.plan.faults.charges and task.lose_object_at_s is None
            if name == task.name and is_quiet and count > 1 + preludes:
                problems.append(f"{name}: attempt {attempt} was launched {count} times without need")
    return problems


def _versions(world: World) -> list[str]:
    """Within an attempt and a life, a phase that comes back has a higher version."""
    problems = []
    highest: dict[tuple[str, int, str, int], int] = {}
    for event in world.record.events.values():
        key = event.uid, event.attempt, event.plugin_phase.name, world.record.lives[event.key]
        if event.version < highest.get(key, -1):
            problems.append(f"{event.key}: came after version {highest[key]}")
        highest[key] = max(event.version, highest.get(key, -1))
    return problems
