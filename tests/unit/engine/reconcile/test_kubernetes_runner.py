"""What becomes of one attempt's object: made or found, looked at, removed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from propfan.engine.task_state import (
    Delayed,
    Faulted,
    Launched,
    ObjectGone,
    ObjectLost,
    Observed,
    Postponed,
    Refused,
    Stage,
)
from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    BadTaskSpecificationError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KindNotServedError,
    NotFoundError,
    PermanentError,
    TaskError,
    ThrottledError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from propfan.pluginmachinery.kubernetes_plugin import POD, ObjectMeta, ObservedObject
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase, PhaseInfo
from propfan.pluginmachinery.testing.builders import task_template
from tests.unit.engine.reconcile.single_task import (
    A_POD,
    NOW,
    POD_NAME,
    Plugin,
    SingleTask,
    raising,
    single_task,
)

pytestmark = pytest.mark.anyio

OURS = object_metadata.FINALIZER


# -- Launch ----------------------------------------------------------------------------------------


async def test_created_object_is_known_and_shows_nothing_yet() -> None:
    async with single_task() as it:
        assert await it.launch() == Launched()
        assert it.live.object == await it.pod()
        assert not it.live.must_look
        assert it.cluster.calls == ["create pods"]


async def test_our_own_object_is_adopted_and_looked_at() -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Running")
        it.live.object, it.live.must_look = None, False
        assert await it.launch() == Launched()
        assert it.live.object == await it.pod()
        assert it.live.must_look


async def test_what_the_watch_showed_of_an_adopted_object_is_not_forgotten() -> None:
    async with single_task() as it:
        await it.launch()
        old = await it.see_pod()
        await it.move_pod("Running")
        new = await it.see_pod()
        it.cluster.get = _answer(old)  # type: ignore[method-assign]
        assert await it.launch() == Launched()
        assert it.live.object is new


def _answer(value: ObservedObject) -> Any:
    async def get(*_: object) -> ObservedObject:
        return value

    return get


@pytest.mark.parametrize("has_owner", [True, False])
async def test_object_of_somebody_else_is_not_taken(*, has_owner: bool) -> None:
    async with single_task() as it:
        stranger = await it.make_stranger() if has_owner else None
        theirs = await it.make_pod(stranger)
        event = await it.launch()
        assert isinstance(event, Refused)
        assert (event.error.code, event.error.kind) == ("ObjectNameTaken", ErrorKind.USER)
        assert f"Pod default/{POD_NAME} exists already" in event.error.message
        assert f"belongs to {'TaskAction r2-a0' if has_owner else 'nobody'}:" in event.error.message
        assert await it.pod() == theirs
        assert it.live.object is None


@pytest.mark.parametrize("force", [True, False])
async def test_object_of_somebody_else_is_neither_changed_nor_removed(*, force: bool) -> None:
    async with single_task(k8s=K8sConfig(delete_resource_on_finalize=True)) as it:
        await it.make_pod(await it.make_stranger(), finalizers=["example.com/theirs"])
        await it.move_pod("Succeeded")
        theirs = await it.pod()
        assert await it.remove(force=force) == ObjectGone()
        assert await it.pod() == theirs


async def test_object_that_lost_its_owner_is_still_ours() -> None:
    async with single_task() as it:
        await it.launch()
        await it.truth.patch(POD, "default", POD_NAME, {"metadata": {"ownerReferences": None}})
        it.live.object = None
        assert await it.launch() == Launched()
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() is None


@pytest.mark.parametrize("by", ["plugin", "configuration"])
async def test_without_owners_labels_tell_whose_an_object_is(by: str) -> None:
    plugin = Plugin(disable_inject_owner_references=by == "plugin")
    stranger = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": "r2-a0"}
    async with single_task(plugin, k8s=K8sConfig(disable_inject_owner_references=by == "configuration")) as it:
        uid = (await it.make_stranger()).metadata.uid
        plugin.build = lambda: {**A_POD, "metadata": {"ownerReferences": [{**stranger, "uid": uid}]}}
        assert await it.launch() == Launched()
        assert await it.launch() == Launched()
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() is None
        await it.make_pod(None, labels={"run": "r1", "action": "a1", "flyte.org/managed": "true"})
        assert isinstance(await it.launch(), Refused)


async def test_old_object_is_waited_for_while_it_terminates() -> None:
    async with single_task() as it:
        await it.launch()
        await it.truth.patch(POD, "default", POD_NAME, {"spec": {"nodeName": "n"}})
        await it.truth.delete(POD, "default", POD_NAME)
        event = await it.launch()
        assert isinstance(event, Delayed)
        assert event.reason == f"waiting for the old Pod default/{POD_NAME} to terminate"
        assert event.retry_after_s > 0
        assert "patch pods" not in " ".join(it.cluster.calls)


async def test_old_object_that_only_finalizers_keep_is_let_go() -> None:
    async with single_task(k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        await it.truth.delete(POD, "default", POD_NAME)
        assert isinstance(await it.launch(), Delayed)
        assert await it.pod() is None
        assert await it.launch() == Launched()


async def test_object_that_went_between_two_calls_is_made_at_the_next_try() -> None:
    async with single_task() as it:
        it.cluster.errors["create"].append(AlreadyExistsError("Pod x", "exists already"))
        event = await it.launch()
        assert isinstance(event, Delayed)
        assert f"Pod default/{POD_NAME} was there and is gone again" in event.reason
        assert await it.launch() == Launched()


async def test_used_up_quota_is_waited_for() -> None:
    async with single_task() as it:
        it.cluster.errors["create"].append(ForbiddenError("Pod x", "exceeded quota: cpu", 7.0))
        assert await it.launch() == Postponed("Pod x: exceeded quota: cpu", 7.0)


async def test_kind_that_the_cluster_does_not_serve_yet_is_waited_for() -> None:
    async with single_task() as it:
        it.cluster.errors["create"].append(KindNotServedError("Pod x", "not served: install it"))
        assert await it.launch() == Postponed("Pod x: not served: install it", 0.0)


async def test_quota_that_the_tasks_own_object_uses_up_is_no_reason_to_wait() -> None:
    async with single_task() as it:
        await it.launch()
        it.cluster.errors["create"].append(ForbiddenError("Pod x", "exceeded quota: cpu"))
        assert await it.launch() == Launched()


@pytest.mark.parametrize(
    ("error", "code"),
    [(TooLargeError, "EntityTooLarge"), (InvalidError, "InvalidResource"), (BadRequestError, "BadRequest")],
)
async def test_object_that_is_never_taken_fails_the_task_as_the_users(error: type[ApiError], code: str) -> None:
    async with single_task() as it:
        it.cluster.errors["create"].append(error("Pod x", "spec.a: no"))
        assert await it.launch() == Refused(ExecutionError(code, "Pod x: spec.a: no", ErrorKind.USER))


@pytest.mark.parametrize("error", [ThrottledError, UnavailableError, ConflictError, ApiError])
async def test_cluster_in_trouble_is_asked_again_when_it_says(error: type[ApiError]) -> None:
    async with single_task() as it:
        it.cluster.errors["create"].append(error("Pod x", "busy", 11.0))
        assert await it.launch() == Delayed("Pod x: busy", 11.0)


@pytest.mark.parametrize(("error", "reason"), [(NotFoundError, "NotFound"), (ExpiredError, "Expired")])
async def test_other_answers_are_faults_with_the_reason_of_the_api(error: type[ApiError], reason: str) -> None:
    async with single_task() as it:
        it.cluster.errors["create"].append(error("Pod x", "no namespace"))
        assert await it.launch() == Faulted(reason, "failed to create resource: Pod x: no namespace")


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (BadTaskSpecificationError("no image"), Faulted("BadTaskSpecification", "no image", is_permanent=True)),
        (PermanentError("Mine", "never"), Faulted("Mine", "never", is_permanent=True)),
        (TaskError("Mine", "not now"), Faulted("Mine", "not now")),
        (ValueError("odd"), Faulted("ValueError", "ValueError: odd")),
        (KeyError(), Faulted("KeyError", "KeyError: ")),
    ],
    ids=repr,
)
async def test_what_a_plugin_raises_while_it_builds_is_a_fault(error: Exception, event: Faulted) -> None:
    plugin = Plugin()
    plugin.build = raising(error)
    async with single_task(plugin) as it:
        assert await it.round() == event
        assert await it.pod() is None


@pytest.mark.parametrize(
    ("built", "problem"),
    [
        (None, "the object: must be a mapping"),
        (7, "the object: must be a mapping"),
        ({}, "apiVersion: must be 'v1', is missing"),
        ({**A_POD, "kind": "Job"}, "kind: must be 'Pod', is 'Job'"),
        ({**A_POD, "metadata": {"labels": {"a": 1}}}, "metadata.labels"),
        ({**A_POD, "spec": {"a": object()}}, "spec.a: object is not a JSON value"),
    ],
    ids=["None", "7", "empty", "Job", "label", "object"],
)
async def test_nonsense_that_a_plugin_builds_fails_the_task_and_names_it(built: object, problem: str) -> None:
    plugin = Plugin()
    plugin.build = lambda: built
    async with single_task(plugin) as it:
        event = await it.round()
        assert isinstance(event, Faulted)
        assert (event.code, event.is_permanent) == ("InvalidPluginObject", True)
        assert event.message.startswith(f"plugin 'pods': build_resource: {problem}")
        assert it.cluster.calls == []


async def test_metadata_is_completed() -> None:
    plugin = Plugin()
    own = {"labels": {"mine": "1", "both": "plugin", "run": "plugin"}, "annotations": {"note": "plugin"}}
    plugin.build = lambda: {**A_POD, "metadata": {**own, "finalizers": ["example.com/mine"]}}
    k8s = K8sConfig(
        inject_finalizer=True,
        default_labels={"default": "1", "both": "configuration"},
        default_annotations={"note": "configuration"},
    )
    metadata = {"labels": {"team": "t"}, "annotations": {"from": "action"}}
    async with single_task(plugin, k8s=k8s, metadata=metadata) as it:
        await it.launch()
        made = it.live.object
        assert made is not None
        meta = made.metadata
        assert (meta.name, meta.namespace) == (POD_NAME, "default")
        (owner,) = meta.owner_references
        action = it.live.action.metadata
        assert (owner.kind, owner.name, owner.uid, owner.controller) == ("TaskAction", "r1-a0", action.uid, True)
        assert list(meta.finalizers) == ["example.com/mine", OURS]
        assert dict(meta.annotations) == {"note": "plugin", "from": "action"}
        expected = {"default": "1", "both": "plugin", "mine": "1", "team": "t", "run": "r1", "action": "a0"}
        assert expected.items() <= dict(meta.labels).items()
        assert (meta.labels["attempt"], meta.labels["flyte.org/managed"]) == ("1", "true")


async def test_plugin_may_do_without_owner_and_finalizer() -> None:
    plugin = Plugin(disable_inject_owner_references=True, disable_inject_finalizer=True)
    async with single_task(plugin, k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        made = await it.see_pod()
        assert (list(made.metadata.owner_references), list(made.metadata.finalizers)) == ([], [])


async def test_name_that_is_too_long_for_a_plugin_is_hashed_and_found_again() -> None:
    async with single_task(Plugin(generated_name_max_length=8), metadata={"name": "longer-than-eight"}) as it:
        await it.launch()
        assert it.live.object is not None
        name = it.live.object.metadata.name
        assert len(name) == 8
        assert await it.launch() == Launched()
        it.live.object = None
        assert isinstance(await it.observe(), Observed)
        assert it.cluster.calls[-1] == f"get pods {name}"


@pytest.mark.parametrize("command", [["--tt", "{{.taskTemplatePath}}"], ["{{ .TASKTEMPLATEPATH }}"]])
async def test_template_is_stored_for_a_command_that_asks_for_it(command: list[str]) -> None:
    async with single_task(template=task_template("pod", image="i", command=command)) as it:
        await it.launch()
        paths = it.context().paths
        assert await it.store.get(paths.task_template) == it.context().template_bytes


async def test_template_is_not_stored_for_nothing() -> None:
    async with single_task(template=task_template("pod", image="i", command=["{{.input}}"])) as it:
        await it.launch()
        assert await it.store.size(it.context().paths.task_template) is None


# -- Observe ---------------------------------------------------------------------------------------


async def test_verdict_of_the_plugin_is_passed_on() -> None:
    plugin = Plugin()
    error = ExecutionError("Code", "message", ErrorKind.SYSTEM)
    later = NOW + timedelta(seconds=9)
    verdict = PhaseInfo(Phase.RETRYABLE_FAILURE, 3, "why", error, cleanup_on_failure=True, recheck_at=later)
    plugin.answer = lambda _: verdict
    async with single_task(plugin) as it:
        await it.launch()
        expected = Observed(Phase.RETRYABLE_FAILURE, 3, "why", error, remove_object=True, recheck_at=later)
        assert await it.observe() == expected
        assert it.cluster.calls == ["create pods"]  # what the watch tells is enough


async def observed_phase(it: SingleTask, **more: Any) -> Phase:
    event = await it.observe(**more)
    assert isinstance(event, Observed), event
    return event.phase


@pytest.mark.parametrize("known", [None, "r1-a0-7"])
async def test_object_that_no_watch_has_shown_is_read(known: str | None) -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Running")
        it.live.object = None if known is None else ObservedObject(POD, ObjectMeta(name=known), b"{}")
        assert await observed_phase(it) is Phase.RUNNING
        assert it.live.object == await it.pod()
        assert it.cluster.calls == ["create pods", f"get pods {POD_NAME}"]


async def test_silent_object_is_read_after_a_while() -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Running")
        it.put(observed_at=NOW)
        resync = timedelta(seconds=it.live.state.limits.resync_s)
        assert await observed_phase(it, now=NOW + resync - timedelta(seconds=1)) is Phase.QUEUED
        assert await observed_phase(it, now=NOW + resync) is Phase.RUNNING


LOST = ObjectLost("ResourceDeletedExternally", f"resource not found, name [default/{POD_NAME}]")


async def test_object_that_is_nowhere_is_lost() -> None:
    async with single_task() as it:
        assert await it.observe() == LOST


async def test_deletion_is_believed_after_a_live_read_only() -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Running")
        it.live.object_was_deleted = True
        assert await observed_phase(it) is Phase.RUNNING  # the watch was wrong, or told of its labels
        assert not it.live.object_was_deleted
        await it.truth.delete(POD, "default", POD_NAME, grace_period_s=0)
        it.live.object_was_deleted = True
        assert await it.observe() == LOST
        assert it.live.object is None


async def test_object_that_was_made_anew_by_others_is_lost() -> None:
    async with single_task() as it:
        await it.launch()
        await it.truth.delete(POD, "default", POD_NAME)
        await it.make_pod(it.live.action)
        it.live.object_was_deleted = True
        assert await it.observe() == LOST


@pytest.mark.parametrize("is_silent", [False, True])
async def test_how_a_deleted_object_ended_counts(*, is_silent: bool) -> None:
    async with single_task() as it:
        await it.launch()
        await it.move_pod("Succeeded")
        await it.see_pod()
        await it.truth.delete(POD, "default", POD_NAME)
        it.live.object_was_deleted = True
        it.put(observed_at=NOW - timedelta(days=1) if is_silent else NOW)
        assert await observed_phase(it) is Phase.SUCCESS


@pytest.mark.parametrize(("phase", "has_ended"), [("Running", False), ("Succeeded", True)])
async def test_object_that_goes_is_lost_unless_it_has_ended(phase: str, *, has_ended: bool) -> None:
    async with single_task(k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        await it.move_pod(phase)
        await it.truth.delete(POD, "default", POD_NAME)
        await it.see_pod()
        if has_ended:
            assert await observed_phase(it) is Phase.SUCCESS
        else:
            text = f"object [default/{POD_NAME}] terminated unexpectedly in the background"
            assert await it.observe() == ObjectLost("UnexpectedObjectDeletion", text)


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ThrottledError("Pod x", "slow down", 5.0), Delayed("Pod x: slow down", 5.0)),
        (UnavailableError("Pod x", "down"), Delayed("Pod x: down")),
        (UnauthorizedError("Pod x", "who are you"), Delayed("Pod x: who are you")),
        (ForbiddenError("Pod x", "no"), Delayed("Pod x: no")),
    ],
    ids=repr,
)
async def test_object_that_can_not_be_read_is_not_lost(error: ApiError, event: object) -> None:
    async with single_task() as it:
        it.cluster.errors["get"].append(error)
        assert await it.round(stage=Stage.ACTIVE) == event


@pytest.mark.parametrize("answer", [None, "RUNNING", PhaseInfo(Phase.RUNNING, version=-1)], ids=repr)
async def test_verdict_that_is_none_is_a_fault(answer: Any) -> None:
    plugin = Plugin()
    plugin.answer = lambda _: answer
    async with single_task(plugin) as it:
        await it.launch()
        event = await it.round(stage=Stage.ACTIVE, observed_at=NOW - timedelta(days=1))
        assert isinstance(event, Faulted)
        assert (event.code, event.is_permanent) == ("InvalidPhaseInfo", False)
