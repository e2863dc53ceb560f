"""The fakes keep to the protocols that they stand for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from flyteidl2.core import literals_pb2, types_pb2

from propfan.pluginmachinery import contexts
from propfan.pluginmachinery.errors import (
    ApiError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PermanentError,
    PropfanError,
    StorageError,
)
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.pluginmachinery.phases import ExecutionError
from propfan.pluginmachinery.testing import (
    NOW,
    FakeKubernetes,
    FakeResources,
    FakeSecrets,
    FakeTaskContext,
    InMemoryStore,
    literal_map,
    observed,
    task_template,
)

TEMPLATE = task_template("t", image="i", requests={"cpu": "1", "memory": "1Gi"}, limits={"gpu": "2"})


def as_contexts(ctx: FakeTaskContext) -> tuple[contexts.PluginContext, contexts.CoreContext]:
    """Holds by type checking."""
    return ctx, ctx


@pytest.mark.anyio
async def test_store_keeps_what_is_put_and_refuses_what_is_too_large() -> None:
    store = InMemoryStore({"memory:///a": b"12345"})
    await store.put("memory:///b", b"1")
    assert (await store.get("memory:///a", limit_bytes=5), await store.size("memory:///b")) == (b"12345", 1)
    assert await store.size("memory:///c") is None
    with pytest.raises(ObjectNotFoundError):
        await store.get("memory:///c")
    with pytest.raises(ObjectTooLargeError):
        await store.get("memory:///a", limit_bytes=4)


@pytest.mark.anyio
async def test_state_is_visible_in_the_next_round_only() -> None:
    ctx = FakeTaskContext(TEMPLATE)
    ctx.put_state(1, b"first")
    ctx.put_state(2, b"last")
    assert (ctx.state_version, ctx.state) == (0, b"")
    following = ctx.next_round(5)
    assert (following.state_version, following.state, following.stored) == (2, b"last", None)
    assert following.now == NOW + timedelta(seconds=5)
    assert following.next_round().state == b"last"


@pytest.mark.anyio
async def test_outputs_are_read_as_they_were_put() -> None:
    ctx = FakeTaskContext(TEMPLATE)
    assert not await ctx.outputs.exists()
    with pytest.raises(StorageError):
        await ctx.outputs.read()
    await ctx.output_writer.put(literal_map(o0=1))
    assert literals_pb2.LiteralMap.FromString(await ctx.outputs.read()) == literal_map(o0=1)
    document = contexts.ExecutionErrorDocument(ExecutionError("c", "m"), is_recoverable=True)
    await ctx.output_writer.put_error(document)
    assert await ctx.outputs.read_error() == document


@pytest.mark.anyio
async def test_secrets_are_found_by_group_and_key() -> None:
    secrets = FakeSecrets({"k": "1", "g/k": "2"})
    assert [await secrets.get("k"), await secrets.get("k", "g")] == ["1", "2"]
    with pytest.raises(PermanentError, match="secret 'x' is not among: g/k, k"):
        await secrets.get("x")


@pytest.mark.anyio
async def test_quota_is_held_until_it_is_released() -> None:
    resources = FakeResources()
    assert await resources.allocate("n", "t", contexts.ResourceConstraints()) is contexts.AllocationStatus.GRANTED
    assert resources.held == {("n", "t")}
    await resources.release("n", "t")
    assert resources.held == set()
    exhausted = FakeResources(contexts.AllocationStatus.EXHAUSTED)
    await exhausted.allocate("n", "t", contexts.ResourceConstraints())
    assert exhausted.held == set()


@pytest.mark.anyio
async def test_pods_are_found_by_name() -> None:
    kubernetes = FakeKubernetes([{"metadata": {"name": "p"}}])
    assert await kubernetes.get_pod("p") == b'{"metadata":{"name":"p"}}'
    assert await kubernetes.get_pod("q") is None
    assert len(await kubernetes.list_pods()) == 1


@pytest.mark.anyio
async def test_every_port_fails_with_an_error_of_its_kind() -> None:
    ctx = FakeTaskContext(TEMPLATE).with_failing_ports()
    none: Any = None
    calls = {
        StorageError: (
            ctx.inputs.read,
            ctx.outputs.read,
            ctx.outputs.read_error,
            ctx.outputs.exists,
            lambda: ctx.output_writer.put(none),
            lambda: ctx.output_writer.put_error(none),
            lambda: ctx.data_store.get("p"),
            lambda: ctx.data_store.put("p", b""),
            lambda: ctx.data_store.size("p"),
        ),
        PermanentError: (lambda: ctx.secrets.get("k"),),
        ApiError: (
            lambda: ctx.resources.allocate("n", "t", none),
            lambda: ctx.resources.release("n", "t"),
            lambda: ctx.kubernetes.get_pod("p"),
            ctx.kubernetes.list_pods,
        ),
    }
    for error, failing in calls.items():
        assert issubclass(error, PropfanError)
        for call in failing:
            with pytest.raises(error):
                await call()


def test_metadata_carries_what_the_container_asks_for() -> None:
    overrides = FakeTaskContext(TEMPLATE).metadata.overrides
    assert overrides is not None
    assert overrides.resources == contexts.ResourceRequirements({"cpu": "1", "memory": "1Gi"}, {"gpu": "2"})
    assert FakeTaskContext(task_template("t")).metadata.overrides is None


def test_template_holds_what_it_is_made_of() -> None:
    pod = {"podSpec": {"containers": [{"name": "main"}]}, "primaryContainerName": "main"}
    template = task_template(
        "t", k8s_pod=pod, custom={"n": 2}, config={"a": "b"}, inputs={"x": types_pb2.INTEGER}, task_type_version=2
    )
    assert template.k8s_pod.primary_container_name == "main"
    assert template.custom["n"] == 2
    assert [entry.key for entry in template.interface.inputs.variables] == ["x"]
    assert (template.type, template.task_type_version, dict(template.config)) == ("t", 2, {"a": "b"})


def test_literals_have_the_types_of_their_values() -> None:
    values = literal_map(b=True, i=1, f=1.5, s="x", d=timedelta(1), t=NOW).literals
    kinds = {name: literal.scalar.primitive.WhichOneof("value") for name, literal in values.items()}
    assert kinds == {
        "b": "boolean",
        "i": "integer",
        "f": "float_value",
        "s": "string_value",
        "d": "duration",
        "t": "datetime",
    }


def test_observed_object_has_its_metadata_twice_the_same() -> None:
    resource = observed(POD, {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}})
    whole = msgspec.json.decode(resource.raw)
    assert (resource.metadata.name, resource.metadata.labels) == ("r1-a0-0", {"a": "b"})
    assert (whole["apiVersion"], whole["kind"], whole["status"]) == ("v1", "Pod", {"phase": "Running"})
    assert whole["metadata"]["uid"] == resource.metadata.uid
    assert resource.metadata.creation_timestamp == NOW
