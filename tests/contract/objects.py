"""What the contract tests make objects with, and wait for them by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio
import msgspec

from propfan.engine.cluster import POD, Cluster, Kind, ObservedObject, WatchEvent, WatchEventType
from propfan.pluginmachinery.errors import (
    NotFoundError,
)

ADDED, MODIFIED, DELETED = WatchEventType.ADDED, WatchEventType.MODIFIED, WatchEventType.DELETED

CONTAINERS = [{"name": "main", "image": "image"}]


def body(kind: Kind, namespace: str, name: str, spec: Any = None, **metadata: Any) -> bytes:
    if spec is None:
        # A scheduler would give it to a node, which would run it.
        spec = {"containers": CONTAINERS, "schedulerName": "nobody"} if kind == POD else {"size": 1}
    return msgspec.json.encode(
        {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace, **metadata},
            "spec": spec,
        }
    )


def content(observed: ObservedObject) -> Mapping[str, Any]:
    decoded: Mapping[str, Any] = msgspec.json.decode(observed.raw)
    return decoded


async def next_events(changes: AsyncIterator[Sequence[WatchEvent]], count: int) -> Sequence[WatchEvent]:
    """The next changes, without bookmarks."""
    events: list[WatchEvent] = []
    with anyio.fail_after(20):
        while len(events) < count:
            batch = await anext(changes)
            events += [event for event in batch if event.type is not WatchEventType.BOOKMARK]
    return events


def told(events: Sequence[WatchEvent]) -> Sequence[tuple[WatchEventType, str]]:
    return [(event.type, event.object.metadata.name) for event in events]


async def until_gone(cluster: Cluster, kind: Kind, namespace: str, name: str) -> None:
    """Waits for an object to be deleted."""
    version = (await cluster.list(kind, namespace=namespace)).resource_version
    try:
        await cluster.get(kind, namespace, name)
    except NotFoundError:
        return
    async with cluster.watch(kind, namespace=namespace, resource_version=version) as changes:
        while (DELETED, name) not in told(await next_events(changes, 1)):
            pass
