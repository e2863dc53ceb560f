"""How the object of an attempt is removed, by the engine or in its plugin's own way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from propfan.engine.cluster import POD_TEMPLATE
from propfan.engine.task_state import Delayed, Faulted, ObjectGone, Stage
from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.errors import InvalidError, NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD, AbortBehavior
from tests.unit.engine.reconcile.single_task import A_POD, POD_NAME, AbortingPlugin, Plugin, single_task

pytestmark = pytest.mark.anyio

OURS = object_metadata.FINALIZER


@pytest.mark.parametrize("is_known", [True, False])
async def test_object_is_deleted(*, is_known: bool) -> None:
    async with single_task() as it:
        await it.launch()
        if not is_known:
            it.live.object = None
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() is None
        assert it.live.object is None


async def test_finalizers_do_not_keep_a_deleted_object() -> None:
    async with single_task(k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() is None


async def test_object_that_others_delete_already_loses_its_finalizers() -> None:
    async with single_task(k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        await it.truth.delete(POD, "default", POD_NAME)
        await it.see_pod()
        assert await it.remove(force=True) == ObjectGone()
        assert "delete pods" not in " ".join(it.cluster.calls)
        assert await it.pod() is None


async def test_object_is_waited_for_until_it_is_gone() -> None:
    async with single_task() as it:
        await it.launch()
        await it.truth.patch(POD, "default", POD_NAME, {"spec": {"nodeName": "n"}})
        await it.move_pod("Running")
        await it.see_pod()
        for _ in range(2):
            event = await it.remove(force=True)
            assert isinstance(event, Delayed)
            assert event.reason == f"waiting for Pod default/{POD_NAME} to terminate"
        assert it.cluster.calls.count(f"delete pods {POD_NAME}") == 1
        await it.truth.delete(POD, "default", POD_NAME, grace_period_s=0)  # as its kubelet does
        it.live.object_was_deleted = True
        assert await it.remove(force=True) == ObjectGone()


async def test_object_that_is_not_there_is_gone() -> None:
    async with single_task() as it:
        assert await it.remove(force=True) == ObjectGone()
        await it.launch()
        for method in ("patch", "delete"):  # it goes by itself, meanwhile
            it.cluster.errors[method].append(NotFoundError("Pod x", "not found"))
        it.cluster.errors["get"].append(NotFoundError("Pod x", "not found"))
        assert await it.remove(force=True) == ObjectGone()


async def test_object_that_was_made_anew_meanwhile_is_left_alone() -> None:
    async with single_task() as it:
        await it.launch()
        await it.truth.delete(POD, "default", POD_NAME)
        new = await it.make_pod(await it.make_stranger())
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() == new


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_object_that_has_ended_stays_without_its_finalizers(phase: str) -> None:
    async with single_task(k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        await it.move_pod(phase)
        await it.see_pod()
        assert await it.remove(force=False) == ObjectGone()
        left = await it.see_pod()
        assert list(left.metadata.finalizers) == []
        assert left.metadata.deletion_timestamp is None
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() is None


async def test_object_that_still_runs_is_removed_also_without_force() -> None:
    async with single_task() as it:
        await it.launch()
        assert await it.remove(force=False) == ObjectGone()
        assert await it.pod() is None


@pytest.mark.parametrize(("is_disabled", "is_kept"), [(False, False), (True, True)])
async def test_object_that_has_ended_is_deleted_where_that_is_configured(*, is_disabled: bool, is_kept: bool) -> None:
    plugin = Plugin(disable_delete_resource_on_finalize=is_disabled)
    async with single_task(plugin, k8s=K8sConfig(delete_resource_on_finalize=True)) as it:
        await it.launch()
        await it.move_pod("Succeeded")
        await it.see_pod()
        assert await it.remove(force=False) == ObjectGone()
        assert (await it.pod() is not None) == is_kept


# -- Removal in a plugin's own way -----------------------------------------------------------------

SUSPENDED: Mapping[str, Any] = {"metadata": {"labels": {"suspended": "yes"}}}


@pytest.mark.parametrize(
    "behavior", [AbortBehavior(patch=SUSPENDED), AbortBehavior(update={**A_POD, **SUSPENDED})], ids=["patch", "update"]
)
async def test_object_may_be_changed_in_place_of_deleted(behavior: AbortBehavior) -> None:
    async with single_task(AbortingPlugin(behavior), k8s=K8sConfig(inject_finalizer=True)) as it:
        await it.launch()
        await it.hold_pod(OURS, "example.com/theirs")
        await it.see_pod()
        assert await it.remove(force=True) == ObjectGone()
        left = await it.see_pod()
        assert left.metadata.labels["suspended"] == "yes"
        assert left.metadata.deletion_timestamp is None
        assert list(left.metadata.finalizers) == ["example.com/theirs"]  # nobody else would take ours off


async def test_object_may_be_deleted_on_request() -> None:
    async with single_task(AbortingPlugin(AbortBehavior(delete=True))) as it:
        await it.launch()
        assert await it.remove(force=True) == ObjectGone()
        assert await it.pod() is None


@pytest.mark.parametrize("deletes", [True, False])
async def test_object_is_deleted_where_a_change_fails_if_the_plugin_wants_it(*, deletes: bool) -> None:
    plugin = AbortingPlugin(AbortBehavior(patch=SUSPENDED, delete_on_error=deletes))
    async with single_task(plugin) as it:
        await it.launch()
        it.cluster.errors["patch"].append(InvalidError("Pod x", "spec.a: no"))
        if deletes:
            assert await it.remove(force=True) == ObjectGone()
        else:
            with pytest.raises(InvalidError):
                await it.remove(force=True)
        assert (await it.pod() is None) == deletes


async def test_object_that_is_gone_needs_no_change() -> None:
    async with single_task(AbortingPlugin(AbortBehavior(patch=SUSPENDED, delete_on_error=True))) as it:
        await it.launch()
        it.cluster.errors["patch"].append(NotFoundError("Pod x", "not found"))
        assert await it.remove(force=True) == ObjectGone()
        assert "delete pods" not in " ".join(it.cluster.calls)


async def test_another_object_may_be_changed() -> None:
    body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "other", "namespace": "default"}}
    for change in ({"patch": SUSPENDED}, {"update": {"apiVersion": "v1", "kind": "PodTemplate", **SUSPENDED}}):
        behavior = AbortBehavior(resource=(POD_TEMPLATE, "default", "other"), **change)
        async with single_task(AbortingPlugin(behavior)) as it:
            await it.truth.create(POD_TEMPLATE, msgspec.json.encode(body))
            await it.launch()
            assert await it.remove(force=True) == ObjectGone()
            changed = await it.truth.get(POD_TEMPLATE, "default", "other")
            assert changed.metadata.labels["suspended"] == "yes"
            own = await it.see_pod()
            assert "suspended" not in own.metadata.labels


async def test_nonsense_in_place_of_an_update_is_told_and_tried_again() -> None:
    async with single_task(AbortingPlugin(AbortBehavior(update={"kind": "Job"}))) as it:
        await it.launch()
        event = await it.round(stage=Stage.CLEANING, removing_attempt=1)
        assert isinstance(event, Faulted)
        assert event.message == "plugin 'pods': on_abort: apiVersion: must be 'v1', is missing"
        assert await it.pod() is not None
