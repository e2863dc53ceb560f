"""A cluster with the pods of one node only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from propfan.engine.cluster import POD, Kind, LabelSelector, ObjectList, WatchEvent
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.kubernetes.cluster import KubernetesCluster


class NodePods(ForwardingCluster):
    """A ``Cluster`` that tells of the pods that are bound to one node, and of all else as it is.

    Pods without a node do not appear, so a process runtime places none: the cluster's scheduler does.
    """

    def __init__(self, cluster: KubernetesCluster, node: str) -> None:
        super().__init__(cluster)
        self._server: Final = cluster
        self._bound: Final = {"spec.nodeName": node}

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        limit: int = 500,
        continue_token: str = "",
    ) -> ObjectList:
        return await self._server.list(
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
        return self._server.watch(
            kind, namespace=namespace, labels=labels, fields=self._fields(kind), resource_version=resource_version
        )

    def _fields(self, kind: Kind) -> Mapping[str, str]:
        return self._bound if kind == POD else {}
