"""The cluster of a real API server. See ``propfan.engine.cluster.Cluster`` for what each call promises.

Every call may raise UnavailableError (the server failed or did not answer, also UnauthorizedError),
ThrottledError (it has refused too often as one too many) and ForbiddenError (the rights are missing;
the message names verb and resource).
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar

import msgspec

from propfan.engine import labels as label_selectors
from propfan.engine.cluster import POD, Kind, LabelSelector, ObjectList, ObservedObject
from propfan.engine.kubernetes import credentials, objects
from propfan.engine.kubernetes.answers import not_served
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.kubernetes.credentials import Credentials
from propfan.engine.kubernetes.transport import JSON, MERGE_PATCH, AnswerTooLargeError, Request, Stream, Transport
from propfan.engine.kubernetes.watching import Watch
from propfan.pluginmachinery.errors import KindNotServedError, NotFoundError, UnavailableError

MAX_EVENT_BYTES: Final = 16 * 2**20
"""Of one object in a watch; etcd takes 1.5 MiB of them."""

_LEASE_GROUP: Final = "coordination.k8s.io"


class AccessReview(msgspec.Struct, frozen=True):
    """Whether we may do something, and what the server says why."""

    is_allowed: bool
    reason: str = ""


class _AccessStatus(msgspec.Struct, rename="camel"):
    allowed: bool = False
    reason: str = ""
    evaluation_error: str = ""


class _AccessAnswer(msgspec.Struct):
    status: _AccessStatus


class _UserInfo(msgspec.Struct):
    username: str = ""


class _SelfStatus(msgspec.Struct, rename="camel"):
    user_info: _UserInfo


class _SelfAnswer(msgspec.Struct):
    status: _SelfStatus


class _Resource(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool


class _ResourceList(msgspec.Struct):
    resources: list[_Resource]


_Answer = TypeVar("_Answer")


class KubernetesCluster:
    """A ``Cluster`` in front of an API server, and what a daemon needs beside."""

    def __init__(self, transport: Transport, config: KubernetesConfig, guard: Callable[[], None] | None = None) -> None:
        self._transport: Final = transport
        self._config: Final = config
        self._guard: Final = guard
        self._validation: Final = objects.with_query("", {"fieldValidation": config.field_validation.value})

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, config: KubernetesConfig | None = None, *, with_credentials: Credentials | None = None
    ) -> AsyncIterator[Self]:
        """The cluster that the configuration names. No request is sent yet.

        Args:
            with_credentials: In place of those that the configuration names.

        Raises:
            ConfigError: there are no credentials, or they are wrong.
        """
        config = config or KubernetesConfig()
        async with Transport.open(with_credentials or credentials.find(config), config) as transport:
            yield cls(transport, config)

    def guarded(self, guard: Callable[[], None]) -> KubernetesCluster:
        """The same cluster, whose writes are sent only while ``guard`` does not raise."""
        return KubernetesCluster(self._transport, self._config, guard)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._transport.access.server

    @property
    def namespace(self) -> str:
        """Of the kubeconfig's context or of the pod; empty where none is named."""
        return self._transport.access.namespace

    # -- Reads -------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        return await self._object("GET", kind, namespace, name, objects.item(kind, namespace, name))

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        fields: Mapping[str, str] | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> ObjectList:
        """All pages are of the moment of the first one. A ``limit`` of 0 is none; a page may have fewer.

        Args:
            fields: Path of a field to the value that it must have, of those that the kind can be selected by.
        """
        selector = label_selectors.as_text(labels)
        path, target = objects.collection(kind, namespace), f"list of {kind}"
        while True:
            query = {
                "labelSelector": selector,
                "fieldSelector": _field_selector(fields),
                "limit": str(limit) if limit else "",
                "continue": continue_token,
            }
            request = Request("GET", objects.with_query(path, query), target, kind, namespace)
            try:
                answer = await self._transport.call(request, self._transport.lists)
            except AnswerTooLargeError:
                if limit == 1:
                    raise
                limit = limit // 2 or 250
                continue
            return objects.page(kind, answer, target)

    def watch(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        fields: Mapping[str, str] | None = None,
        resource_version: str,
    ) -> Watch:
        """Without a version, or from ``0``, it begins with all objects as added."""
        seconds = self._config.watch_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that they do not end together
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selectors.as_text(labels),
            "fieldSelector": _field_selector(fields),
            "timeoutSeconds": str(int(seconds)),
        }
        path = objects.with_query(objects.collection(kind, namespace), query)
        request = Request("GET", path, f"watch of {kind}", kind)
        return Watch(self._transport, request, kind, seconds=seconds, max_line_bytes=MAX_EVENT_BYTES)

    # -- Writes ------------------------------------------------------------------------------------

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        namespace, name = objects.place(kind, body)
        path = objects.collection(kind, namespace) + self._validation
        return await self._object("POST", kind, namespace, name, path, body)

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Mapping[str, Any] | msgspec.Struct,
        *,
        subresource: str = "",
        resource_version: str = "",
    ) -> ObservedObject:
        """A patch that changes nothing is no write.

        ``metadata.resourceVersion`` in the patch is a condition. So is ``metadata.uid``, as an object can not change
        it, but not with the status of a custom resource.
        """
        body = objects.merge_patch(f"{kind.kind} {namespace}/{name}", patch, resource_version)
        path = objects.item(kind, namespace, name, subresource) + self._validation
        return await self._object("PATCH", kind, namespace, name, path, body, MERGE_PATCH)

    async def replace(
        self, kind: Kind, namespace: str, name: str, body: bytes, *, subresource: str = ""
    ) -> ObservedObject:
        """Puts ``body`` in the place of the object, or of its status.

        Raises:
            NotFoundError: there is none.
            ConflictError: the body has a resourceVersion or uid, and it is not the present one.
            InvalidError, BadRequestError, TooLargeError: never as it is.
        """
        path = objects.item(kind, namespace, name, subresource) + self._validation
        return await self._object("PUT", kind, namespace, name, path, body)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        path, target = objects.item(kind, namespace, name), f"{kind.kind} {namespace}/{name}"
        request = Request("DELETE", path, target, kind, namespace, msgspec.json.encode(options), guard=self._guard)
        await self._transport.call(request, self._transport.objects)

    async def _object(
        self, method: str, kind: Kind, namespace: str, name: str, path: str, body: bytes = b"", content_type: str = JSON
    ) -> ObservedObject:
        """The object that such a request answers with."""
        target = f"{kind.kind} {namespace}/{name}"
        guard = self._guard if method != "GET" else None
        request = Request(method, path, target, kind, namespace, body, content_type, guard=guard)
        lane = self._transport.leases if kind.group == _LEASE_GROUP else self._transport.objects
        return objects.observed(kind, await self._transport.call(request, lane), target)

    # -- Beside objects ----------------------------------------------------------------------------

    async def get_raw(self, path: str) -> bytes:
        """What the server has at a path such as ``/version``.

        Raises:
            NotFoundError: nothing.
        """
        return await self._transport.call(Request("GET", path, path, accept="*/*"), self._transport.objects)

    async def discover(self, group: str, version: str) -> frozenset[Kind]:
        """The kinds that the server serves in this version of this group; none when it does not know it."""
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            answer = await self._transport.call(Request("GET", path, path), self._transport.objects)
        except NotFoundError:
            return frozenset()
        return frozenset(
            Kind(group, version, found.kind, found.name, found.namespaced)
            for found in _decoded(answer, _ResourceList, path).resources
            if "/" not in found.name
        )

    async def check_served(self, kind: Kind) -> None:
        """Raises ``KindNotServedError`` when the server does not serve the kind; its message says the way out."""
        if kind not in await self.discover(kind.group, kind.version):
            raise KindNotServedError(str(kind), not_served(kind))

    async def review_access(
        self, verb: str, kind: Kind, *, namespace: str = "", name: str = "", subresource: str = ""
    ) -> AccessReview:
        """Whether we may do this: a SelfSubjectAccessReview."""
        attributes = {
            "verb": verb, "group": kind.group, "version": kind.version, "resource": kind.plural,
            "subresource": subresource, "namespace": namespace, "name": name,
        }  # fmt: skip
        answer = await self._review(
            "authorization.k8s.io",
            "SelfSubjectAccessReview",
            {"spec": {"resourceAttributes": attributes}},
            _AccessAnswer,
        )
        return AccessReview(answer.status.allowed, answer.status.reason or answer.status.evaluation_error)

    async def user_name(self) -> str:
        """Who the server takes us for; ``system:anonymous`` when it does not know our credentials."""
        answer = await self._review("authentication.k8s.io", "SelfSubjectReview", {}, _SelfAnswer)
        return answer.status.user_info.username

    async def _review(self, group: str, kind: str, content: Mapping[str, Any], answer: type[_Answer]) -> _Answer:
        body = msgspec.json.encode({"apiVersion": f"{group}/v1", "kind": kind, **content})
        request = Request("POST", f"/apis/{group}/v1/{kind.lower()}s", kind, body=body)
        return _decoded(await self._transport.call(request, self._transport.objects), answer, kind)

    @asynccontextmanager
    async def logs(
        self,
        namespace: str,
        name: str,
        *,
        container: str = "",
        follow: bool = False,
        previous: bool = False,
        tail_lines: int | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """What a container of a pod has written, in pieces as they come, for as long as it runs with ``follow``.

        Args:
            container: Need not be named when the pod has one only.
            previous: That of the container's last run.
            tail_lines: Only so many lines at the end.

        Raises:
            NotFoundError: there is no such pod.
            BadRequestError: there is no such container, or it has not started.
        """
        query = {
            "container": container,
            "follow": "true" if follow else "",
            "previous": "true" if previous else "",
            "tailLines": "" if tail_lines is None else str(tail_lines),
        }
        path = objects.with_query(objects.item(POD, namespace, name, "log"), query)
        request = Request("GET", path, f"log of Pod {namespace}/{name}", group=namespace, accept="*/*")
        stream = await self._transport.stream(request, limit_s=None)
        try:
            yield _pieces(stream)
        finally:
            stream.close()


async def _pieces(stream: Stream) -> AsyncIterator[bytes]:
    while piece := await stream.read():
        yield piece


def _field_selector(fields: Mapping[str, str] | None) -> str:
    return ",".join(f"{path}={value}" for path, value in (fields or {}).items())


def _decoded(answer: bytes, type: type[_Answer], target: str) -> _Answer:
    try:
        return msgspec.json.decode(answer, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnavailableError(target, f"the answer is not what the API defines: {error}") from error
