from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject
from propfan.pluginmachinery.operators.job_objects import NO_METADATA, SpecDecoder, StatusDecoder, render

JOB = Kind("example.com", "v1", "Job", "jobs")


class Status(msgspec.Struct):
    state: str = ""
    status: dict[str, Any] | None = None


def resource(raw: bytes) -> ObservedObject:
    return ObservedObject(JOB, ObjectMeta(namespace="ns", name="job"), raw)


def outcome(raw: bytes) -> Status | str | None:
    try:
        return StatusDecoder(Status).decode(resource(raw))
    except DecodeError as error:
        return str(error)


keys = st.sampled_from(["status", "state", "spec", "zone", 'a"status":{', "\\"])
values = st.recursive(
    st.one_of(st.none(), st.text(max_size=3), st.sampled_from(['"status":{', '{"status":{}}', "}", '\\"status":{'])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)
statuses = st.fixed_dictionaries({"state": st.text(max_size=3)}, optional={"status": st.dictionaries(keys, values)})


@given(
    st.dictionaries(keys.filter(lambda key: key != "status"), values),
    statuses,
    st.dictionaries(keys.filter(lambda key: key != "status"), values, max_size=1),
    st.booleans(),
)
def test_status_is_found_wherever_it_stands(
    before: dict[str, Any], status: dict[str, Any], after: dict[str, Any], is_pretty: Any
) -> None:
    raw = msgspec.json.encode({**before, "status": status, **after})
    if is_pretty:
        raw = msgspec.json.format(raw)
    assert outcome(raw) == msgspec.convert(status, Status)


@given(st.dictionaries(keys.filter(lambda key: key != "status"), values))
def test_object_without_a_status_has_none(members: dict[str, Any]) -> None:
    assert outcome(msgspec.json.encode(members)) is None


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "truncated"),
        (b'{"status":{"state":1}}', r"`\$.status.state`"),
        (b'{"status":{"state":"\xff"}}', "utf-8"),
        (b'{"spec":1,"status":{"state":"x"}', "truncated"),
        (b"[" * 100_000, "array|recursion"),
    ],
)
def test_malformed_object_is_refused_by_name_and_field(raw: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem) as caught:
        StatusDecoder(Status).decode(resource(raw))
    assert "Job ns/job" in str(caught.value)


class Spec(msgspec.Struct):
    spec: int = 0


def specs_of_jobs() -> SpecDecoder[Spec, int]:
    return SpecDecoder(Spec, lambda job, _: job.spec)


def of_generation(uid: str, generation: int, raw: bytes) -> ObservedObject:
    return ObservedObject(JOB, ObjectMeta(uid=uid, generation=generation), raw)


def test_a_spec_is_read_once_for_each_generation_of_each_object() -> None:
    specs = specs_of_jobs()
    seen = [
        specs.decode(of_generation(uid, generation, raw))
        for uid, generation, raw in (
            ("a", 1, b'{"spec":1}'),
            ("a", 1, b'{"spec":1,"status":{}}'),
            ("a", 2, b'{"spec":2}'),
            ("b", 1, b'{"spec":3}'),
            ("a", 1, b"not looked at"),
        )
    ]
    assert seen == [1, 1, 2, 3, 1]


def test_an_object_without_uid_or_generation_is_read_each_time() -> None:
    specs = specs_of_jobs()
    for uid, generation in (("", 1), ("a", 0)):
        assert specs.decode(of_generation(uid, generation, b'{"spec":1}')) == 1
        assert specs.decode(of_generation(uid, generation, b'{"spec":2}')) == 2


def test_specs_are_not_kept_for_ever() -> None:
    specs = specs_of_jobs()
    for number in range(5000):
        specs.decode(of_generation(f"uid-{number}", 1, b'{"spec":1}'))
    assert specs.decode(of_generation("uid-4999", 1, b"not looked at")) == 1
    assert specs.decode(of_generation("uid-0", 1, b'{"spec":2}')) == 2


def test_what_a_container_has_twice_is_written_once() -> None:
    container = {
        "name": "c",
        "env": [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "A", "valueFrom": {"x": "y"}}],
        "ports": [
            {"name": "web", "containerPort": 80},
            {"name": "same", "containerPort": 80, "protocol": "TCP"},
            {"containerPort": 80, "protocol": "UDP"},
        ],
    }
    pod = {"initContainers": [container], "containers": [container], "imagePullSecrets": [{"name": "s"}] * 2}
    spec = {"roles": [{"template": {"spec": pod}}], "env": [{"name": "A"}, {"name": "A"}], "ports": [{"port": 1}] * 2}
    before = msgspec.json.encode(spec)
    written = msgspec.json.decode(render(JOB, NO_METADATA, spec).to_json())["spec"]
    once = {
        "name": "c",
        "env": [{"name": "A", "valueFrom": {"x": "y"}}, {"name": "B"}],
        "ports": [{"name": "web", "containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
    }
    secrets = [{"name": "s"}]
    assert written == {
        **spec,
        "roles": [
            {"template": {"spec": {"initContainers": [once], "containers": [once], "imagePullSecrets": secrets}}}
        ],
    }
    assert msgspec.json.encode(spec) == before


def test_members_of_a_pod_that_are_unset_stay_so() -> None:
    spec = {"containers": None, "inner": {"initContainers": None, "containers": [{"name": "c", "env": None}]}}
    written = msgspec.json.decode(render(JOB, NO_METADATA, spec).to_json())["spec"]
    assert written == spec
