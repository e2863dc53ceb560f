"""The reconciler on an embedded cluster: what it writes, tells and survives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio
import msgspec
import pytest
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.cluster import TASK_ACTION, Kind, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.config import ForeignState
from propfan.engine.status import STATE_VERSION
from propfan.engine.task_events import ActionPhase, NotAllRecordedError, TaskEvent
from propfan.pluginmachinery.errors import ApiError, ConflictError, InvalidError, UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.phases import Phase, PhaseInfo
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION, FINALIZER, TERMINATION_STATUS_LABEL
from tests.unit.engine.reconcile.rig import Rig, rig, running

pytestmark = pytest.mark.anyio


def now_true(conditions: object) -> list[str]:
    return [f"{c.type}/{c.reason}" for c in conditions if c.status == "True"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("finalizers", "most"), [([FINALIZER], 4), ([], 5)], ids=["submitted here", "by others"])
async def test_a_quick_healthy_task_costs_at_most_five_writes(finalizers: list[str], most: int) -> None:
    async with running() as it:
        await it.submit(finalizers=finalizers)
        await it.until_pod("r1-a0-0")
        await it.move("r1-a0-0", "Running")
        await it.until_reason("Executing")
        await it.move("r1-a0-0", "Succeeded")
        await it.until_over()
        writes = Counter(it.cluster.writes)
        assert sum(writes.values()) <= most, writes
        assert writes["create pods"] == 1
        assert writes["patch taskactions.flyte.org status"] <= 2
        assert writes["patch taskactions.flyte.org labels,finalizers"] == 1


async def test_a_retried_task_has_the_history_and_events_of_both_attempts() -> None:
    async with running() as it:
        await it.submit(retries=1)
        for attempt, end in enumerate(("Failed", "Succeeded")):
            pod = f"r1-a0-{attempt}"
            await it.until_pod(pod)
            await it.move(pod, "Pending", "Pulling")
            await it.until_reason("Initializing")
            await it.move(pod, "Running")
            await it.until_reason("Executing")
            await it.move(pod, end, "Exit1" if end == "Failed" else "")
        status = await it.until_over()
        history = [entry.phase for entry in status.phase_history]
        assert history == ["Queued", "Initializing", "Executing", "Queued", "Initializing", "Executing", "Completed"]
        assert now_true(status.conditions) == ["Succeeded/Completed"]
        assert status.attempts == 2
        assert status.error_state is None
        failed = [event for event in it.sink.events if event.phase is ActionPhase.FAILED]
        assert [(e.attempt, e.is_final, e.error.code if e.error else "") for e in failed] == [(1, False, "Exit1")]
        assert [e.attempt for e in it.sink.events if e.is_final] == [2]
        assert await it.pods() == ["r1-a0-1"], "the failed attempt's pod is away, the last one's stays"


async def test_the_last_failure_is_the_error_of_the_task() -> None:
    async with running() as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await it.move("r1-a0-0", "Failed", "Exit1")
        status = await it.until_over()
        assert now_true(status.conditions) == ["Failed/PermanentFailure"]
        assert status.error_state is not None
        assert (status.error_state.code, status.error_state.kind) == ("Exit1", "USER")
        assert [entry.phase for entry in status.phase_history][-1] == "PermanentFailure"


async def test_a_sink_that_answers_nobody_delays_no_pod() -> None:
    async with running() as it:
        it.sink.shut()
        for number in range(30):
            await it.submit(f"r{number}")
        for number in range(30):
            await it.until_pod(f"r{number}-a0-0")
        assert it.sink.events == []


async def test_a_verdict_waits_for_its_event_and_nothing_else_does_while_the_sink_is_down() -> None:
    async with running(sink_timeout_s=0.05) as it:
        it.sink.error = OSError("down")
        for number in range(20):
            await it.submit(f"r{number}", retries=1)
        for number in range(20):
            await it.until_pod(f"r{number}-a0-0")
            await it.move(f"r{number}-a0-0", "Failed", "Exit1")
        for number in range(20):
            await it.until_pod(f"r{number}-a0-1")
            await it.move(f"r{number}-a0-1", "Succeeded")
        await it.until(lambda: all(live.state.outcome is not None for live in it.reconciler.live.values()))
        assert it.final == []
        for number in range(20):
            assert "Progressing" in {c.type for c in (await it.status(f"r{number}")).conditions if c.status == "True"}
        it.sink.error = None
        for number in range(20):
            await it.until_over(f"r{number}")
        keys = [event.key for event in it.sink.events if event.is_final]
        assert len(keys) == len(set(keys)) == 20


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("x", "409"),
        InvalidError("x", "422"),
        ApiError("x", "500"),
        UnavailableError("x", "503"),
    ],
    ids=lambda error: str(error.status),
)
async def test_a_refused_status_write_is_tried_again(error: ApiError) -> None:
    async with running() as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await it.until_reason("Queued")
        it.cluster.failures.extend([error, error])
        await it.move("r1-a0-0", "Succeeded")
        status = await it.until_over()
        assert now_true(status.conditions) == ["Succeeded/Completed"]
        assert it.cluster.failures == []


async def test_a_pod_is_made_again_only_after_it_is_written_that_the_old_one_is_away() -> None:
    """Else an engine that goes on after a crash would remove the new one as if it were the old one."""
    async with running() as it:
        stages: list[str] = []
        create = it.cluster.create

        async def noted(kind: Kind, body: bytes) -> ObservedObject:
            private = (await it.status()).plugin_state
            stages.append(msgspec.json.decode(private)["stage"] if private else "")
            return await create(kind, body)

        it.cluster.create = noted  # type: ignore[method-assign]
        await it.submit()
        await it.until_pod("r1-a0-0")
        await it.until_reason("Queued")
        it.cluster.failures.extend([UnavailableError("x", "503")] * 2)
        await it.move("r1-a0-0", "Running")
        await it.truth.delete(POD, "default", "r1-a0-0", grace_period_s=0)
        await it.until(lambda: len(stages) == 2)
        assert stages[1] == "Launching"


async def test_a_state_of_another_executor_is_taken_over_with_its_pod() -> None:
    async with rig() as it:
        await it.submit(retries=2)
        uid = (await it.action()).metadata.uid
        owner = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": "r1-a0", "uid": uid, "controller": True}
        meta = {
            "name": "r1-a0-1",
            "namespace": "default",
            "ownerReferences": [owner],
            "labels": {"flyte.org/managed": "true"},
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}
        await it.truth.create(POD, msgspec.json.encode(pod))
        foreign = {
            "attempts": 2,
            "pluginState": b"\x03\x04gob",
            "pluginStateVersion": 1,
            "pluginPhase": "PhaseRunning",
            "pluginPhaseVersion": 3,
        }
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"status": foreign}, subresource="status")
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            await it.until_reason("Queued")
            await it.move("r1-a0-1", "Succeeded")
            status = await it.until_over()
            group.cancel_scope.cancel()
        assert status.attempts == 2
        assert it.cluster.writes.count("create pods") == 1, "it tried, and found the one that was there"
        assert await it.pods() == ["r1-a0-1"]
        assert all(event.version > 3 for event in it.sink.events if event.phase is not ActionPhase.SUCCEEDED)


async def test_what_another_executor_finished_stays_finished() -> None:
    async with rig() as it:
        await it.submit()
        final = {
            "type": "Failed",
            "status": "True",
            "reason": "Aborted",
            "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        foreign = {"pluginStateVersion": 1, "pluginState": b"gob", "pluginPhase": "PhaseAborted", "conditions": [final]}
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"status": foreign}, subresource="status")
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            await it.until_over()
            group.cancel_scope.cancel()
        assert now_true((await it.status()).conditions) == ["Failed/Aborted"]
        assert it.sink.events == []
        assert TERMINATION_STATUS_LABEL in (await it.action()).metadata.labels


async def test_a_state_that_can_not_be_read_is_refused_and_not_run_again() -> None:
    async with rig() as it:
        await it.submit()
        broken = {"pluginStateVersion": STATE_VERSION, "pluginState": b"{", "pluginPhase": "PhaseRunning"}
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"status": broken}, subresource="status")
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            status = await it.until_over()
            group.cancel_scope.cancel()
        assert status.error_state is not None
        assert (status.error_state.code, status.error_state.kind) == ("CorruptedPluginState", "SYSTEM")
        assert await it.pods() == []
        assert [event.is_final for event in it.sink.events] == [True]


@pytest.mark.parametrize(
    "answer",
    [None, "RUNNING", PhaseInfo("running"), PhaseInfo(Phase.RUNNING, version=-1), PhaseInfo(Phase.RUNNING, reason=7)],  # type: ignore[arg-type]
    ids=repr,
)
async def test_nonsense_from_a_plugin_fails_its_own_task_only(answer: object) -> None:
    async with running(max_system_failures=0) as it:
        it.plugin.answer = lambda resource: (
            answer if resource.metadata.name.startswith("bad") else PhaseInfo(Phase.SUCCESS)
        )
        for name in ("bad", "good"):
            await it.submit(name)
            await it.until_pod(f"{name}-a0-0")
            await it.move(f"{name}-a0-0", "Running")
        assert now_true((await it.until_over("bad")).conditions) == ["Failed/PermanentFailure"]
        assert now_true((await it.until_over("good")).conditions) == ["Succeeded/Completed"]


async def test_an_abort_while_an_old_pod_goes_leaves_no_pod() -> None:
    async with running() as it:
        await it.submit(retries=1)
        await it.until_pod("r1-a0-0")
        held = {"metadata": {"finalizers": ["example.com/held"]}}
        it.plugin.answer = lambda _: PhaseInfo(Phase.RETRYABLE_FAILURE)
        it.cluster.failures.extend([UnavailableError("x", "down")] * 3)
        await it.truth.patch(POD, "default", "r1-a0-0", held)
        await it.until(lambda: any(live.state.attempt == 2 for live in it.reconciler.live.values()))
        await it.truth.patch(
            TASK_ACTION, "default", "r1-a0", {"metadata": {"annotations": {ABORT_ANNOTATION: "enough"}}}
        )
        status = await it.until_over()
        assert now_true(status.conditions) == ["Failed/Aborted"]
        assert await it.pods() == []


async def condition(it: Rig, timeout_s: int) -> None:
    made = run_definition_pb2.ConditionAction(name="c")
    made.timeout.seconds = timeout_s
    spec = {"actionType": "condition", "conditionSpec": made.SerializeToString(), "taskType": "", "taskTemplate": b""}
    await it.submit(spec=spec, finalizers=[])


async def test_a_signal_wins_over_a_time_limit_that_has_passed_too() -> None:
    async with rig(age_s=10) as it:
        await condition(it, timeout_s=5)
        signal = {"signalValue": b"yes", "signalledBy": "ann"}
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"status": signal}, subresource="status")
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            await it.until_reason("Signaled")
            group.cancel_scope.cancel()
        status = await it.status()
        assert now_true(status.conditions) == ["Succeeded/Signaled"]
        assert status.phase_history[-1].message == 'condition signalled by "ann"'


async def test_a_condition_without_a_signal_times_out() -> None:
    async with running(age_s=10) as it:
        await condition(it, timeout_s=5)
        await it.until_reason("TimedOut")
        status = await it.status()
        assert status.error_state is not None
        assert status.error_state.code == "ConditionTimedOut"
        assert status.error_state.message == "condition timed out after 5s without a signal"


async def test_a_task_whose_plugin_is_gone_can_be_deleted() -> None:
    async with rig() as it:
        await it.submit(task_type="gone")
        saved = {"pluginStateVersion": STATE_VERSION, "pluginPhase": "PhaseRunning"}
        state = msgspec.json.encode({"stage": "Active", "plugin_id": "uninstalled"})
        await it.truth.patch(
            TASK_ACTION, "default", "r1-a0", {"status": {**saved, "pluginState": state}}, subresource="status"
        )
        await it.truth.delete(TASK_ACTION, "default", "r1-a0")
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            await it.until(lambda: any(event.is_final for event in it.sink.events) and not it.reconciler.live)
            group.cancel_scope.cancel()
        assert it.sink.events[-1].phase is ActionPhase.ABORTED
        assert (await it.truth.list(TASK_ACTION)).items == []


async def test_a_state_of_another_executor_is_refused_where_that_is_wanted() -> None:
    async with rig(foreign_state=ForeignState.REFUSE) as it:
        await it.submit()
        foreign = {"pluginState": b"\x03\x04gob", "pluginStateVersion": 1, "pluginPhase": "PhaseRunning"}
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"status": foreign}, subresource="status")
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            status = await it.until_over()
            group.cancel_scope.cancel()
        assert status.error_state is not None
        assert status.error_state.code == "ForeignPluginState"
        assert [event.is_final for event in it.sink.events] == [True]
        assert it.cluster.writes.count("create pods") == 0


async def test_events_that_a_sink_leaves_hold_up_their_own_task_only() -> None:
    async with running() as it:
        unknown = {"late"}
        recorded: list[TaskEvent] = []

        async def record(events: Sequence[TaskEvent]) -> None:
            left = [event for event in events if event.run in unknown]
            recorded.extend(event for event in events if event.run not in unknown)
            if left:
                raise NotAllRecordedError("not known yet", left)

        it.sink.record = record  # type: ignore[method-assign]
        for name in ("late", "known"):
            await it.submit(name)
            await it.until_pod(f"{name}-a0-0")
        await it.until_reason("Queued", "late")
        for name in ("late", "known"):
            await it.move(f"{name}-a0-0", "Succeeded")
        assert now_true((await it.until_over("known")).conditions) == ["Succeeded/Completed"]
        assert now_true((await it.status("late")).conditions) == ["Progressing/Queued"]
        unknown.clear()
        await it.until_over("late")
        late = [event.phase for event in recorded if event.run == "late"]
        assert late == [ActionPhase.QUEUED, ActionPhase.SUCCEEDED]


async def test_a_status_that_people_touch_meanwhile_is_written_all_the_same() -> None:
    async with running() as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await it.until_reason("Queued")
        it.cluster.failures.append(ConflictError("x", "touched"))
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"metadata": {"labels": {"team": "x"}}})
        await it.move("r1-a0-0", "Succeeded")
        assert now_true((await it.until_over()).conditions) == ["Succeeded/Completed"]
        assert [event.is_final for event in it.sink.events].count(True) == 1


async def test_late_news_of_an_earlier_attempts_pod_hide_nothing_of_the_present_one() -> None:
    async with running() as it:
        await it.submit(retries=1)
        await it.until_pod("r1-a0-0")
        await it.move("r1-a0-0", "Failed", "Exit1")
        await it.until_pod("r1-a0-1")
        (live,) = it.reconciler.live.values()
        present = await it.truth.get(POD, "default", "r1-a0-1")
        earlier = msgspec.structs.replace(present.metadata, name="r1-a0-0", uid="earlier")
        live.object = None  # the answer to the creation is still on its way
        it.reconciler._on_object(WatchEvent(WatchEventType.DELETED, msgspec.structs.replace(present, metadata=earlier)))
        assert live.object is None
        it.reconciler._on_object(WatchEvent(WatchEventType.ADDED, present))
        assert live.object is present
