from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery import objects
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import POD, Kind, ObjectMeta, RenderedObject

JOB = Kind("batch", "v1", "Job", "jobs")
HEAD = {"apiVersion": "batch/v1", "kind": "Job"}


def render(built: object) -> Any:
    return msgspec.json.decode(objects.normalise(built, JOB, "batch", "build_resource").to_json())


def fault(built: object) -> str:
    with pytest.raises(PermanentError) as raised:
        objects.normalise(built, JOB, "batch", "build_resource")
    assert raised.value.code == "InvalidPluginObject"
    assert raised.value.message.startswith("plugin 'batch': build_resource: ")
    return raised.value.message.removeprefix("plugin 'batch': build_resource: ")


def test_a_mapping_keeps_all_its_members() -> None:
    built = HEAD | {"metadata": {"labels": {"a": "b"}}, "spec": {"parallelism": 2, "list": (1, None, 2.5)}, "x": {}}
    assert render(built) == HEAD | {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"parallelism": 2, "list": [1, None, 2.5]},
        "x": {},
    }


def test_a_mapping_is_copied() -> None:
    built: dict[str, Any] = HEAD | {"spec": {"a": [1]}}
    rendered = objects.normalise(built, JOB, "batch", "build_resource")
    built["spec"]["a"].append(2)
    assert msgspec.json.decode(rendered.to_json())["spec"] == {"a": [1]}
    assert set(built) == {"apiVersion", "kind", "spec"}


def test_type_meta_alone_is_an_object() -> None:
    assert render(HEAD) == HEAD | {"metadata": {}}


def test_a_rendered_object_is_taken_as_it_is() -> None:
    rendered = RenderedObject("batch/v1", "Job", ObjectMeta(), b'"spec":{}')
    assert objects.normalise(rendered, JOB, "batch", "build_resource") is rendered


def test_a_pod_in_lower_case_becomes_a_pod() -> None:
    assert objects.normalise({"apiVersion": "v1", "kind": "pod"}, POD, "pod", "build_resource").kind == "Pod"


class Spec(msgspec.Struct, rename="camel", omit_defaults=True):
    back_off_limit: int = 6
    extra: Any = None


class Job(msgspec.Struct, rename="camel"):
    spec: Spec
    api_version: str = "batch/v1"
    kind: str = "Job"


def test_a_struct_is_renamed_and_leaves_out_defaults() -> None:
    assert render(Job(Spec(back_off_limit=3))) == HEAD | {"metadata": {}, "spec": {"backOffLimit": 3}}


def test_structs_and_mappings_may_be_mixed() -> None:
    assert render(HEAD | {"spec": Spec(extra={"deep": [Spec(1)]})})["spec"] == {
        "extra": {"deep": [{"backOffLimit": 1}]}
    }


def test_times_become_rfc_3339() -> None:
    spec = render(HEAD | {"spec": {"at": datetime(2026, 1, 2, tzinfo=UTC), "on": date(2026, 1, 2)}})["spec"]
    assert spec == {"at": "2026-01-02T00:00:00Z", "on": "2026-01-02"}


class FakeModel:
    attribute_map = {"api_version": "apiVersion", "kind": "kind", "spec": "spec", "ttl_seconds": "ttlSeconds"}  # noqa: RUF012

    def __init__(self, **values: Any) -> None:
        for name in self.attribute_map:
            setattr(self, name, values.get(name))


def test_a_model_gets_its_json_names_and_loses_what_is_none() -> None:
    inner = FakeModel(ttl_seconds=5)
    assert render(FakeModel(api_version="batch/v1", kind="Job", spec=[inner])) == HEAD | {
        "metadata": {},
        "spec": [{"ttlSeconds": 5}],
    }


def test_a_model_inside_a_struct_is_found() -> None:
    assert render(Job(Spec(extra=FakeModel(ttl_seconds=5))))["spec"] == {"extra": {"ttlSeconds": 5}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_models_of_the_kubernetes_package_are_understood() -> None:
    client = pytest.importorskip("kubernetes.client")
    container = client.V1Container(name="main", image="busybox", image_pull_policy="Always", env=[])
    template = client.V1PodTemplateSpec(spec=client.V1PodSpec(containers=[container], restart_policy="Never"))
    job = client.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=client.V1ObjectMeta(labels={"a": "b"}, creation_timestamp=datetime(2026, 1, 1, tzinfo=UTC)),
        spec=client.V1JobSpec(template=template, ttl_seconds_after_finished=9),
    )
    assert render(job) == HEAD | {
        "metadata": {"labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "ttlSecondsAfterFinished": 9,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "Always", "env": []}],
                }
            },
        },
    }


@pytest.mark.parametrize(
    ("built", "problem"),
    [
        (None, "the object: must be a mapping, .*, is NoneType"),
        ([HEAD], "the object: must be a mapping, .*, is list"),
        ("Job", "the object: must be a mapping, .*, is str"),
        (object(), "the object: must be a mapping, .*, is object"),
        ({"kind": "Job"}, "apiVersion: must be 'batch/v1', is missing"),
        ({"apiVersion": None, "kind": "Job"}, "apiVersion: must be 'batch/v1', is missing"),
        ({"apiVersion": 3, "kind": "Job"}, "apiVersion: must be 'batch/v1', is int"),
        ({"apiVersion": "v1", "kind": "Job"}, "apiVersion: must be 'batch/v1', is 'v1'"),
        ({"apiVersion": "batch/v1"}, "kind: must be 'Job', is missing"),
        (HEAD | {"kind": "job"}, "kind: must be 'Job', is 'job'"),
        (HEAD | {"metadata": []}, "metadata: must be an object, is list"),
        (HEAD | {"metadata": {"labels": {"a": 1}}}, r"metadata.labels\[...\]: Expected `str`, got `int`"),
        (HEAD | {"metadata": {"generateName": "x-"}}, "metadata.generateName: is not the plugin's to set"),
        (HEAD | {"metadata": {"labels": {"a": "\ud800"}}}, "not valid Unicode"),
        (HEAD | {"spec": {"a": [1, {2}]}}, r"spec.a\[1\]: set is not a JSON value"),
        (HEAD | {"spec": {"a": b"x"}}, "spec.a: bytes is not a JSON value"),
        (HEAD | {"spec": {"a": float("nan")}}, "spec.a: nan is not a JSON number"),
        (HEAD | {"spec": {"a": float("-inf")}}, "spec.a: -inf is not a JSON number"),
        (HEAD | {"spec": {1: 2}}, "spec: has the key 1, which is no string"),
        (HEAD | {"spec": {"a": datetime(2026, 1, 1)}}, "spec.a: is a time without a time zone"),  # noqa: DTZ001
        (HEAD | {"spec": {"a": "\udfff"}}, "not valid Unicode"),
        (HEAD | {"spec": Spec(extra=object())}, "object is not a JSON value"),
        (RenderedObject("", "Job", ObjectMeta(), b""), "apiVersion: must be 'batch/v1', is missing"),
        (RenderedObject("batch/v1", "Pod", ObjectMeta(), b""), "kind: must be 'Job', is 'Pod'"),
    ],
)
def test_nonsense_is_refused_by_plugin_and_field(built: object, problem: str) -> None:
    assert re.search(problem, fault(built))


def test_an_object_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = dict(HEAD)
    loop["spec"] = loop
    assert "contains itself" in fault(loop)
    spec = Spec()
    spec.extra = spec
    assert "contains itself" in fault(Job(spec))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_every_json_object_survives(spec: dict[str, Any]) -> None:
    assert render(HEAD | {"spec": spec})["spec"] == spec


@given(
    st.recursive(st.none() | st.integers() | st.binary() | st.text() | st.sets(st.integers()), st.lists, max_leaves=5)
)
def test_anything_else_is_a_permanent_error(built: object) -> None:
    assert fault(built)
