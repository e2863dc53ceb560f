"""What a plugin is given in one round."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flyteidl2.core import types_pb2

from propfan.engine.cluster import Kind, ObjectList
from propfan.engine.reconcile.live_task import decode
from propfan.engine.reconcile.task_context import GrantEverything, OwnedPods, TaskValues, parse_template
from propfan.engine.task_state import PluginData
from propfan.pluginmachinery.contexts import AllocationStatus, ResourceConstraints
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    ObjectNotFoundError,
    PermanentError,
    UnavailableError,
)
from propfan.pluginmachinery.kubernetes_plugin import POD, Properties
from propfan.pluginmachinery.phases import Phase, PluginState
from propfan.pluginmachinery.testing.builders import literal_map, task_template
from tests.unit.engine.reconcile.single_task import A_POD, SingleTask, single_task

pytestmark = pytest.mark.anyio

OWN = {"flyte.org/managed": "true", "run": "r1", "action": "a0"}


async def make_pod(it: SingleTask, name: str, *, namespace: str = "default", **labels: str) -> None:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    await it.truth.create(POD, msgspec.json.encode({**A_POD, "metadata": metadata}))


def names(pods: Any) -> list[str]:
    return [msgspec.json.decode(pod)["metadata"]["name"] for pod in pods]


async def test_pods_of_this_task_alone_are_seen() -> None:
    async with single_task() as it:
        await it.launch()
        await make_pod(it, "worker", **OWN, attempt="2", more="x")
        await make_pod(it, "other-run", **{**OWN, "run": "r2"})
        await make_pod(it, "other-action", **{**OWN, "action": "a1"})
        await make_pod(it, "unmanaged", run="r1", action="a0")
        await make_pod(it, "unlabelled")
        await make_pod(it, "elsewhere", **OWN, namespace="other")
        pods = it.context().kubernetes
        assert sorted(names(await pods.list_pods())) == ["r1-a0-0", "worker"]
        for name in ("r1-a0-0", "worker"):
            found = await pods.get_pod(name)
            assert found is not None
            assert names([found]) == [name]
        for name in ("other-run", "other-action", "unmanaged", "unlabelled", "elsewhere", "nowhere"):
            assert await pods.get_pod(name) is None, name


async def test_pods_of_all_pages_are_seen() -> None:
    async with single_task() as it:

        class SmallPages:
            async def list(self, kind: Kind, **more: Any) -> ObjectList:
                return await it.truth.list(kind, **more, limit=2)

        for number in range(5):
            await make_pod(it, f"w{number}", **OWN)
        pods = OwnedPods(SmallPages(), it.context().metadata)  # type: ignore[arg-type]
        assert names(await pods.list_pods()) == [f"w{number}" for number in range(5)]


async def test_trouble_of_the_cluster_is_not_taken_for_a_missing_pod() -> None:
    async with single_task() as it:
        it.cluster.errors["get"].append(UnavailableError("Pod x", "down"))
        with pytest.raises(UnavailableError):
            await it.context().kubernetes.get_pod("x")


async def test_version_that_a_plugin_sees_is_its_own() -> None:
    async with single_task() as it:
        it.put(phase=Phase.RUNNING, phase_version=7, version_base=5, reason="why")
        assert it.context().plugin_state == PluginState(Phase.RUNNING, 2, "why")
        it.put(phase=Phase.QUEUED, phase_version=4)
        assert it.context().plugin_state.phase_version == 0


async def test_state_of_a_plugin_is_that_of_the_last_round_until_the_next() -> None:
    async with single_task() as it:
        ctx = it.context()
        assert (ctx.state_version, ctx.state, ctx.new_state) == (0, b"", None)
        it.put(plugin_data=PluginData(3, b"old"))
        ctx = it.context()
        ctx.put_state(4, b"not this")
        ctx.put_state(5, b"new")
        assert (ctx.state_version, ctx.state, ctx.new_state) == (3, b"old", (5, b"new"))


async def test_each_attempt_has_its_own_name_and_places() -> None:
    async with single_task() as it:
        first, second = it.context(1), it.context(2)
        assert [ctx.object_name(Properties()) for ctx in (first, second)] == ["r1-a0-0", "r1-a0-1"]
        assert first.paths.output.endswith("/a0/1/outputs.pb")
        assert second.paths.output.endswith("/a0/2/outputs.pb")
        assert second.paths.input == first.paths.input == "memory:///in/inputs.pb"
        assert second.metadata.labels["attempt"] == "2"


async def test_inputs_are_read_where_some_are_declared() -> None:
    template = task_template("pod", inputs={"x": types_pb2.INTEGER})
    async with single_task(template=template, max_payload_bytes=1024) as it:
        with pytest.raises(ObjectNotFoundError):
            await it.context().inputs.read()
        literals = literal_map(x=1)
        await it.store.put("memory:///in/inputs.pb", literals.SerializeToString())
        assert await it.context().inputs.read() == literals
        await it.store.put("memory:///in/inputs.pb", bytes(1025))
        with pytest.raises(PermanentError) as caught:
            await it.context().inputs.read()
        assert caught.value.code == "MetadataTooLarge"
    async with single_task() as it:
        assert await it.context().inputs.read() is None


async def test_what_was_written_is_read() -> None:
    async with single_task() as it:
        ctx = it.context()
        await ctx.output_writer.put(literal_map(o0=1))
        assert await ctx.outputs.exists()
        assert await ctx.data_store.get(ctx.paths.output) == await ctx.outputs.read()


async def test_quotas_are_granted() -> None:
    grants = GrantEverything()
    assert await grants.allocate("ns", "token", ResourceConstraints()) is AllocationStatus.GRANTED
    await grants.release("ns", "token")


async def test_facts_of_a_template_are_found_once_for_all_its_tasks() -> None:
    template = task_template("pod", image="i", requests={"cpu": "1"})
    async with single_task(template=template) as it:
        action, known = decode(it.live.action), it.ports.known_facts
        first = TaskValues(action, 1, it.ports).metadata
        assert list(known) == [template.SerializeToString()]
        assert TaskValues(action, 2, it.ports).metadata.overrides == first.overrides
        assert len(known) == 1
        for number in range(1023):
            known[b"%d" % number] = known[template.SerializeToString()]
        other = msgspec.structs.replace(action.spec, task_template=task_template("pod").SerializeToString())
        assert TaskValues(msgspec.structs.replace(action, spec=other), 1, it.ports).metadata.overrides is not None
        assert list(known) == [other.task_template]  # bounded, and begun anew


async def test_facts_of_a_huge_template_are_not_kept() -> None:
    async with single_task(template=task_template("pod", image="i" * 16 * 1024)) as it:
        assert TaskValues(decode(it.live.action), 1, it.ports).metadata.labels["run"] == "r1"
        assert it.ports.known_facts == {}


@pytest.mark.parametrize("serialised", [b"\xff", b"\x0a\x05x"])
def test_template_that_is_none_is_refused(serialised: bytes) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"spec\.taskTemplate is not a serialised core\.TaskTemplate"):
        parse_template(serialised)
