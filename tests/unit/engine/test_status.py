"""A state in the status of its TaskAction, and back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from propfan.engine import status
from propfan.engine.task_events import Identity, to_event
from propfan.engine.task_state import Limits, Outcome, PluginData, Report, Stage, TaskState
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.taskaction import TERMINATION_STATUS_LABEL, TaskAction, TaskActionStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
META = ObjectMeta(name="r1-a0", namespace="ns", creation_timestamp=NOW)
LIMITS = Limits(max_attempts=3)


def action(body: Any, meta: ObjectMeta = META) -> TaskAction:
    return TaskAction(meta, status=msgspec.json.decode(msgspec.json.encode(body), type=TaskActionStatus))


def test_unsent_events_survive_in_the_status() -> None:
    identity = Identity("ns", "r1-a0", "uid", "r1", "a0", "p", "d")
    error = ExecutionError("Exit1", "exit code 1")
    events = (
        to_event(identity, Report(1, Phase.RETRYABLE_FAILURE, 0, NOW, error=error)),
        to_event(identity, Report(2, Phase.QUEUED, 0, NOW, "restarting task")),
    )
    state = TaskState("ns/r1-a0", LIMITS, NOW, stage=Stage.CLEANING, attempt=2, phase=Phase.QUEUED)
    body = status.to_patch(state, "r1/a0", NOW, events)["status"]
    loaded, unsent = status.load(action(body), LIMITS)
    assert loaded == state
    assert tuple(unsent) == events


def test_clients_read_the_public_part() -> None:
    error = ExecutionError("Exit1", "exit code 1", ErrorKind.SYSTEM)
    state = TaskState("ns/r1-a0", LIMITS, NOW, phase=Phase.RUNNING, phase_version=3, attempt=2, error=error)
    body = action(status.to_patch(state, "r1/a0", NOW)["status"]).status
    assert (body.plugin_phase, body.plugin_phase_version, body.attempts) == ("PhaseRunning", 3, 2)
    assert body.error_state is not None
    assert (body.error_state.code, body.error_state.kind, body.error_state.message) == (
        "Exit1",
        "SYSTEM",
        "exit code 1",
    )
    seen = msgspec.json.decode(body.state_json)
    assert (seen["phase"], seen["actionId"]) == ("PhaseRunning", "r1/a0")


def test_a_signal_that_came_meanwhile_is_not_overwritten() -> None:
    body = status.to_patch(TaskState("ns/r1-a0", LIMITS, NOW), "r1/a0", NOW)["status"]
    assert not {"signalValue", "signalledBy", "signalledAt"} & set(body)


def test_an_object_without_a_status_starts_from_the_beginning() -> None:
    state, unsent = status.load(TaskAction(META), LIMITS)
    assert state == TaskState("ns/r1-a0", LIMITS, NOW)
    assert unsent == ()


def test_a_state_in_gob_goes_on_with_its_attempt_and_higher_versions() -> None:
    foreign = {
        "pluginState": b"\x03\x04gob",
        "pluginStateVersion": 1,
        "pluginPhase": "PhaseRunning",
        "pluginPhaseVersion": 4,
        "attempts": 2,
        "systemFailures": 1,
    }
    state, _ = status.load(action(foreign), LIMITS)
    assert (state.stage, state.attempt, state.system_failures) == (Stage.RECEIVED, 2, 1)
    assert state.version_base > 4


@pytest.mark.parametrize(
    ("labels", "stage"), [({}, Stage.ENDING), ({TERMINATION_STATUS_LABEL: "terminated"}, Stage.ENDED)]
)
def test_what_is_final_in_gob_stays_final(labels: dict[str, str], stage: Stage) -> None:
    final = {"type": "Failed", "status": "True", "reason": "TimedOut", "message": "m", "lastTransitionTime": NOW}
    foreign = {"pluginStateVersion": 1, "pluginPhase": "PhasePermanentFailure", "conditions": [final]}
    state, _ = status.load(action(foreign, msgspec.structs.replace(META, labels=labels)), LIMITS)
    assert (state.stage, state.outcome) == (stage, Outcome.TIMED_OUT)


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage":"Nowhere"}', b'{"stage":"Ended"}', b"\x03gob"])
def test_a_state_of_ours_that_can_not_be_read_is_no_state(content: bytes) -> None:
    broken = {"pluginStateVersion": status.STATE_VERSION, "pluginPhase": "PhaseRunning", "pluginState": content}
    with pytest.raises(DecodeError, match=r"TaskAction ns/r1-a0: status\.pluginState"):
        status.load(action(broken), LIMITS)


def test_what_a_core_plugin_keeps_survives() -> None:
    state = TaskState(
        "ns/r1-a0", LIMITS, NOW, stage=Stage.ACTIVE, phase=Phase.RUNNING, plugin_data=PluginData(3, b"\xff")
    )
    loaded, _ = status.load(action(status.to_patch(state, "r1/a0", NOW)["status"]), LIMITS)
    assert loaded.plugin_data == PluginData(3, b"\xff")
