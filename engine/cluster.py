"""The cluster as the engine sees it: one protocol, in front of an API server or of the embedded store.

Semantics are those of the Kubernetes API: a write answers with the object as stored, every write
has a new resourceVersion, deletion waits for finalizers, owners take their dependants with them.
Errors are the ``ApiError`` family of ``propfan.pluginmachinery.errors``.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from propfan.pluginmachinery.kubernetes_plugin import POD, Kind, ObjectMeta, ObservedObject

__all__ = [
    "EVENT",
    "POD",
    "POD_TEMPLATE",
    "TASK_ACTION",
    "Cluster",
    "Kind",
    "LabelSelector",
    "ObjectList",
    "ObjectMeta",
    "ObservedObject",
    "WatchEvent",
    "WatchEventType",
]

TASK_ACTION = Kind("flyte.org", "v1", "TaskAction", "taskactions")
POD_TEMPLATE = Kind("", "v1", "PodTemplate", "podtemplates")
EVENT = Kind("events.k8s.io", "v1", "Event", "events")

LabelSelector = Mapping[str, str | Collection[str]]
"""The labels that an object must have: of each key the one value, or any of several. No value at all matches nothing."""


class ObjectList(msgspec.Struct, frozen=True):
    """One page. ``continue_token`` is empty on the last one; watch from ``resource_version``."""

    items: Sequence[ObservedObject]
    resource_version: str
    continue_token: str = ""


class WatchEventType(enum.Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """A change. A bookmark has only a resourceVersion in its metadata, and an empty ``raw``.

    An object that stops matching the selector is reported as deleted, one that starts as added.
    """

    type: WatchEventType
    object: ObservedObject


class Cluster(Protocol):
    """Reads and writes of Kubernetes objects as JSON bytes."""

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        """The object as it is now, never from a cache.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> ObjectList:
        """One page of objects with these labels, of all namespaces when none is given.

        Raises:
            ExpiredError: ``continue_token`` is too old: start again.
            BadRequestError: ``continue_token`` is none, or no label can be like one in ``labels``.
        """
        ...

    def watch(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        resource_version: str,
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[WatchEvent]]]:
        """All changes after ``resource_version``, in order, in batches as they become known.

        The iterator ends when the server closes the stream: watch again from the last version seen.

        Raises:
            ExpiredError: from the iterator: the version is too old: list, then watch again.
            BadRequestError: from here or the iterator: no label can be like one in ``labels``.
        """
        ...

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        """Creates an object whose metadata names it.

        Raises:
            AlreadyExistsError: there is one by that name, perhaps still being deleted.
            InvalidError, BadRequestError, TooLargeError, ForbiddenError: never as it is.
            UnavailableError, ThrottledError: try again; the write may have happened.
        """
        ...

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
        """Applies a JSON merge patch to the object, or to its ``status`` alone.

        Without a subresource everything but ``status`` is patched, as with the API server.

        Raises:
            ConflictError: ``resource_version`` is given and not the current one.
        """
        ...

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        """Marks the object for deletion; it goes when its finalizers are gone and its pods stopped.

        Raises:
            NotFoundError: there is none.
            ConflictError: ``uid`` is given and the object is another one.
        """
        ...
