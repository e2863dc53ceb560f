"""From the goal of a stage to the event that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from flyteidl2.core import types_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.cluster import TASK_ACTION
from propfan.engine.reconcile import rounds
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, decode, identity_of
from propfan.engine.task_cache import CACHE_POPULATED, CACHE_PUT_FAILURE
from propfan.engine.task_state import (
    AbortRequested,
    Admitted,
    Collected,
    Delayed,
    Faulted,
    Finalized,
    Limits,
    Observed,
    Outcome,
    Pending,
    Rejected,
    Signaled,
    Stage,
    TimedOut,
    TimeLimit,
)
from propfan.pluginmachinery.contexts import ExecutionErrorDocument
from propfan.pluginmachinery.errors import NotFoundError, UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.readers import RemoteOutputWriter
from propfan.pluginmachinery.registry import KubernetesPluginEntry, Registry
from propfan.pluginmachinery.taskaction import (
    ABORT_ANNOTATION,
    COMPLETED_TIME_LABEL,
    FINALIZER,
    TERMINATION_STATUS_LABEL,
    PhaseHistoryEntry,
)
from propfan.pluginmachinery.testing.builders import task_template
from propfan.pluginmachinery.testing.fakes import FailingStore, setup_context
from tests.unit.engine.reconcile.single_task import NOW, POD_NAME, SingleTask, raising, single_task

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)


# -- Admission -------------------------------------------------------------------------------------


async def admit(it: SingleTask) -> object:
    return await it.round(stage=Stage.RECEIVED, plugin_id="")


async def test_task_is_admitted_with_the_plugin_of_its_type() -> None:
    async with single_task() as it:
        assert await admit(it) == Admitted("pods")
        assert it.cluster.calls == []  # the finalizer is there already


async def test_finalizer_is_added_to_those_of_others() -> None:
    async with single_task(metadata={"finalizers": ["example.com/theirs"]}) as it:
        assert await admit(it) == Admitted("pods")
        assert (await it.action_metadata())["finalizers"] == ["example.com/theirs", FINALIZER]
        assert list(it.live.action.metadata.finalizers) == ["example.com/theirs", FINALIZER]


async def test_task_is_not_admitted_without_its_finalizer() -> None:
    async with single_task(metadata={"finalizers": []}) as it:
        it.cluster.errors["patch"].append(UnavailableError("TaskAction x", "down"))
        assert await admit(it) == Delayed("TaskAction x: down")
        assert await admit(it) == Admitted("pods")


async def test_discoverable_task_has_its_cache_checked() -> None:
    template = task_template("pod")
    template.metadata.discoverable = True
    async with single_task(template=template) as it:
        assert await admit(it) == Admitted("pods", checks_cache=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"project": "", "inputUri": ""}, "required spec fields are empty: [project, inputUri]"),
        ({"taskTemplate": b"", "taskType": ""}, "required spec fields are empty: [taskType, taskTemplate]"),
        ({"taskTemplate": b"\xff"}, "spec.taskTemplate is not a serialised core.TaskTemplate: "),
        ({"actionType": "party"}, "spec.actionType: 'party' is neither task nor condition"),
        ({"project": 7}, "TaskAction default/r1-a0: Expected `str`, got `int` - at `$.spec.project`"),
    ],
    ids=["missing", "no template", "no protobuf", "type", "number"],
)
async def test_spec_that_can_not_be_run_is_rejected_by_name(spec: Mapping[str, Any], message: str) -> None:
    async with single_task(spec=spec, metadata={"finalizers": []}) as it:
        event = await admit(it)
        assert isinstance(event, Rejected)
        assert event.outcome is Outcome.INVALID
        assert event.message.startswith(message)
        assert it.cluster.calls == []  # nothing to tidy up, so no finalizer


async def test_type_that_no_plugin_runs_is_rejected() -> None:
    async with single_task(spec={"taskType": "party"}) as it:
        message = 'no plugin registered for task type "party" and no default plugin available'
        assert await admit(it) == Rejected(Outcome.NO_PLUGIN, message)


async def test_type_whose_plugin_could_not_be_loaded_is_rejected_and_says_why() -> None:
    registry = Registry()
    registry.register(
        KubernetesPluginEntry(id="broken", task_types=("pod",), watched=POD, load=raising(ValueError("no licence")))
    )
    registry.load(setup_context())
    async with single_task(registry=registry) as it:
        event = await admit(it)
        assert isinstance(event, Rejected)
        assert event.outcome is Outcome.NO_PLUGIN
        assert "plugin 'broken'" in event.message
        assert "no licence" in event.message


CONDITION: Mapping[str, Any] = {"actionType": "condition", "taskType": "", "taskTemplate": b""}


async def test_condition_needs_no_plugin_and_no_finalizer() -> None:
    content = run_definition_pb2.ConditionAction(name="c").SerializeToString()
    async with single_task(spec={**CONDITION, "conditionSpec": content}, metadata={"finalizers": []}) as it:
        assert await admit(it) == Admitted("", is_condition=True)
        assert it.cluster.calls == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "required spec fields are empty: [conditionSpec]"),
        (b"\xff", "spec.conditionSpec is not a workflow.ConditionAction: "),
    ],
)
async def test_condition_that_can_not_be_read_is_rejected(content: bytes, message: str) -> None:
    async with single_task(spec={**CONDITION, "conditionSpec": content}) as it:
        event = await admit(it)
        assert isinstance(event, Rejected)
        assert event.outcome is Outcome.INVALID
        assert event.message.startswith(message)


# -- Collecting ------------------------------------------------------------------------------------

OUTPUTS = {"o0": types_pb2.INTEGER}
SUCCESS = Pending(Phase.SUCCESS)
FAILURE = Pending(Phase.RETRYABLE_FAILURE, ExecutionError("Exit1", "exited"))


async def collect(it: SingleTask, pending: Pending | None = SUCCESS) -> object:
    return await it.round(stage=Stage.COLLECTING, pending=pending)


@pytest.mark.parametrize("pending", [SUCCESS, FAILURE, None], ids=["success", "failure", "unknown"])
@pytest.mark.parametrize("is_recoverable", [True, False])
async def test_error_document_decides_over_what_the_object_said(
    pending: Pending | None, *, is_recoverable: bool
) -> None:
    async with single_task(template=task_template("pod", outputs=OUTPUTS)) as it:
        paths = it.context().paths
        await it.store.put(paths.output, b"")
        error = ExecutionError("Mine", "message", ErrorKind.USER)
        await RemoteOutputWriter(it.store, paths).put_error(ExecutionErrorDocument(error, is_recoverable))
        event = await collect(it, pending)
        told = msgspec.structs.replace(error, error_uri=paths.error)
        assert event == Collected(ExecutionErrorDocument(told, is_recoverable))


@pytest.mark.parametrize(
    ("content", "code", "kind"),
    [
        (bytes(16 * 1024 + 1), "ErrorFileTooLarge", ErrorKind.USER),
        (b"\xff", "ErrorFileBadFormat", ErrorKind.SYSTEM),
        (b"", "ErrorFileBadFormat", ErrorKind.SYSTEM),
    ],
    ids=["oversize", "no protobuf", "empty"],
)
async def test_error_document_that_can_not_be_read_is_a_failure_all_the_same(
    content: bytes, code: str, kind: ErrorKind
) -> None:
    async with single_task(max_payload_bytes=1024) as it:
        path = it.context().paths.error
        await it.store.put(path, content)
        event = await collect(it)
        assert isinstance(event, Collected)
        assert event.document is not None
        error = event.document.error
        assert (error.code, error.kind, event.document.is_recoverable) == (code, kind, True)
        assert path in error.message


async def test_declared_outputs_that_are_missing_are_a_fault_that_says_where() -> None:
    async with single_task(template=task_template("pod", outputs=OUTPUTS)) as it:
        event = await collect(it)
        assert isinstance(event, Faulted)
        assert (event.code, event.is_permanent) == ("OutputsNotFound", False)
        assert it.context().paths.output in event.message
        assert it.context().paths.error in event.message
        await it.store.put(it.context().paths.output, b"")
        assert await collect(it) == Collected()


async def test_task_without_declared_outputs_needs_none() -> None:
    async with single_task() as it:
        assert await collect(it) == Collected()


async def test_failed_attempt_needs_no_outputs() -> None:
    async with single_task(template=task_template("pod", outputs=OUTPUTS)) as it:
        assert await collect(it, FAILURE) == Collected()


async def test_outputs_that_are_too_large_fail_the_task_for_good() -> None:
    async with single_task(template=task_template("pod", outputs=OUTPUTS), max_payload_bytes=1024) as it:
        path = it.context().paths.output
        await it.store.put(path, bytes(1025))
        event = await collect(it)
        assert isinstance(event, Faulted)
        assert (event.code, event.is_permanent) == ("MetadataTooLarge", True)
        assert path in event.message


@pytest.mark.parametrize("pending", [SUCCESS, FAILURE], ids=["success", "failure"])
async def test_verdict_waits_for_the_store(pending: Pending) -> None:
    async with single_task(store=FailingStore()) as it:
        assert await collect(it, pending) == Delayed(f"{it.context().paths.error}: down")


@pytest.mark.parametrize(("has_outputs", "status"), [(True, CACHE_POPULATED), (False, CACHE_PUT_FAILURE)])
async def test_outputs_of_a_discoverable_task_are_offered_to_others(*, has_outputs: bool, status: str) -> None:
    template = task_template("pod")
    template.metadata.discoverable = True
    async with single_task(template=template) as it:
        if has_outputs:
            await it.store.put(it.context().paths.output, b"")
        assert await collect(it) == Collected(cache_status=status)
        assert await collect(it, FAILURE) == Collected()


async def test_template_that_can_not_be_read_any_more_fails_the_task_for_good() -> None:
    async with single_task(template=b"\xff") as it:
        event = await collect(it)
        assert isinstance(event, Faulted)
        assert (event.code, event.is_permanent) == ("BadTaskSpecification", True)


# -- Finalizing ------------------------------------------------------------------------------------


async def finalize(it: SingleTask, outcome: Outcome = Outcome.COMPLETED, **state: Any) -> object:
    history = (PhaseHistoryEntry("Running", NOW - SECOND), PhaseHistoryEntry("Completed", NOW - timedelta(hours=1)))
    return await it.round(stage=Stage.ENDING, outcome=outcome, history=history, **state)


async def test_task_that_is_over_is_labelled_and_loses_our_finalizer_alone() -> None:
    metadata = {"finalizers": ["example.com/theirs", FINALIZER], "labels": {"team": "t"}}
    async with single_task(metadata=metadata) as it:
        assert await finalize(it) == Finalized()
        left = await it.action_metadata()
        assert left["finalizers"] == ["example.com/theirs"]
        labels = {"team": "t", TERMINATION_STATUS_LABEL: "terminated", COMPLETED_TIME_LABEL: "2026-01-02.02-04"}
        assert left["labels"] == labels
        assert it.live.action.metadata.labels == labels


async def test_task_without_a_history_ended_now() -> None:
    async with single_task() as it:
        assert await it.round(stage=Stage.ENDING, outcome=Outcome.ABORTED) == Finalized()
        left = await it.action_metadata()
        assert "finalizers" not in left
        assert left["labels"][COMPLETED_TIME_LABEL] == "2026-01-02.03-04"


async def test_task_that_is_gone_needs_no_label() -> None:
    async with single_task() as it:
        it.cluster.errors["patch"].append(NotFoundError("TaskAction x", "not found"))
        assert await finalize(it) == Finalized()


async def test_finalizing_is_repeated_until_it_works() -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Succeeded")
        it.cluster.errors["patch"].append(UnavailableError("TaskAction x", "down"))
        assert await finalize(it) == Delayed("TaskAction x: down")
        assert (await it.action_metadata())["finalizers"] == [FINALIZER]
        assert await finalize(it) == Finalized()


async def test_finalizer_stays_as_long_as_the_object() -> None:
    async with single_task() as it:
        await it.launch()
        await it.truth.patch(POD, "default", POD_NAME, {"spec": {"nodeName": "n"}})
        event = await finalize(it, Outcome.ABORTED)
        assert isinstance(event, Delayed)
        assert event.reason == f"waiting for Pod default/{POD_NAME} to terminate"
        assert (await it.action_metadata())["finalizers"] == [FINALIZER]


@pytest.mark.parametrize(("remove_object", "is_kept"), [(False, True), (True, False)])
async def test_object_that_has_ended_stays_unless_the_verdict_says_otherwise(
    *, remove_object: bool, is_kept: bool
) -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Succeeded")
        await it.see_pod()
        assert await finalize(it, remove_object=remove_object) == Finalized()
        assert (await it.pod() is not None) == is_kept


async def test_object_of_an_earlier_attempt_goes_too() -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Failed")
        it.live.object = None
        await it.runner.launch(it.live, it.context(attempt=2))
        assert await finalize(it, Outcome.ABORTED, attempt=2, removing_attempt=1) == Finalized()
        assert (await it.pod(), await it.pod("r1-a0-1")) == (None, None)


async def test_object_that_an_engine_made_before_it_died_goes_too() -> None:
    async with single_task() as it:
        await it.launch()
        it.live.object = None
        assert await finalize(it, Outcome.ABORTED, plugin_id="") == Finalized()
        assert await it.pod() is None


@pytest.mark.parametrize("outcome", [Outcome.INVALID, Outcome.NO_PLUGIN])
async def test_nothing_is_looked_for_where_nothing_was_made(outcome: Outcome) -> None:
    async with single_task() as it:
        assert await finalize(it, outcome) == Finalized()
        assert it.cluster.calls == ["patch taskactions.flyte.org r1-a0"]


@pytest.mark.parametrize(
    ("spec", "plugin_id"),
    [
        ({}, "unloaded"),
        ({"taskType": "party"}, ""),
        ({"taskTemplate": b"\xff"}, ""),
        ({"project": 7}, ""),
        (CONDITION, ""),
    ],
    ids=["plugin", "type", "template", "spec", "condition"],
)
async def test_task_that_nobody_can_tidy_up_is_let_go(spec: Mapping[str, Any], plugin_id: str) -> None:
    async with single_task(spec=spec) as it:
        assert await finalize(it, Outcome.ABORTED, plugin_id=plugin_id) == Finalized()
        assert "finalizers" not in await it.action_metadata()


@pytest.mark.parametrize("ending", ["finalized", "abandoned"])
async def test_reservation_is_given_up_in_the_end(ending: str) -> None:
    template = task_template("pod")
    template.metadata.discoverable = template.metadata.cache_serializable = True
    async with single_task(template=template) as it:
        ctx = it.context()

        async def holder() -> str:
            return (await it.cache.look_up(ctx.action, ctx.template, ctx.inputs, ctx.paths, owner="other")).owner

        await it.round(stage=Stage.CHECKING_CACHE)
        assert await holder() == "default/r1-a0"
        if ending == "finalized":
            assert await finalize(it) == Finalized()
        else:
            await it.rounds.abandon(it.live)
        assert await holder() == "other"


# -- What people ask for, limits, waiting ----------------------------------------------------------


@pytest.mark.parametrize("stage", [stage for stage in Stage if not stage.is_over])
async def test_abort_comes_before_everything_else(stage: Stage) -> None:
    async with single_task(metadata={"annotations": {ABORT_ANNOTATION: "enough"}}) as it:
        assert await it.round(stage=stage) == AbortRequested("enough")
        assert it.cluster.calls == []


async def test_deletion_is_an_abort_without_a_reason() -> None:
    async with single_task() as it:
        await it.truth.delete(TASK_ACTION, "default", "r1-a0")
        it.live.action = await it.truth.get(TASK_ACTION, "default", "r1-a0")
        assert await it.round(stage=Stage.ACTIVE) == AbortRequested("")
        assert await finalize(it, Outcome.ABORTED) == Finalized()


@pytest.mark.parametrize(
    ("phase", "must_look", "event"),
    [
        ("Succeeded", True, Phase.SUCCESS),
        ("Running", True, TimedOut(TimeLimit.DEADLINE)),
        ("Succeeded", False, TimedOut(TimeLimit.DEADLINE)),
    ],
)
async def test_end_that_is_known_already_wins_over_a_time_limit(phase: str, event: object, *, must_look: bool) -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod(phase)
        await it.see_pod()
        it.live.must_look = must_look
        found = await it.round(NOW + 2 * SECOND, stage=Stage.ACTIVE, limits=Limits(deadline_s=1.0))
        assert (found.phase if isinstance(found, Observed) else found) == event


async def test_signal_that_has_come_wins_over_a_time_limit() -> None:
    async with single_task(spec=CONDITION) as it:
        limits = Limits(condition_timeout_s=1.0)
        later = NOW + 2 * SECOND
        assert await it.round(later, stage=Stage.PAUSED, limits=limits) == TimedOut(TimeLimit.CONDITION)
        status = {"status": {"signalValue": b"x", "signalledBy": "me"}}
        it.live.action = await it.truth.patch(TASK_ACTION, "default", "r1-a0", status, subresource="status")
        assert await it.round(later) == Signaled("me")


async def test_nothing_is_done_before_its_time() -> None:
    async with single_task() as it:
        assert await it.round(retry_at=NOW + SECOND) is None
        assert it.cluster.calls == []
        assert await it.round(NOW + SECOND) is not None


async def test_silent_object_is_not_looked_at_before_its_time() -> None:
    async with single_task() as it:
        await it.launch()
        assert await it.round(stage=Stage.ACTIVE, observed_at=NOW, recheck_at=NOW + SECOND) is None
        assert isinstance(await it.round(NOW + SECOND), Observed)


@pytest.mark.parametrize("stage", [Stage.CLEANING, Stage.ENDING])
async def test_nothing_is_destroyed_before_the_decision_is_written_down(stage: Stage) -> None:
    async with single_task() as it:
        await it.launch()
        it.live.revision += 1
        assert await it.round(stage=stage, outcome=Outcome.ABORTED, removing_attempt=1) is None
        assert await it.pod() is not None
        it.live.persisted = it.live.revision
        assert await it.round() is not None
        assert await it.pod() is None


async def test_change_of_a_terminating_object_is_a_reason_to_look_before_the_next_try() -> None:
    async with single_task() as it:
        later = NOW + timedelta(hours=1)
        it.live.must_look = False
        assert await it.round(stage=Stage.CLEANING, removing_attempt=1, retry_at=later) is None
        it.live.must_look = True
        assert await it.round() is not None


# -- What is kept between rounds -------------------------------------------------------------------


async def test_task_by_the_name_of_an_earlier_one_is_read_anew() -> None:
    async with single_task() as it:
        await it.round()
        before = it.live.action
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"metadata": {"finalizers": None}})
        await it.truth.delete(TASK_ACTION, "default", "r1-a0")
        body = msgspec.json.decode(before.raw)
        body["metadata"] = {"name": "r1-a0", "namespace": "default"}
        body["spec"]["runOutputBase"] = "memory:///elsewhere/"
        action = await it.truth.create(TASK_ACTION, msgspec.json.encode(body))
        new = LiveTask(it.live.key, action, it.live.state, identity_of(action, None))
        assert it.rounds.output_uri(it.live).endswith("/out/a0/1/outputs.pb")
        assert it.rounds.output_uri(new).endswith("/elsewhere/a0/1/outputs.pb")


async def test_values_of_few_tasks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_VALUES_KEPT", 2)
    async with single_task() as it:
        for number in range(5):
            it.rounds.limits_of(TaskKey("default", f"r{number}-a0"), decode(it.live.action))
        assert [key.name for key in it.rounds._values] == ["r3-a0", "r4-a0"]
        it.rounds.forget(TaskKey("default", "r3-a0"))
        assert [key.name for key in it.rounds._values] == ["r4-a0"]


@pytest.mark.parametrize("spec", [{"taskTemplate": b"\xff"}, {**CONDITION, "conditionSpec": b"\xff"}])
async def test_task_that_can_not_be_read_has_the_bounds_of_the_engine(spec: Mapping[str, Any]) -> None:
    async with single_task(spec=spec, max_system_failures=9) as it:
        found = it.rounds.limits_of(it.live.key, decode(it.live.action))
        assert (found.max_attempts, found.max_system_failures) == (1, 9)


async def test_object_has_a_name_once_its_plugin_has_run() -> None:
    async with single_task() as it:
        assert it.rounds.object_name(it.live) == ""
        await it.round()
        assert it.rounds.object_name(it.live) == POD_NAME


async def test_a_reservation_is_held_again_after_a_restart() -> None:
    template = task_template("pod", image="i")
    template.metadata.discoverable = template.metadata.cache_serializable = True
    async with single_task(template=template) as it:
        it.put(stage=Stage.ACTIVE)
        assert it.rounds.reserves(it.live.key, decode(it.live.action))
        it.live.must_hold = True
        await it.rounds.next_event(it.live, NOW)
        assert not it.live.must_hold
        context = it.context()
        other = await it.cache.look_up(
            context.action, context.template, context.inputs, context.paths, owner="ns/other"
        )
        assert other.owner == str(it.live.key)
        it.rounds.handed_over(it.live)
        other = await it.cache.look_up(
            context.action, context.template, context.inputs, context.paths, owner="ns/other"
        )
        assert other.owner == "ns/other"


async def test_a_task_that_may_share_its_outputs_at_once_reserves_nothing() -> None:
    template = task_template("pod", image="i")
    template.metadata.discoverable = True
    async with single_task(template=template) as it:
        assert not it.rounds.reserves(it.live.key, decode(it.live.action))
