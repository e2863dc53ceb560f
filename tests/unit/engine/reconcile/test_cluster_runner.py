"""Tasks whose jobs share clusters, from the first need of one to its end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from propfan.engine.cluster import POD, TASK_ACTION
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.shared_clusters import CONDEMNED_ANNOTATION, SHARED_LABEL
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, LAST_USED_ANNOTATION, AbortBehavior
from propfan.pluginmachinery.registry import KubernetesPluginEntry
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION
from propfan.pluginmachinery.testing.fakes import setup_context
from tests.unit.engine.reconcile.shared_rig import (
    ALONE,
    BROKEN,
    TEAM,
    WORK,
    TeamPlugin,
    TeamRig,
    long_ago,
    teams,
    working,
)

pytestmark = pytest.mark.anyio


async def until_waiting(it: TeamRig, reason: str, name: str = "r1") -> None:
    async def is_so() -> bool:
        return any(reason in entry.message for entry in (await it.status(name)).phase_history)

    await it.until(is_so)


async def test_first_task_makes_the_cluster_and_waits_for_it() -> None:
    async with teams() as it:
        await it.submit_to("red")
        team = await it.until_team("team-red")
        assert team.metadata.owner_references == ()
        assert team.metadata.finalizers == ()
        assert team.metadata.labels[SHARED_LABEL] == "work"
        assert LAST_USED_ANNOTATION in team.metadata.annotations
        await until_waiting(it, "waiting for Team default/team-red")
        await until_waiting(it, "waiting for Team default/team-red")
        assert await it.works() == []
        await it.say(TEAM, "team-red", "ready")
        work = await it.until_work()
        assert msgspec.json.decode(work.raw)["spec"] == {"team": "team-red"}
        assert work.metadata.labels[CLUSTER_LABEL] == "team-red"
        assert [owner.name for owner in work.metadata.owner_references] == ["r1-a0"]
        await it.say(WORK, "r1-a0-0", "done")
        await it.until_over()
        assert await it.teams() == ["team-red"], "it stays for the next task"


async def test_many_tasks_at_once_share_one_cluster() -> None:
    names = [f"r{number}" for number in range(30)]
    async with teams() as it:
        for name in names:
            await it.submit_to("red", name)
        await it.until_team("team-red")
        await it.say(TEAM, "team-red", "ready")
        for name in names:
            await it.until_work(f"{name}-a0-0")
        assert await it.teams() == ["team-red"]
        assert Counter(it.cluster.writes)["create teams.test.io"] <= len(names)


async def test_tasks_of_other_names_have_other_clusters() -> None:
    async with teams() as it:
        await it.submit_to("red", "r1")
        await it.submit_to("blue", "r2")
        await it.until_team("team-red")
        await it.until_team("team-blue")


async def test_a_ready_cluster_is_used_at_once() -> None:
    async with teams() as it:
        await it.add_team("team-red")
        await it.say(TEAM, "team-red", "ready")
        await it.submit_to("red")
        await it.until_work()
        history = [entry.phase for entry in (await it.status()).phase_history]
        assert "WaitingForResources" not in history


async def test_a_job_may_bring_its_own_cluster() -> None:
    async with teams() as it:
        await it.submit_to(ALONE)
        work = await it.until_work()
        assert CLUSTER_LABEL not in work.metadata.labels
        await it.say(WORK, "r1-a0-0", "done")
        await it.until_over()
        assert await it.teams() == []


async def test_a_cluster_that_never_will_be_fails_those_who_wait_for_it() -> None:
    async with teams() as it:
        await it.add_team("team-red")
        await it.say(TEAM, "team-red", BROKEN)
        await it.submit_to("red")
        status = await it.until_over()
        assert status.error_state is not None
        assert (status.error_state.code, status.error_state.message) == ("TeamBroken", "nobody came")


async def test_a_strangers_cluster_is_refused_and_not_touched() -> None:
    async with teams() as it:
        await it.add_team("team-red", labels={"app": "theirs"})
        before = await it.truth.get(TEAM, "default", "team-red")
        await it.submit_to("red")
        status = await it.until_over()
        assert status.error_state is not None
        assert status.error_state.code == "ObjectNameTaken"
        after = await it.truth.get(TEAM, "default", "team-red")
        assert after.metadata.resource_version == before.metadata.resource_version


async def test_a_job_that_lost_its_cluster_is_launched_again_on_a_new_one() -> None:
    async with teams() as it:
        await it.submit_to("red")
        old = await it.until_team("team-red")
        await it.say(TEAM, "team-red", "ready")
        first = await it.until_work()
        await it.say(WORK, "r1-a0-0", "running")
        await it.until_reason("Executing")
        await it.truth.delete(TEAM, "default", "team-red")

        async def is_new() -> bool:
            found = await it.until_team("team-red")
            return found.metadata.uid != old.metadata.uid

        await it.until(is_new)
        await it.say(TEAM, "team-red", "ready")

        async def is_relaunched() -> bool:
            return (await it.until_work()).metadata.uid != first.metadata.uid

        await it.until(is_relaunched)
        await it.say(WORK, "r1-a0-0", "done")
        status = await it.until_over()
        assert status.attempts == 1, "the user is not charged"


async def test_pods_of_the_cluster_are_shown_to_the_task() -> None:
    async with teams() as it:
        metadata = {"name": "red-0", "namespace": "default", "labels": {CLUSTER_LABEL: "team-red"}}
        spec = {"containers": [{"name": "main", "image": "none"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        await it.truth.create(POD, msgspec.json.encode(body))
        await it.add_team("team-red")
        await it.submit_to("red")
        await until_waiting(it, "forming, 1 pods")


async def test_an_aborted_task_leaves_the_cluster_to_the_others() -> None:
    async with teams() as it:
        await it.submit_to("red")
        await it.until_team("team-red")
        await until_waiting(it, "waiting for Team default/team-red")
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"metadata": {"annotations": {ABORT_ANNOTATION: ""}}})
        await it.until_over()
        assert await it.teams() == ["team-red"]


async def test_an_idle_cluster_is_deleted_by_the_engine_itself() -> None:
    async with teams(idle_s=0.2) as it:
        await it.submit_to("red")
        await it.until_team("team-red")
        await it.say(TEAM, "team-red", "ready")
        await it.until_work()
        await it.say(WORK, "r1-a0-0", "done")
        await it.until_over()

        async def is_away() -> bool:
            return await it.teams() == []

        await it.until(is_away)


async def test_a_cluster_is_not_idle_while_a_task_waits_or_works() -> None:
    async with teams(idle_s=0.0) as it:
        await it.submit_to("red")
        team = await it.until_team("team-red")
        await until_waiting(it, "waiting for Team default/team-red")

        async def touched() -> bool:
            latest = await it.truth.get(TEAM, "default", "team-red")
            return latest.metadata.annotations[LAST_USED_ANNOTATION] > team.metadata.annotations[LAST_USED_ANNOTATION]

        await it.until(touched)
        await it.say(TEAM, "team-red", "ready")
        await it.until_work()
        team = await it.truth.get(TEAM, "default", "team-red")
        await it.until(touched)
        assert (await it.truth.get(TEAM, "default", "team-red")).metadata.uid == team.metadata.uid


@pytest.mark.parametrize("state", ["", "ready"])
async def test_restarted_engine_goes_on_with_the_cluster(state: str) -> None:
    async with EmbeddedCluster.open() as cluster:
        async with working(cluster) as it:
            await it.submit_to("red")
            team = await it.until_team("team-red")
            await until_waiting(it, "waiting for Team default/team-red")
            if state:
                await it.say(TEAM, "team-red", state)
                await it.until_work()
        async with working(cluster) as it:
            await it.say(TEAM, "team-red", "ready")
            await it.until_work()
            await it.say(WORK, "r1-a0-0", "done")
            await it.until_over()
            assert (await it.until_team("team-red")).metadata.uid == team.metadata.uid


async def test_restarted_engine_deletes_what_has_been_idle() -> None:
    async with EmbeddedCluster.open() as cluster:
        async with working(cluster) as it:
            await it.add_team("team-red", used=long_ago())
        async with working(cluster, idle_s=60.0) as it:

            async def is_away() -> bool:
                return await it.teams() == []

            await it.until(is_away)


async def test_a_task_waits_for_a_condemned_cluster_to_go_and_has_another() -> None:
    async with teams(cluster_sweep_s=3600.0) as it:
        await it.add_team("team-red")
        await it.say(TEAM, "team-red", "ready")
        mark = {"metadata": {"annotations": {CONDEMNED_ANNOTATION: long_ago()}, "finalizers": ["x/y"]}}
        await it.truth.patch(TEAM, "default", "team-red", mark)
        await it.submit_to("red")
        await until_waiting(it, "waiting for the old Team default/team-red to go")
        await it.truth.delete(TEAM, "default", "team-red")
        await it.truth.patch(TEAM, "default", "team-red", {"metadata": {"finalizers": None}})
        await it.until_team("team-red")
        await it.say(TEAM, "team-red", "ready")
        await it.until_work()


async def test_name_that_no_label_can_have_is_refused() -> None:
    async with teams() as it:
        await it.submit_to("Red Team")
        status = await it.until_over()
        assert status.error_state is not None
        assert status.error_state.message == "plugin 'work': get_cluster_name: 'team-Red Team' is no DNS-1123 label"


async def test_a_plugin_may_have_its_own_way_to_abort_a_job() -> None:
    class Patient(TeamPlugin):
        async def on_abort(self, ctx: Any, resource: Any) -> AbortBehavior:
            return AbortBehavior(patch={"spec": {"stop": True}})

    async with teams() as it:
        entry = KubernetesPluginEntry(
            id="patient", task_types=("patient",), watched=WORK, load_cluster=Patient(60.0), cluster_watched=TEAM
        )
        it.registry.register(entry)
        assert not it.registry.load(setup_context())
        await it.submit("r1", task_type="patient", spec={"group": ALONE})
        await it.until_work()
        await it.truth.patch(TASK_ACTION, "default", "r1-a0", {"metadata": {"annotations": {ABORT_ANNOTATION: ""}}})
        await it.until_over()
        work = await it.until_work()
        assert msgspec.json.decode(work.raw)["spec"]["stop"] is True
