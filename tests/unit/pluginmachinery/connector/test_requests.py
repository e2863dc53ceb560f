from __future__ import annotations

import re

import msgspec
import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.task import common_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.connector import Connection, TaskRequest
from propfan.pluginmachinery.connector.requests import IDEMPOTENCY_ANNOTATION
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError
from propfan.pluginmachinery.testing import connector_task, literal_map, task_template


class Spec(msgspec.Struct):
    replicas: int
    ratio: float = 0.5
    nested: dict[str, list[int]] = {}


def request(**custom: object) -> TaskRequest:
    return connector_task(task_template("t", custom=custom))


def test_custom_is_a_struct_whose_whole_numbers_are_integers() -> None:
    found = request(replicas=2, ratio=3, nested={"a": [1, 2]}, unknown="x").custom(Spec)
    assert found == Spec(2, 3.0, {"a": [1, 2]})
    assert isinstance(found.replicas, int)
    assert isinstance(found.ratio, float)


def test_custom_may_be_absent_where_everything_has_a_default() -> None:
    class Optional(msgspec.Struct):
        x: int = 7

    assert connector_task(task_template("t")).custom(Optional).x == 7


def test_wrong_custom_is_told_with_its_field() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"task 'sample' \(t\): custom is no Spec: .*`replicas`"):
        request().custom(Spec)
    with pytest.raises(BadTaskSpecificationError, match=r"Expected `int`, got `float` - at `\$\.replicas`"):
        request(replicas=2.5).custom(Spec)
    with pytest.raises(BadTaskSpecificationError, match=r"at `\$\.nested\[\.\.\.\]\[0\]`"):
        request(replicas=2, nested={"a": ["x"]}).custom(Spec)


def test_inputs_are_values() -> None:
    assert connector_task(task_template("t"), literal_map(a=1, b="x")).inputs() == {"a": 1, "b": "x"}


def test_secrets_are_not_shown() -> None:
    connection = Connection({"token": "s3cret"}, {"url": "http://x"})
    task = msgspec.structs.replace(request(), connection=connection)
    assert "s3cret" not in repr(task)
    assert repr(connection) == "Connection(secrets=['token'], configs=['url'])"


def test_a_name_is_the_same_for_one_attempt_and_another_for_each_other() -> None:
    template = task_template("t")
    first = connector_task(template).unique_name()
    assert first == connector_task(template).unique_name()
    assert re.fullmatch(r"r1-a0-0-[0-9a-f]{16}", first)
    others = {
        connector_task(template, attempt=1).unique_name(),
        connector_task(template, run="r2").unique_name(),
        relaunched("r1-a0-0-1").unique_name(),
        relaunched("r1-a0-0-2").unique_name(),
    }
    assert len({first, *others}) == 5


def relaunched(key: str) -> TaskRequest:
    task = connector_task(task_template("t"))
    assert task.metadata is not None
    task.metadata.annotations[IDEMPOTENCY_ANNOTATION] = key
    return task


def test_without_metadata_the_output_prefix_tells_attempts_apart() -> None:
    def local(prefix: str) -> TaskRequest:
        return TaskRequest(task_template("t"), common_pb2.Inputs(), prefix)

    assert local("s3://a/1").unique_name() == local("s3://a/1").unique_name() != local("s3://a/2").unique_name()
    with pytest.raises(BadTaskSpecificationError, match="neither task_execution_id nor output_prefix"):
        local("").unique_name()


@given(st.text(), st.text(), st.integers(17, 80), st.sampled_from(["", "flyte-"]))
def test_a_name_fits_whatever_the_run_is_called(run: str, node: str, max_length: int, prefix: str) -> None:
    task = connector_task(task_template("t"))
    assert isinstance(task.metadata, connector_pb2.TaskExecutionMetadata)
    try:
        task.metadata.task_execution_id.node_execution_id.execution_id.name = run
        task.metadata.task_execution_id.node_execution_id.node_id = node
    except (UnicodeEncodeError, ValueError):
        return
    try:
        name = task.unique_name(max_length, prefix)
    except ConfigError:
        assert max_length < 17 + len(prefix)
        return
    assert len(name) <= max_length
    assert name.startswith(prefix)
    assert re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", name)
