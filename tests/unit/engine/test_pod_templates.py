"""Pod templates that follow the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from propfan.engine.cluster import POD_TEMPLATE
from propfan.engine.pod_templates import WatchedPodTemplates
from propfan.pluginmachinery.errors import ExpiredError
from tests.unit.engine.reconcile.scripted_cluster import Page, ScriptedCluster, Stream, added, deleted, modified


class Templates:
    def __init__(self, *script: Any) -> None:
        self.cluster = ScriptedCluster(POD_TEMPLATE, *script)
        self.store = WatchedPodTemplates(self.cluster, "ns")  # type: ignore[arg-type]

    async def follow(self) -> WatchedPodTemplates:
        """Works the script off."""
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.store.run)
                await self.cluster.used_up.wait()
                tasks.cancel_scope.cancel()
        return self.store


def template(name: str, version: int, says: str) -> Any:
    return ScriptedCluster(POD_TEMPLATE).object(name, version, template={"spec": {"hostname": says}})


def says(found: Mapping[str, Any] | None) -> str | None:
    return None if found is None else str(found["template"]["spec"]["hostname"])


@pytest.mark.anyio
async def test_templates_are_known_after_the_list() -> None:
    store = await Templates(Page([template("a", 1, "first")])).follow()
    with anyio.fail_after(1):
        await store.synced()
    assert says(store.get("ns", "a")) == "first"
    assert store.get("ns", "b") is None


@pytest.mark.anyio
async def test_template_of_the_default_namespace_serves_the_others() -> None:
    store = await Templates(Page([template("a", 1, "default")])).follow()
    assert says(store.get("elsewhere", "a")) == "default"
    own = WatchedPodTemplates(ScriptedCluster(POD_TEMPLATE), "another")  # type: ignore[arg-type]
    own._on_event(added(template("a", 1, "own")))
    assert says(own.get("ns", "a")) == "own"
    assert own.get("elsewhere", "a") is None


@pytest.mark.anyio
async def test_changes_and_deletions_are_followed() -> None:
    store = await Templates(
        Page([template("a", 1, "first"), template("b", 2, "first")]),
        Stream(
            [modified(template("a", 3, "second")), deleted(template("b", 4, "first")), added(template("c", 5, "new"))]
        ),
    ).follow()
    assert [says(store.get("ns", name)) for name in "abc"] == ["second", None, "new"]


@pytest.mark.anyio
async def test_what_a_new_list_does_not_show_is_gone() -> None:
    store = await Templates(
        Page([template("a", 1, "first"), template("b", 2, "first")]),
        Stream(ExpiredError("podtemplates", "too old")),
        Page([template("b", 9, "second")], "9"),
    ).follow()
    assert [says(store.get("ns", name)) for name in "ab"] == [None, "second"]
