"""Status as others read and write it: within the schema of a TaskAction, and from hands that are not ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine import machine, status
from propfan.engine.cluster import TASK_ACTION, ObservedObject
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import decode
from propfan.engine.status import STATE_VERSION
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.engine.task_state import Limits, Outcome, Pending, PluginData, Stage, TaskState
from propfan.engine.verdicts import MAX_ATTEMPT_ERRORS, MAX_HISTORY
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.taskaction import FINALIZER, Condition, PhaseHistoryEntry, TaskAction

NOW = datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC)
LIMITS = Limits(max_attempts=3, deadline_s=100.0, attempt_timeout_s=10.0, queued_timeout_s=10.0)
ETCD_LIMIT_BYTES = 1536 * 1024


def state(**values: Any) -> TaskState:
    return msgspec.structs.replace(TaskState("ns/r1-a0", LIMITS, NOW), **values)


def written(task: TaskState, *unsent: TaskEvent) -> dict[str, Any]:
    """The status as JSON makes it."""
    patch = status.to_patch(task, "r1/a0", NOW, unsent)
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(patch))["status"]
    return found


def action(members: Mapping[str, Any], **metadata: Any) -> TaskAction:
    meta = {"name": "r1-a0", "namespace": "ns", "uid": "u", "creationTimestamp": NOW, **metadata}
    body = msgspec.json.encode({"metadata": meta, "status": members})
    return decode(ObservedObject(TASK_ACTION, ObjectMeta(name="r1-a0", namespace="ns"), body))


def load(members: Mapping[str, Any], **metadata: Any) -> TaskState:
    return status.load(action(members, **metadata), LIMITS)[0]


def event(version: int, error: ExecutionError | None = None) -> TaskEvent:
    return TaskEvent(
        "ns", "r1-a0", "u", "r1", "a0", "p", "d", 1, ActionPhase.RUNNING, Phase.RUNNING, version, NOW, error=error
    )


FULL = state(
    stage=Stage.CLEANING,
    plugin_id="pod",
    attempt=2,
    system_failures=1,
    phase=Phase.QUEUED,
    phase_version=4,
    reason="restarting task",
    top_version=4,
    queued_since=NOW,
    launch_at=NOW + timedelta(seconds=5),
    tries=2,
    waiting_for="the old pod",
    cache_status="CACHE_MISS",
    removing_attempt=1,
    error=ExecutionError("Error", "exit code 1", ErrorKind.USER),
    attempt_errors=("attempt 1: [Error] exit code 1",),
    plugin_data=PluginData(3, b"\x00\xff"),
    conditions=(Condition("Progressing", "True", "RetryableFailure", "exit code 1", NOW),),
    history=(PhaseHistoryEntry("Queued", NOW, "restarting task"),),
)

# -- What is written -------------------------------------------------------------------------------


def test_what_is_written_is_read_again() -> None:
    task, unsent = status.load(action(written(FULL, event(1), event(2))), LIMITS)
    assert task == FULL
    assert unsent == (event(1), event(2))


def test_times_are_rfc3339_in_utc() -> None:
    found = written(FULL)
    assert found["conditions"][0]["lastTransitionTime"] == "2026-01-01T12:30:00.250000Z"
    assert found["phaseHistory"][0]["occurredAt"] == "2026-01-01T12:30:00.250000Z"


def test_numbers_are_int32() -> None:
    huge = state(phase_version=2**40, attempt=2**32, system_failures=2**63)
    found = written(huge)
    for name in ("pluginStateVersion", "pluginPhaseVersion", "attempts", "systemFailures"):
        assert 0 <= found[name] < 2**31
    assert found["pluginStateVersion"] <= 255


def test_absent_error_is_null_and_a_present_one_is_whole() -> None:
    assert written(state())["errorState"] is None
    error = ExecutionError("", "m", ErrorKind.UNKNOWN)
    assert written(state(error=error))["errorState"] == {"code": "", "kind": "", "message": "m"}


@pytest.mark.anyio
async def test_nothing_of_an_earlier_error_stays() -> None:
    body = {
        "apiVersion": "flyte.org/v1",
        "kind": "TaskAction",
        "metadata": {"name": "a", "namespace": "ns"},
        "spec": {},
    }
    with anyio.fail_after(10):
        async with EmbeddedCluster.open() as cluster:
            await cluster.create(TASK_ACTION, msgspec.json.encode(body))

            async def write(error: ExecutionError | None) -> Any:
                patch = status.to_patch(state(error=error), "r1/a0", NOW)
                stored = await cluster.patch(TASK_ACTION, "ns", "a", patch, subresource="status")
                return msgspec.json.decode(stored.raw)["status"].get("errorState")

            await write(ExecutionError("First", "first", ErrorKind.USER))
            second = await write(ExecutionError("", "second", ErrorKind.UNKNOWN))
            assert second == {"code": "", "kind": "", "message": "second"}
            assert await write(None) is None


LONG = "x" * 70_000


def longest_of_all() -> tuple[TaskState, list[TaskEvent]]:
    error = ExecutionError("Code", LONG, ErrorKind.USER)
    task = state(
        reason=LONG,
        waiting_for=LONG,
        error=error,
        pending=Pending(Phase.RETRYABLE_FAILURE, error),
        attempt_errors=(LONG,) * MAX_ATTEMPT_ERRORS,
        conditions=tuple(Condition(kind, "True", "R", LONG, NOW) for kind in ("Progressing", "Succeeded", "Failed")),
        history=(PhaseHistoryEntry("Executing", NOW, "y" * 100),) * (MAX_HISTORY - 8)
        + (PhaseHistoryEntry("PermanentFailure", NOW, LONG),) * 8,
        plugin_data=PluginData(1, bytes(64 * 1024)),
    )
    return task, [event(n, error) for n in range(64)]


def test_status_with_the_longest_texts_can_be_stored() -> None:
    task, unsent = longest_of_all()
    found = written(task, *unsent)
    assert all(len(condition["message"]) <= 32_768 for condition in found["conditions"])
    assert len(msgspec.json.encode(found)) < ETCD_LIMIT_BYTES
    _, kept = status.load(action(found), LIMITS)
    assert len(kept) == 64
    assert kept[-1].error is not None
    assert len(kept[-1].error.message) > 60_000


def test_text_that_is_no_unicode_is_written_legibly() -> None:
    bad = "file \udcff"
    error = ExecutionError(bad, bad)
    task = state(
        reason=bad,
        waiting_for=bad,
        error=error,
        pending=Pending(Phase.RETRYABLE_FAILURE, error),
        attempt_errors=(bad,),
        conditions=(Condition("Progressing", "True", "Queued", bad, NOW),),
        history=(PhaseHistoryEntry("Queued", NOW, bad),),
    )
    found = written(task)
    assert found["errorState"] == {"code": "file ?", "kind": "USER", "message": "file ?"}
    assert found["conditions"][0]["message"] == found["phaseHistory"][0]["message"] == "file ?"
    assert load(found).waiting_for == "file ?"


# -- What is read ----------------------------------------------------------------------------------


def test_object_without_status_is_fresh() -> None:
    assert load({}) == state()


@pytest.mark.parametrize("version", [0, 1, STATE_VERSION + 1])
def test_state_of_another_executor_is_not_read(version: int) -> None:
    members = {**written(FULL), "pluginStateVersion": version, "pluginState": b"\x0d\xff\x81\x03gob"}
    task = load(members)
    assert (task.stage, task.attempt, task.system_failures) == (Stage.RECEIVED, 2, 1)
    assert task.conditions == FULL.conditions
    assert task.version_base > FULL.phase_version, "what is told from now on is news"


def final(reason: str = "Completed", kind: str = "Succeeded") -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": NOW}


@pytest.mark.parametrize("version", [1, STATE_VERSION])
@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        (final(), Outcome.COMPLETED),
        (final("Aborted", "Failed"), Outcome.ABORTED),
        (final("X", "Failed"), Outcome.FAILED),
    ],
)
def test_final_task_stays_final_whatever_its_private_state_is(
    version: int, condition: dict[str, Any], outcome: Outcome
) -> None:
    members = {"pluginStateVersion": version, "pluginState": b"?", "conditions": [condition]}
    task = load(members, finalizers=[FINALIZER])
    assert (task.stage, task.outcome) == (Stage.ENDING, outcome)
    tidy = load(members, labels={"flyte.org/termination-status": "terminated"})
    assert tidy.stage is Stage.ENDED


def private(**members: Any) -> bytes:
    return msgspec.json.encode({"stage": "Active", **members})


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"{",
        b"[]",
        b'{"stage":"Active","waiting_for":"\xff"}',
        b'{"stage":"Active","more":' + b"[" * 20_000,
        private(stage="Unheard"),
        private(stage=None),
        private(stage="Ending"),
        private(stage="Ended", outcome=None),
        private(outcome="Unheard"),
        private(tries="many"),
        private(queued_since="2026-01-01T00:00:00"),
        private(running_since=5),
        private(plugin_data={"version": 1, "content": "not base64!"}),
        private(unsent=[{}]),
        private(pending={"phase": 77}),
    ],
)
def test_broken_state_of_ours_is_named(saved: bytes) -> None:
    members = {"pluginStateVersion": STATE_VERSION, "pluginPhase": "PhaseRunning", "pluginState": saved}
    with pytest.raises(DecodeError, match=r"TaskAction ns/r1-a0: status\.pluginState"):
        load(members)


@pytest.mark.parametrize("phase", ["", "PhaseUnheard", "Running"])
def test_phase_that_is_none_is_named(phase: str) -> None:
    with pytest.raises(DecodeError):
        load({"pluginStateVersion": STATE_VERSION, "pluginPhase": phase, "pluginState": private()})


def test_negative_numbers_count_as_none() -> None:
    task = load({"attempts": -5, "systemFailures": -1, "pluginPhaseVersion": -2, "pluginPhase": "PhaseRunning"})
    assert (task.attempt, task.system_failures, task.phase_version) == (1, 0, 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = [*written(FULL), "signalValue", "signalledAt"]
saved_members = list(msgspec.json.decode(status.to_patch(FULL, "", NOW)["status"]["pluginState"]))


@given(st.data())
def test_any_status_is_a_state_that_can_be_driven_or_refused(data: st.DataObject) -> None:
    members = {**written(FULL), **data.draw(st.dictionaries(st.sampled_from(names), json_values, max_size=4))}
    if data.draw(st.booleans()):
        changed = data.draw(st.dictionaries(st.sampled_from(saved_members), json_values, max_size=3))
        saved = msgspec.json.decode(status.to_patch(FULL, "", NOW)["status"]["pluginState"])
        members["pluginState"] = msgspec.json.encode({**saved, **changed})
    try:
        task, unsent = status.load(action(members), LIMITS)
    except DecodeError:
        return
    machine.next_wake(task)
    machine.reached_limit(task, NOW)
    assert status.to_patch(task, "r1/a0", NOW, unsent)
