"""What definitions say about the fields of their kinds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from propfan.engine.cluster import Kind, ObjectMeta, ObservedObject
from propfan.engine.crd_schemas import DEFINITION, LOOK_AGAIN_AFTER, ClusterCrdSchemas, definition_name
from propfan.engine.kubernetes import objects
from propfan.pluginmachinery.errors import ApiError, DecodeError, ForbiddenError, NotFoundError, UnavailableError
from propfan.pluginmachinery.testing import NOW

pytestmark = pytest.mark.anyio

WIDGET = Kind("example.org", "v2", "Widget", "widgets")


def fields(*path: str) -> dict[str, Any]:
    """A schema in which there is nothing but this path."""
    return {"properties": {path[0]: fields(*path[1:])}} if path else {"type": "object"}


def version(name: str, *path: str, served: bool = True) -> dict[str, Any]:
    return {"name": name, "served": served, "storage": False, "schema": {"openAPIV3Schema": fields(*path)}}


class Server:
    """A cluster with one definition, and its clock."""

    def __init__(self, *versions: dict[str, Any]) -> None:
        self.spec: Any = {"group": "example.org", "versions": list(versions)}
        self.error: ApiError | None = None
        self.asked: list[str] = []
        self.time = NOW

    def now(self) -> Any:
        return self.time

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        assert (kind, namespace) == (DEFINITION, "")
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        return ObservedObject(kind, ObjectMeta(name=name), msgspec.json.encode({"spec": self.spec}))


def schemas(server: Any) -> ClusterCrdSchemas:
    return ClusterCrdSchemas(server, server)


@pytest.mark.parametrize(
    ("path", "is_there"),
    [("spec", True), ("spec.part.size", True), ("spec.size", False), ("spec.part.size.more", False), ("", False)],
)
async def test_a_field_is_found_by_its_path(*, path: str, is_there: bool) -> None:
    server = Server(version("v1"), version("v2", "spec", "part", "size"))
    assert await schemas(server).has_field(WIDGET, path) is is_there
    assert server.asked == ["widgets.example.org"]


async def test_another_version_says_nothing() -> None:
    assert not await schemas(Server(version("v1", "spec"))).has_field(WIDGET, "spec")


async def test_a_version_that_is_not_served_has_no_fields() -> None:
    assert not await schemas(Server(version("v2", "spec", served=False))).has_field(WIDGET, "spec")


async def test_a_version_without_a_schema_has_no_fields() -> None:
    assert not await schemas(Server({"name": "v2", "served": True})).has_field(WIDGET, "spec")


@pytest.mark.parametrize("error", [NotFoundError("x", "no"), ForbiddenError("x", "no")], ids=lambda e: e.reason)
async def test_no_definition_and_no_right_mean_that_it_is_not_known(error: ApiError) -> None:
    server = Server(version("v2", "spec"))
    server.error = error
    assert not await schemas(server).has_field(WIDGET, "spec")


async def test_an_answer_counts_for_a_while() -> None:
    server = Server(version("v2"))
    known = schemas(server)
    assert not await known.has_field(WIDGET, "spec")
    server.spec["versions"] = [version("v2", "spec")]
    server.time += LOOK_AGAIN_AFTER - timedelta(microseconds=1)
    assert not await known.has_field(WIDGET, "spec")
    server.time += timedelta(microseconds=1)
    assert await known.has_field(WIDGET, "spec")
    assert len(server.asked) == 2


async def test_a_failure_is_no_answer() -> None:
    server = Server(version("v2", "spec"))
    known = schemas(server)
    server.error = UnavailableError("x", "down")
    with pytest.raises(UnavailableError):
        await known.has_field(WIDGET, "spec")
    server.error = None
    assert await known.has_field(WIDGET, "spec")


async def test_what_is_no_definition_is_told() -> None:
    server = Server()
    server.spec = ["?"]
    with pytest.raises(DecodeError, match=r"widgets\.example\.org"):
        await schemas(server).has_field(WIDGET, "spec")


def test_definitions_are_in_no_namespace() -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org"
    assert objects.item(DEFINITION, "", definition_name(WIDGET)) == path
