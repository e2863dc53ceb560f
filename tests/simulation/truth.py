"""The true cluster, with everything that ever changed in it."""

from __future__ import annotations

from typing import Final

from propfan.engine.cluster import TASK_ACTION, Cluster, Kind, ObservedObject, WatchEvent, WatchEventType
from propfan.pluginmachinery.kubernetes_plugin import POD


class Truth:
    """Attributes: ``changes`` are those of each kind, in order; ``latest`` the objects that are there, by kind and name."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster: Final = cluster
        self.changes: Final[dict[Kind, list[WatchEvent]]] = {TASK_ACTION: [], POD: []}
        self.latest: Final[dict[tuple[Kind, str], ObservedObject]] = {}

    async def follow(self, kind: Kind) -> None:
        """Works until cancelled."""
        async with self.cluster.watch(kind, resource_version="0") as stream:
            async for batch in stream:
                for event in batch:
                    self.changes[kind].append(event)
                    key = kind, event.object.metadata.name
                    if event.type is WatchEventType.DELETED:
                        self.latest.pop(key, None)
                    else:
                        self.latest[key] = event.object
