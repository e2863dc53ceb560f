from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.cluster import POD, ObjectMeta, ObservedObject
from propfan.engine.processes import pods
from propfan.engine.processes.scheduler import effective_requests
from propfan.pluginmachinery.errors import DecodeError

METADATA = ObjectMeta("p", "ns", "u-1")

words = st.sampled_from(
    ["name", "env", "resources", "requests", "cpu", "command", "volumes", "spec", "status", "1", "x"]
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=6,
)


def decoded(body: object) -> pods.Pod:
    return pods.decode(ObservedObject(POD, METADATA, json.dumps(body).encode()))


def problem_of(body: object) -> str:
    try:
        effective_requests(decoded(body))
    except (DecodeError, ValueError) as error:
        return str(error)
    return "fine"


@given(body=json_values, container=st.dictionaries(words, json_values), spec=st.dictionaries(words, json_values))
def test_any_object_is_a_pod_or_an_error_that_names_it(body: Any, container: Any, spec: Any) -> None:
    for candidate in (body, {"spec": {**spec, "containers": [{"name": "c", **container}]}}):
        assert problem_of(candidate).startswith(("fine", "Pod ns/p: ", "resources: "))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"containers": []}, "none, or two of one name"),
        ({"containers": [{"name": "a"}], "initContainers": [{"name": "a"}]}, "none, or two of one name: a, a"),
        ({"containers": [{"name": ".."}]}, "'..' is no name"),
        ({"containers": [{"name": "a"}], "volumes": [{"name": "a/b"}]}, "'a/b' is no name"),
        ({"containers": [{"name": "a", "command": "ls"}]}, "`$.spec.containers[0].command`"),
    ],
)
def test_what_could_not_run_is_refused(spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decoded({"spec": spec})
    assert problem in caught.value.problem


def test_the_grace_period_is_30_seconds_by_default() -> None:
    assert decoded({"spec": {"containers": [{"name": "a"}]}}).spec.grace_period_s == 30
    assert (
        decoded({"spec": {"containers": [{"name": "a"}], "terminationGracePeriodSeconds": 0}}).spec.grace_period_s == 0
    )
