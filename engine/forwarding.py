"""A cluster in front of another: what a fence, a meter and a view of some pods have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec

from propfan.engine.cluster import Cluster, Kind, LabelSelector, ObjectList, ObservedObject, WatchEvent


class ForwardingCluster(Cluster):
    """Hands every call on to the cluster behind it, ``_cluster``.

    A subclass overrides the calls that it changes, and has ``_cluster`` do what is left of them. The others stay
    those of the cluster behind: no coroutine stands in between.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster: Final = cluster

    def get(self, kind: Kind, namespace: str, name: str) -> Coroutine[Any, Any, ObservedObject]:
        return self._cluster.get(kind, namespace, name)

    def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> Coroutine[Any, Any, ObjectList]:
        return self._cluster.list(kind, namespace=namespace, labels=labels, limit=limit, continue_token=continue_token)

    def watch(
        self, kind: Kind, *, namespace: str = "", labels: LabelSelector | None = None, resource_version: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[WatchEvent]]]:
        return self._cluster.watch(kind, namespace=namespace, labels=labels, resource_version=resource_version)

    def create(self, kind: Kind, body: bytes) -> Coroutine[Any, Any, ObservedObject]:
        return self._cluster.create(kind, body)

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Mapping[str, Any] | msgspec.Struct,
        *,
        subresource: str = "",
        resource_version: str = "",
    ) -> Coroutine[Any, Any, ObservedObject]:
        return self._cluster.patch(
            kind, namespace, name, patch, subresource=subresource, resource_version=resource_version
        )

    def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> Coroutine[Any, Any, None]:
        return self._cluster.delete(kind, namespace, name, uid=uid, grace_period_s=grace_period_s)
