"""``core/v1 PodTemplate`` objects of the cluster, kept up to date by a watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.engine.cluster import POD_TEMPLATE, Cluster, WatchEvent, WatchEventType
from propfan.engine.reconcile.watches import Watcher


class WatchedPodTemplates:
    """A ``PodTemplateStore`` that follows the cluster.

    Args:
        default_namespace: Where a template is looked for when the task's namespace has none.
    """

    def __init__(self, cluster: Cluster, default_namespace: str) -> None:
        self._default_namespace: Final = default_namespace
        self._templates: Final[dict[tuple[str, str], Mapping[str, Any]]] = {}
        self.watcher: Final = Watcher(cluster, POD_TEMPLATE, on_event=self._on_event, on_listed=self._on_listed)

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self._templates.get((namespace, name)) or self._templates.get((self._default_namespace, name))

    def _on_event(self, event: WatchEvent) -> None:
        meta = event.object.metadata
        key = (meta.namespace, meta.name)
        if event.type is WatchEventType.DELETED:
            self._templates.pop(key, None)
        else:
            self._templates[key] = msgspec.json.decode(event.object.raw)

    def _on_listed(self, keys: frozenset[tuple[str, str]]) -> None:
        for key in [key for key in self._templates if key not in keys]:
            del self._templates[key]
