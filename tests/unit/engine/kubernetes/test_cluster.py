"""Requests as they are sent, and answers as they are understood."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import POD, TASK_ACTION, Kind
from propfan.engine.kubernetes.cluster import AccessReview, KubernetesCluster
from propfan.engine.kubernetes.config import FieldValidation
from propfan.pluginmachinery.errors import (
    ApiError,
    BadRequestError,
    InvalidError,
    KindNotServedError,
    NotFoundError,
    UnavailableError,
)
from tests.unit.engine.kubernetes.scripted_server import answer, client, pod, refusal, streaming

pytestmark = pytest.mark.anyio

NODE = Kind("", "v1", "Node", "nodes", namespaced=False)
PATCH = {"metadata": {"labels": {"a": None}}}
Call = Callable[[KubernetesCluster], Awaitable[Any]]


def pod_list(*items: Any, version: str = "7", token: str = "") -> dict[str, Any]:
    return {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": version, "continue": token},
        "items": list(items),
    }


# -- Requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "method", "path", "query"),
    [
        (lambda c: c.get(POD, "n", "a"), "GET", "/api/v1/namespaces/n/pods/a", {}),
        (lambda c: c.get(TASK_ACTION, "n", "a"), "GET", "/apis/flyte.org/v1/namespaces/n/taskactions/a", {}),
        (lambda c: c.get(NODE, "", "a"), "GET", "/api/v1/nodes/a", {}),
        (lambda c: c.get(POD, "n", "a?x=1&%2F"), "GET", "/api/v1/namespaces/n/pods/a?x=1&%2F", {}),
        (lambda c: c.delete(POD, "n", "a"), "DELETE", "/api/v1/namespaces/n/pods/a", {}),
        (lambda c: c.create(POD, json.dumps(pod("a")).encode()), "POST", "/api/v1/namespaces/n/pods", {"fieldValidation": "Warn"}),
        (lambda c: c.patch(POD, "n", "a", PATCH), "PATCH", "/api/v1/namespaces/n/pods/a", {"fieldValidation": "Warn"}),
        (lambda c: c.patch(POD, "n", "a", PATCH, subresource="status"), "PATCH", "/api/v1/namespaces/n/pods/a/status", {"fieldValidation": "Warn"}),
        (lambda c: c.replace(POD, "n", "a", b"{}"), "PUT", "/api/v1/namespaces/n/pods/a", {"fieldValidation": "Warn"}),
    ],
)  # fmt: skip
async def test_a_call_asks_for_its_path(call: Call, method: str, path: str, query: dict[str, str]) -> None:
    async with client(answer(200, pod("a"))) as it:
        await call(it.cluster)
        (asked,) = it.server.asked
        assert (asked.method, asked.path, asked.query) == (method, path, query)
        assert asked.headers["authorization"] == "Bearer t1"
        assert asked.headers["accept"] == "application/json"
        assert asked.headers["user-agent"].startswith("propfan/")
        assert "gzip" in asked.headers["accept-encoding"]


async def test_a_list_asks_for_a_page_of_what_is_selected() -> None:
    async with client(answer(200, pod_list())) as it:
        await it.cluster.list(POD)
        await it.cluster.list(POD, namespace="n", labels={"b": ["2", "1"], "a": "x"}, limit=0, continue_token="t=")
        first, second = it.server.asked
        assert (first.path, first.query) == ("/api/v1/pods", {"limit": "500"})
        assert second.path == "/api/v1/namespaces/n/pods"
        assert second.query == {"labelSelector": "a=x,b in (1,2)", "continue": "t="}


async def test_a_deletion_says_what_of_how_and_how_long() -> None:
    async with client(answer(200, {"kind": "Status"})) as it:
        await it.cluster.delete(POD, "n", "a")
        await it.cluster.delete(POD, "n", "a", uid="u", grace_period_s=0)
        bodies = [json.loads(asked.body) for asked in it.server.asked]
        base = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        assert bodies == [base, {**base, "preconditions": {"uid": "u"}, "gracePeriodSeconds": 0}]


async def test_a_patch_is_a_merge_patch_with_its_condition() -> None:
    class Meta(msgspec.Struct):
        labels: dict[str, str]

    class Patch(msgspec.Struct):
        metadata: Meta

    async with client(answer(200, pod("a"))) as it:
        await it.cluster.patch(POD, "n", "a", PATCH)
        await it.cluster.patch(POD, "n", "a", PATCH, resource_version="5")
        await it.cluster.patch(POD, "n", "a", Patch(Meta({"a": "b"})), resource_version="5")
        await it.cluster.patch(POD, "n", "a", {"spec": 1}, resource_version="5")
        assert {asked.headers["content-type"] for asked in it.server.asked} == {"application/merge-patch+json"}
        assert [json.loads(asked.body) for asked in it.server.asked] == [
            PATCH,
            {"metadata": {"labels": {"a": None}, "resourceVersion": "5"}},
            {"metadata": {"labels": {"a": "b"}, "resourceVersion": "5"}},
            {"spec": 1, "metadata": {"resourceVersion": "5"}},
        ]


async def test_fields_that_a_kind_does_not_have_are_treated_as_configured() -> None:
    async with client(answer(200, pod("a")), field_validation=FieldValidation.STRICT) as it:
        await it.cluster.patch(POD, "n", "a", PATCH)
        assert it.server.asked[0].query == {"fieldValidation": "Strict"}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secrets/x"])
async def test_no_name_leads_to_another_path(name: str) -> None:
    async with client(answer(200, pod("a"))) as it:
        calls: list[Call] = [
            lambda c: c.get(POD, "n", name),
            lambda c: c.patch(POD, "n", name, {}),
            lambda c: c.delete(POD, "n", name),
            lambda c: c.get(POD, name, "a"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError):
                await call(it.cluster)
        assert it.server.asked == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.create(POD, b"{"), BadRequestError),
        (lambda c: c.create(POD, b"[" * 10_000), BadRequestError),
        (lambda c: c.create(POD, b'{"metadata":{"name":7}}'), BadRequestError),
        (lambda c: c.create(POD, b'{"metadata":{"name":"a"}}'), InvalidError),
        (lambda c: c.create(NODE, b'{"metadata":{"name":"a","namespace":"n"}}'), InvalidError),
        (lambda c: c.patch(POD, "n", "a", ["no", "object"]), BadRequestError),
        (lambda c: c.patch(POD, "n", "a", {"metadata": 7}, resource_version="5"), BadRequestError),
        (lambda c: c.patch(POD, "n", "a", {"spec": object()}), BadRequestError),
        (lambda c: c.list(POD, labels={"a": "b,c=d"}), BadRequestError),
    ],
)
async def test_what_can_only_be_wrong_is_not_sent(call: Call, error: type[ApiError]) -> None:
    async with client(answer(200, pod("a"))) as it:
        with pytest.raises(error):
            await call(it.cluster)
        assert it.server.asked == []


# -- Answers ---------------------------------------------------------------------------------------


async def test_metadata_are_decoded_and_the_whole_is_kept() -> None:
    raw = json.dumps(pod("a", 5, labels={"x": "1"})).encode()
    async with client(answer(200, raw + b"\n")) as it:
        found = await it.cluster.get(POD, "n", "a")
        assert (found.kind, found.raw) == (POD, raw)
        assert (found.metadata.name, found.metadata.resource_version, found.metadata.labels) == ("a", "5", {"x": "1"})


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "a", "managedFields": [{"manager": "m", "fieldsV1": {"f:x": {"k": "]}"}}}]},
        {"managedFields": [{"manager": "m"}], "name": "a"},
        {"annotations": {"x": '"managedFields":[{"manager":"m"}]'}, "managedFields": [{"manager": "m"}], "name": "a"},
        {"name": "a", "managedFields": None},
        {"name": "a"},
    ],
    ids=lambda metadata: json.dumps(metadata)[:40],
)
async def test_who_manages_which_field_is_not_kept(metadata: dict[str, Any]) -> None:
    template = {"metadata": {"managedFields": [{"manager": "m"}]}}
    whole = {"kind": "Pod", "metadata": metadata, "spec": {"template": template}}
    async with client(answer(200, json.dumps(whole, separators=(",", ":")).encode())) as it:
        found = json.loads((await it.cluster.get(POD, "n", "a")).raw)
        assert found.pop("spec") == {"template": template}
        assert found["metadata"].pop("managedFields", None) is None
        assert found == {"kind": "Pod", "metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}


async def test_objects_of_a_list_say_what_they_are() -> None:
    bare = {"metadata": {"name": "a", "namespace": "n"}}
    async with client(answer(200, pod_list(bare, pod("b"), token="more"))) as it:
        page = await it.cluster.list(POD)
        assert (page.resource_version, page.continue_token) == ("7", "more")
        first, second = page.items
        assert json.loads(first.raw) == {"kind": "Pod", "apiVersion": "v1", **bare}
        assert json.loads(second.raw) == pod("b")


@pytest.mark.parametrize("items", [None, []])
async def test_an_empty_list_is_one(items: Any) -> None:
    body = {"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": items}
    async with client(answer(200, body)) as it:
        assert list((await it.cluster.list(POD)).items) == []


async def test_a_time_that_python_can_not_count_to_spoils_no_list() -> None:
    """A pod with a grace period of a million million seconds, which the API takes."""
    odd = pod("a", deletionTimestamp="33658-09-27T01:46:40Z", creationTimestamp="2026-01-01T00:00:00Z", labels=None)
    async with client(answer(200, pod_list(odd, pod("b")))) as it:
        first, second = (await it.cluster.list(POD)).items
        assert first.metadata.deletion_timestamp is not None
        assert first.metadata.deletion_timestamp.year == 9999
        assert first.metadata.creation_timestamp is not None
        assert first.metadata.creation_timestamp.year == 2026
        assert second.metadata.name == "b"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b"{", b"\xff", b"{}", b'{"metadata":null}', b'{"metadata":{}}', b"[" * 100_000,
        b'{"metadata":{"name":7}}', b'{"metadata":{"name":"a","labels":[]}}', b"<html>Welcome to nginx!</html>",
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
async def test_what_is_no_object_is_an_error_that_says_so(body: bytes) -> None:
    async with client(answer(200, body)) as it:
        with pytest.raises(UnavailableError) as caught:
            await it.cluster.get(POD, "n", "a")
        assert caught.value.target == "Pod n/a"
        assert "the answer is not what the API defines" in caught.value.problem
        if body not in (b"{}", b'{"metadata":{}}'):
            with pytest.raises(UnavailableError):
                await it.cluster.list(POD)


async def test_a_page_that_would_be_too_large_is_asked_for_in_smaller_ones() -> None:
    large = answer(200, pod_list(*[pod("a", annotations={"x": "y" * 2**20})]))
    async with client(large, large, answer(200, pod_list(pod("a"))), max_answer_bytes=2**20) as it:
        page = await it.cluster.list(POD, continue_token="t")
        assert [item.metadata.name for item in page.items] == ["a"]
        assert [asked.query["limit"] for asked in it.server.asked] == ["500", "250", "125"]
        assert {asked.query["continue"] for asked in it.server.asked} == {"t"}


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_an_answer_that_is_too_large_is_not_read(*, is_chunked: bool) -> None:
    body = json.dumps(pod("a", annotations={"x": "y" * 2**21})).encode()
    large = (
        streaming(*[body[at : at + 2**16] for at in range(0, len(body), 2**16)]) if is_chunked else answer(200, body)
    )
    async with client(large, max_answer_bytes=2**20) as it:
        with pytest.raises(UnavailableError, match="larger than 1048576 bytes"):
            await it.cluster.get(POD, "n", "a")


# -- Beside objects --------------------------------------------------------------------------------


async def test_discovery_tells_kinds_and_leaves_out_their_subresources() -> None:
    resources = [
        {"name": "rayjobs", "kind": "RayJob", "namespaced": True},
        {"name": "rayjobs/status", "kind": "RayJob", "namespaced": True},
        {"name": "rays", "kind": "Ray", "namespaced": False},
    ]
    async with client(answer(200, {"kind": "APIResourceList", "resources": resources})) as it:
        job = Kind("ray.io", "v1", "RayJob", "rayjobs")
        assert await it.cluster.discover("ray.io", "v1") == {job, Kind("ray.io", "v1", "Ray", "rays", namespaced=False)}
        await it.cluster.check_served(job)
        assert it.server.asked[0].path == "/apis/ray.io/v1"
        with pytest.raises(KindNotServedError, match=r"does not serve rayclusters\.ray\.io/v1"):
            await it.cluster.check_served(Kind("ray.io", "v1", "RayCluster", "rayclusters"))


async def test_a_group_that_is_not_served_has_no_kinds() -> None:
    async with client(answer(404, b"404 page not found\n")) as it:
        assert await it.cluster.discover("ray.io", "v1") == frozenset()


async def test_rights_are_asked_for() -> None:
    review = {"kind": "SelfSubjectAccessReview", "status": {"allowed": False, "reason": "no such role"}}
    async with client(answer(201, review)) as it:
        found = await it.cluster.review_access("create", POD, namespace="n", subresource="log")
        assert found == AccessReview(is_allowed=False, reason="no such role")
        (asked,) = it.server.asked
        assert asked.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        assert json.loads(asked.body)["spec"]["resourceAttributes"] == {
            "verb": "create", "group": "", "version": "v1", "resource": "pods", "subresource": "log", "namespace": "n",
            "name": "",
        }  # fmt: skip


async def test_who_we_are_is_asked_for() -> None:
    review = {"kind": "SelfSubjectReview", "status": {"userInfo": {"username": "system:anonymous"}}}
    async with client(answer(201, review)) as it:
        assert await it.cluster.user_name() == "system:anonymous"
        assert it.server.asked[0].path == "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def test_a_review_that_is_none_is_an_error() -> None:
    async with client(answer(201, {"status": {}})) as it:
        with pytest.raises(UnavailableError):
            await it.cluster.user_name()


async def test_logs_come_in_pieces() -> None:
    async with client(streaming(b"one\n", b"two\n")) as it:
        async with it.cluster.logs("n", "a", container="c", follow=True, tail_lines=0) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"one\ntwo\n"
        (asked,) = it.server.asked
        assert asked.path == "/api/v1/namespaces/n/pods/a/log"
        assert asked.query == {"container": "c", "follow": "true", "tailLines": "0"}


async def test_logs_that_are_not_read_to_the_end_leave_nothing_open() -> None:
    async with client(streaming(b"one\n", end="hang"), answer(200, pod("a"))) as it:
        with anyio.fail_after(10):
            async with it.cluster.logs("n", "a", follow=True) as pieces:
                async for piece in pieces:
                    assert piece == b"one\n"
                    break
            await it.cluster.get(POD, "n", "a")
        assert it.server.connections == 2


async def test_logs_of_what_has_not_started_are_refused() -> None:
    async with client(refusal(400, "BadRequest", 'container "c" is waiting to start')) as it:
        with pytest.raises(BadRequestError, match="waiting to start"):
            async with it.cluster.logs("n", "a"):
                pass
