from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.task import common_pb2
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.connector.requests import IDEMPOTENCY_ANNOTATION
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError
from propfan.pluginmachinery.testing import FakeTaskContext, literal_map, task_template
from propfan.plugins.connector import wire
from propfan.plugins.connector.wire import Category, ConnectionNames

agent_pb2 = pytest.importorskip("flyteidl.admin.agent_pb2", reason="needs the 'connectors' extra")

PAIRS = {
    "CreateTaskRequest": "CreateTaskRequest",
    "CreateTaskResponse": "CreateTaskResponse",
    "GetTaskRequest": "GetTaskRequest",
    "GetTaskResponse": "GetTaskResponse",
    "DeleteTaskRequest": "DeleteTaskRequest",
    "CreateRequestHeader": "CreateRequestHeader",
    "ListConnectorsResponse": "ListAgentsResponse",
}
DEPTH = 7


def fields(message: Descriptor, path: str = "", within: frozenset[str] = frozenset()) -> Iterator[tuple[str, object]]:
    """Every field by the numbers that lead to it, and how its value is written."""
    for field in message.fields:
        here = f"{path}/{field.number}"
        kind = "message" if field.message_type else "enum" if field.enum_type else field.type
        yield here, kind
        inner = field.message_type
        if inner is not None and inner.full_name not in within and path.count("/") < DEPTH:
            yield from fields(inner, here, within | {inner.full_name})


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items(), ids=PAIRS)
def test_messages_of_both_families_are_the_same_bytes(ours: str, theirs: str) -> None:
    """Maps are entries on the wire, and what only one of them has is skipped by the other."""
    new = dict(fields(connector_pb2.DESCRIPTOR.message_types_by_name[ours]))
    old = dict(fields(agent_pb2.DESCRIPTOR.message_types_by_name[theirs]))
    assert {path: (new[path], old[path]) for path in new.keys() & old.keys() if new[path] != old[path]} == {}
    assert new.keys() & old.keys()


def test_synchronous_agents_are_told_from_others() -> None:
    agents = [
        agent_pb2.Agent(
            name="a", is_sync=True, supported_task_categories=[agent_pb2.TaskCategory(name="t", version=2)]
        ),
        agent_pb2.Agent(name="b", supported_task_categories=[agent_pb2.TaskCategory(name="u")]),
    ]
    listed = agent_pb2.ListAgentsResponse(agents=agents).SerializeToString()
    assert list(wire.categories(listed)) == [Category("t", 2, is_sync=True), Category("u", 0)]


@given(st.binary(max_size=70_000))
def test_synchronous_stream_is_written_and_read_as_flytekit_does(content: bytes) -> None:
    header = connector_pb2.CreateRequestHeader(output_prefix="p" * (len(content) % 300))
    sent = agent_pb2.ExecuteTaskSyncRequest.FromString(wire.sync_header(header))
    assert (sent.WhichOneof("part"), sent.header.output_prefix) == ("header", header.output_prefix)
    inputs = common_pb2.Inputs.FromString(literal_map(x="y").SerializeToString())
    sent = agent_pb2.ExecuteTaskSyncRequest.FromString(wire.sync_inputs(inputs))
    assert list(sent.inputs.literals) == ["x"]
    resource = agent_pb2.Resource(phase=3, message=content.hex())
    head = agent_pb2.ExecuteTaskSyncResponseHeader(resource=resource)
    answer = agent_pb2.ExecuteTaskSyncResponse(header=head).SerializeToString()
    assert wire.resource(wire.sync_resource(answer)).message == content.hex()


@pytest.mark.parametrize("answer", [b"", b"\x0a", b"\x0a\x05", b"\x12\x00", b"\x0a\xff", b"\x0a\x01\x08\x08"])
def test_synchronous_answer_without_a_resource_is_refused(answer: bytes) -> None:
    with pytest.raises(DecodeError, match="answer of ExecuteTaskSync"):
        wire.sync_resource(answer)


@pytest.mark.parametrize(
    "read", [wire.created_meta, wire.resource, lambda it: list(wire.categories(it)), wire.sync_resource]
)
@given(answer=st.binary(max_size=64))
def test_no_answer_crashes_its_reader(read: Any, answer: bytes) -> None:
    with contextlib.suppress(DecodeError):
        read(answer)


@pytest.mark.parametrize(
    ("custom", "names"),
    [
        (None, ConnectionNames()),
        ({"rows": 3}, ConnectionNames()),
        ({"secrets": None, "configs": {}}, ConnectionNames()),
        ({"secrets": {"a": "A", "b": None}}, ConnectionNames(secrets={"a": "A"})),
        ({"taskType": "t", "configs": {"c": "d"}}, ConnectionNames("t", configs={"c": "d"})),
    ],
)
def test_connection_is_read_from_among_other_things(custom: Any, names: ConnectionNames) -> None:
    found = wire.connection_names(task_template("job", custom=custom))
    assert (found, bool(found)) == (names, bool(names.secrets or names.configs))


@pytest.mark.parametrize(
    ("custom", "problem"),
    [
        ({"secrets": ["a"]}, "custom.secrets: must be an object of texts"),
        ({"secrets": "a"}, "custom.secrets: must be an object of texts"),
        ({"configs": {"rows": 3}}, "custom.configs.rows: must be a text"),
        ({"secrets": {"a": {}}}, "custom.secrets.a: must be a text"),
    ],
)
def test_connection_that_can_not_be_is_named(custom: Any, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        wire.connection_names(task_template("job", custom=custom))


def test_inputs_are_in_the_order_of_the_interface() -> None:
    template = task_template("job", inputs=dict.fromkeys("cab", 1))  # type: ignore[arg-type]
    inputs = wire.inputs_message(template, literal_map(a=1, b=2, c=3))
    assert [each.name for each in inputs.literals] == ["c", "a", "b"]
    assert wire.inputs_message(template, None) == common_pb2.Inputs()


def test_metadata_carries_the_key_beside_the_tasks_own_annotations() -> None:
    ctx = FakeTaskContext(task_template("job"))
    message = wire.metadata_message(ctx, "key-1")
    assert message.annotations[IDEMPOTENCY_ANNOTATION] == "key-1"
    assert dict(message.labels) == dict(ctx.metadata.labels)
    assert message.task_execution_id.retry_attempt == ctx.metadata.task_execution_id.id.retry_attempt
    assert message.namespace == ctx.metadata.namespace
