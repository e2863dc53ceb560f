"""The custom field of a template as a plugin's message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flyteidl2.core import tasks_pb2
from flyteidl2.plugins import ray_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.operators.custom import CustomError, decode_custom, decode_struct, message_of


def template(custom: dict[str, Any] | None) -> tasks_pb2.TaskTemplate:
    made = tasks_pb2.TaskTemplate()
    if custom is not None:
        json_format.ParseDict(custom, made.custom)
    return made


def test_both_spellings_of_a_field_are_read_and_unknown_ones_ignored() -> None:
    custom = {"ray_cluster": {"enableAutoscaling": True, "later": 1}, "ttlSecondsAfterFinished": 5}
    job = message_of(template(custom), ray_pb2.RayJob)
    assert (job.ray_cluster.enable_autoscaling, job.ttl_seconds_after_finished) == (True, 5)


def test_an_empty_struct_is_the_default_message() -> None:
    made = tasks_pb2.TaskTemplate()
    made.custom.SetInParent()
    assert message_of(made, ray_pb2.RayJob) == ray_pb2.RayJob()


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        (None, "nil Struct Object passed"),
        ({"rayCluster": "x"}, r"custom\.rayCluster: expected an object, found str"),
        ({"rayCluster": {"workerGroupSpec": {}}}, r"custom\.rayCluster\.workerGroupSpec: expected a list"),
        ({"rayCluster": {"workerGroupSpec": ["x"]}}, r"workerGroupSpec\[0\]: expected an object"),
        ({"rayCluster": {"headGroupSpec": {"rayStartParams": "x"}}}, "rayStartParams: expected an object"),
        ({"ttlSecondsAfterFinished": "soon"}, "soon"),
        ({"ttlSecondsAfterFinished": 2**40}, "ttl"),
        ({"runtimeEnv": 3}, "runtimeEnv|runtime_env"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(custom: dict[str, Any] | None, said: str) -> None:
    with pytest.raises(CustomError, match=said):
        message_of(template(custom), ray_pb2.RayJob)


def test_the_refusal_shows_what_was_given() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"invalid TaskSpecification \[.*rayCluster.*\], Err: \["):
        decode_custom(template({"rayCluster": "x"}), ray_pb2.RayJob)


class Wanted(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    nodes: int = 1
    share_memory: bool = False


@pytest.mark.parametrize(
    ("custom", "expected"),
    [
        (None, Wanted()),
        ({"nodes": 3}, Wanted(3)),
        ({"nodes": "4", "shareMemory": True}, Wanted(4, share_memory=True)),
    ],
)
def test_a_plugin_may_have_a_struct_of_its_own(custom: dict[str, Any] | None, expected: Wanted) -> None:
    assert decode_struct(template(custom), Wanted) == expected


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        ({"nodes": 1.5}, r"Expected `int`, got `float` - at `\$\.nodes`"),
        ({"nodes": [1]}, r"at `\$\.nodes`"),
        ({"node": 1}, "unknown field `node`"),
    ],
)
def test_what_is_not_in_the_struct_is_refused(custom: dict[str, Any], said: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=rf"invalid TaskSpecification \[.*\], Err: \[.*{said}"):
        decode_struct(template(custom), Wanted)
