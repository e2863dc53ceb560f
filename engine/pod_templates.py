"""``core/v1 PodTemplate`` objects of the cluster, kept up to date by a watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import msgspec

from propfan.engine.cluster import POD_TEMPLATE, Cluster, WatchEvent, WatchEventType
from propfan.engine.reconcile.watches import Watcher


class WatchedPodTemplates:
    """A ``PodTemplateStore`` that follows the cluster.

    Args:
        default_namespace: Where a template is looked for when the task's namespace has none.
        namespaces: Those of tasks; all when empty.
    """

    def __init__(self, cluster: Cluster, default_namespace: str, namespaces: Sequence[str] = ()) -> None:
        self._default_namespace: Final = default_namespace
        self._templates: Final[dict[tuple[str, str], Mapping[str, Any]]] = {}
        self._watchers: Final = [
            Watcher(
                cluster,
                POD_TEMPLATE,
                namespace=namespace,
                on_event=self._on_event,
                on_listed=partial(self._on_listed, namespace),
            )
            for namespace in (sorted({*namespaces, default_namespace}) if namespaces else [""])
        ]

    async def run(self) -> None:
        """Works until cancelled."""
        async with anyio.create_task_group() as tasks:
            for watcher in self._watchers:
                tasks.start_soon(watcher.run)

    async def synced(self) -> None:
        """Returns once all that were there at the beginning are known."""
        for watcher in self._watchers:
            await watcher.is_synced.wait()

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self._templates.get((namespace, name)) or self._templates.get((self._default_namespace, name))

    def _on_event(self, event: WatchEvent) -> None:
        meta = event.object.metadata
        key = (meta.namespace, meta.name)
        if event.type is WatchEventType.DELETED:
            self._templates.pop(key, None)
        else:
            self._templates[key] = msgspec.json.decode(event.object.raw)

    def _on_listed(self, namespace: str, keys: frozenset[tuple[str, str]]) -> None:
        for key in [key for key in self._templates if key not in keys and namespace in ("", key[0])]:
            del self._templates[key]
