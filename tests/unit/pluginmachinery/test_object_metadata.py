from __future__ import annotations

import pytest

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import OwnerReference
from propfan.pluginmachinery.errors import NameTooLongError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, Properties
from propfan.pluginmachinery.object_metadata import FINALIZER, object_name, stamp
from tests.unit.pluginmachinery.podspec import tasks

OTHER_OWNER = OwnerReference(api_version="v1", kind="Pod", name="x", uid="y")


def test_labels_and_annotations_of_the_execution_win() -> None:
    k8s = K8sConfig(default_labels={"a": "default", "b": "default"}, default_annotations={"x": "default"})
    built = ObjectMeta(labels={"b": "object", "c": "object"}, annotations={"x": "object"})
    metadata = tasks.metadata(labels={"c": "execution"}, annotations={"y": "execution"})
    stamped = stamp(built, metadata, k8s, Properties())
    assert stamped.labels == {"a": "default", "b": "object", "c": "execution"}
    assert stamped.annotations == {"x": "object", "y": "execution"}
    assert (stamped.name, stamped.namespace) == ("run-a0-0", "ns")


@pytest.mark.parametrize(
    ("k8s", "properties", "is_owned"),
    [
        (K8sConfig(), Properties(), True),
        (K8sConfig(disable_inject_owner_references=True), Properties(), False),
        (K8sConfig(), Properties(disable_inject_owner_references=True), False),
    ],
)
def test_owner_replaces_the_objects_own_unless_disabled(
    k8s: K8sConfig, properties: Properties, is_owned: object
) -> None:
    metadata = tasks.metadata()
    stamped = stamp(ObjectMeta(owner_references=(OTHER_OWNER,)), metadata, k8s, properties)
    assert stamped.owner_references == ((metadata.owner_reference,) if is_owned else (OTHER_OWNER,))


@pytest.mark.parametrize(
    ("built", "k8s", "properties", "finalizers"),
    [
        (ObjectMeta(), K8sConfig(), Properties(), ()),
        (ObjectMeta(), K8sConfig(inject_finalizer=True), Properties(), (FINALIZER,)),
        (ObjectMeta(finalizers=("a",)), K8sConfig(inject_finalizer=True), Properties(), ("a", FINALIZER)),
        (ObjectMeta(finalizers=(FINALIZER,)), K8sConfig(inject_finalizer=True), Properties(), (FINALIZER,)),
        (ObjectMeta(), K8sConfig(inject_finalizer=True), Properties(disable_inject_finalizer=True), ()),
    ],
)
def test_finalizer_is_injected_when_configured(
    built: ObjectMeta, k8s: K8sConfig, properties: Properties, finalizers: tuple[str, ...]
) -> None:
    assert stamp(built, tasks.metadata(), k8s, properties).finalizers == finalizers


@pytest.mark.parametrize(
    ("name", "max_length", "expected"),
    [
        ("run-a0-0", None, "run-a0-0"),
        ("run-a0-0", 8, "run-a0-0"),
        ("run-a0-00", 8, "feqyfefi"),
        ("RunOne_x", None, "run-onex"),
    ],
)
def test_name_is_bounded_and_a_dns_name(name: str, max_length: int | None, expected: str) -> None:
    found = object_name(tasks.metadata(name), Properties(generated_name_max_length=max_length))
    assert len(found) == len(expected)
    assert found == expected or max_length == 8


def test_length_too_short_for_a_hash_is_an_error() -> None:
    with pytest.raises(NameTooLongError):
        object_name(tasks.metadata("a-name-of-some-length"), Properties(generated_name_max_length=4))
