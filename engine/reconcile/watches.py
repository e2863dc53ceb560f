"""Keeps a view of all objects of one kind: list, then watch, for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from propfan.engine.cluster import Cluster, Kind, LabelSelector, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.task_state import DELAY_BACKOFF
from propfan.pluginmachinery.errors import ApiError, ExpiredError, KindNotServedError

logger = structlog.get_logger(__name__)


class Watcher:
    """Tells of every object of a kind, and of every change, at least once and in order.

    Args:
        namespace: Only objects in it are seen; of all namespaces when empty.
        labels: Only objects with these labels are seen.
        on_listed: Called after each list with the keys of everything that exists: what is not among
            them is gone.
        on_event: Called for each object found and each change.
        longest_wait_s: Between tries while the cluster is out of order.
        silence_s: A watch that says nothing for so long, not even a bookmark, is taken for dead.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        on_event: Callable[[WatchEvent], None],
        on_listed: Callable[[frozenset[tuple[str, str]]], None],
        longest_wait_s: float = DELAY_BACKOFF.cap_s,
        silence_s: float = 300.0,
    ) -> None:
        self._cluster: Final = cluster
        self.kind: Final = kind
        self._namespace: Final = namespace
        self._labels: Final = labels
        self._on_event: Final = on_event
        self._on_listed: Final = on_listed
        self._longest_wait_s: Final = longest_wait_s
        self._silence_s: Final = silence_s
        self.is_synced: Final = anyio.Event()
        self._version: str | None = None
        """Everything up to this resourceVersion was told; ``None`` before the list, and when it is too old."""
        self._vain = 0
        """Watches in a row that ended soon and brought nothing new."""

    async def run(self) -> None:
        """Works until cancelled. A watch that was of use, or lasted, is followed by the next one at once."""
        while True:
            began_s, wait_s = anyio.current_time(), 0.0
            try:
                if self._version is None:
                    self._version = await self._list()
                    self.is_synced.set()
                await self._watch(self._version)
            except ExpiredError:
                logger.info("watch expired, listing again", kind=str(self.kind))
                self._version = None
            except KindNotServedError as error:
                self._go_without(error)
            except ApiError as error:
                logger.warning("watch failed", kind=str(self.kind), error=str(error), tries=self._vain + 1)
                wait_s = error.retry_after_s
            if anyio.current_time() - began_s >= DELAY_BACKOFF.cap_s:
                self._vain = 0
            await anyio.sleep(max(wait_s, min(DELAY_BACKOFF.wait_s(self._vain), self._longest_wait_s)))
            self._vain += 1

    def _go_without(self, error: KindNotServedError) -> None:
        """There are no objects of a kind that is not served; nobody shall wait for them until it is."""
        self._version = None
        if not self.is_synced.is_set():
            logger.warning("nothing to watch until the kind is served", kind=str(self.kind), error=str(error))
            self._on_listed(frozenset())
            self.is_synced.set()

    async def _list(self) -> str:
        seen: set[tuple[str, str]] = set()
        token = version = ""
        while True:
            page = await self._cluster.list(
                self.kind, namespace=self._namespace, labels=self._labels, continue_token=token
            )
            for item in page.items:
                seen.add(_key(item))
                self._on_event(WatchEvent(WatchEventType.ADDED, item))
            token, version = page.continue_token, version or page.resource_version
            if not token:
                break
        self._on_listed(frozenset(seen))
        return version

    async def _watch(self, version: str) -> None:
        """Until the server ends the stream, or says nothing for too long."""
        async with self._cluster.watch(
            self.kind, namespace=self._namespace, labels=self._labels, resource_version=version
        ) as stream:
            with anyio.CancelScope() as listening:
                while True:
                    listening.deadline = anyio.current_time() + self._silence_s
                    events = await anext(stream, None)  # with () CPython 3.11 ends in a SystemError
                    if events is None:
                        return
                    self._take(events)
            logger.info("watch is silent, opening it again", kind=str(self.kind))

    def _take(self, events: Sequence[WatchEvent]) -> None:
        for event in events:
            if event.type is not WatchEventType.BOOKMARK:
                self._on_event(event)
        if events and (latest := events[-1].object.metadata.resource_version) != self._version:
            self._version, self._vain = latest, 0


def _key(item: ObservedObject) -> tuple[str, str]:
    return item.metadata.namespace, item.metadata.name
