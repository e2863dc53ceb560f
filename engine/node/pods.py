"""A cluster with the pods of one node only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec

from propfan.engine.cluster import POD, Kind, LabelSelector, ObjectList, ObservedObject, WatchEvent
from propfan.engine.kubernetes.cluster import KubernetesCluster


class NodePods:
    """A ``Cluster`` that tells of the pods that are bound to one node, and of all else as it is.

    Pods without a node do not appear, so a process runtime places none: the cluster's scheduler does.
    """

    def __init__(self, cluster: KubernetesCluster, node: str) -> None:
        self._cluster: Final = cluster
        self._bound: Final = {"spec.nodeName": node}

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        return await self._cluster.get(kind, namespace, name)

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> ObjectList:
        return await self._cluster.list(
            kind,
            namespace=namespace,
            labels=labels,
            fields=self._fields(kind),
            limit=limit,
            continue_token=continue_token,
        )

    def watch(
        self, kind: Kind, *, namespace: str = "", labels: LabelSelector | None = None, resource_version: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[WatchEvent]]]:
        return self._cluster.watch(
            kind, namespace=namespace, labels=labels, fields=self._fields(kind), resource_version=resource_version
        )

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        return await self._cluster.create(kind, body)

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
        return await self._cluster.patch(
            kind, namespace, name, patch, subresource=subresource, resource_version=resource_version
        )

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        await self._cluster.delete(kind, namespace, name, uid=uid, grace_period_s=grace_period_s)

    def _fields(self, kind: Kind) -> Mapping[str, str]:
        return self._bound if kind == POD else {}
