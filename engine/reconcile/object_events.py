"""What the cluster tells of tasks' objects in Events, as reasons of the tasks: why a pod waits, what was pulled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from propfan.engine.clock import Clock
from propfan.engine.cluster import EVENT, Cluster, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, version_of
from propfan.engine.reconcile.watches import Watcher
from propfan.engine.task_events import readable
from propfan.engine.task_state import Event, Observed
from propfan.pluginmachinery.phases import KubernetesEvent, ReasonInfo, TaskInfo

MAX_NEWS: Final = 32
"""Of one task, between two looks at it; the oldest go first."""

_NOTE_CHARS: Final = 1024
"""Of an Event's note; the API's own bound."""
_HINDSIGHT: Final = timedelta(seconds=2)
_WARNING: Final = "Warning"


class _Reference(msgspec.Struct, frozen=True):
    namespace: str = ""
    name: str = ""


class _Source(msgspec.Struct, frozen=True):
    component: str = ""


class _Series(msgspec.Struct, frozen=True):
    count: int = 1


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    """``events.k8s.io/v1``; what older clients report is in the ``deprecated`` fields."""

    regarding: _Reference = _Reference()
    type: str = ""
    reason: str = ""
    note: str = ""
    event_time: datetime | None = None
    reporting_controller: str = ""
    series: _Series | None = None
    deprecated_source: _Source = _Source()
    deprecated_count: int = 0


_decoder: Final = msgspec.json.Decoder(_Event)


class ObjectEvents:
    """Follows Events and keeps nothing but what its tasks have not told yet.

    A warning is told at once; what is normal goes with the next change of the object, for it costs a
    write of the status. Events from before the start, and repeats of one, are not told.

    Args:
        live: The tasks that are driven.
        on_news: Called with a task that is to be looked at.
    """

    def __init__(
        self, cluster: Cluster, clock: Clock, live: Mapping[TaskKey, LiveTask], on_news: Callable[[LiveTask], None]
    ) -> None:
        self._cluster: Final = cluster
        self._live: Final = live
        self._on_news: Final = on_news
        self._since: Final = clock.now() - _HINDSIGHT
        self._highest = 0
        self._told_up_to = 0

    def watcher(self, namespace: str) -> Watcher:
        return Watcher(self._cluster, EVENT, namespace=namespace, on_event=self._on_event, on_listed=self._on_listed)

    def _on_listed(self, keys: frozenset[tuple[str, str]]) -> None:
        self._told_up_to = self._highest

    def _on_event(self, event: WatchEvent) -> None:
        seen = event.object
        version = version_of(seen)
        self._highest = max(self._highest, version)
        if event.type is not WatchEventType.ADDED or version <= self._told_up_to:
            return
        try:
            said = _decoder.decode(seen.raw)
        except (msgspec.DecodeError, RecursionError):
            return
        live = self._task_of(said.regarding)
        if live is None:
            return
        occurred_at = said.event_time or seen.metadata.creation_timestamp
        if occurred_at is None or occurred_at < self._since:
            return
        live.news = (*live.news, _reason(said, occurred_at))[-MAX_NEWS:]
        if said.type == _WARNING:
            live.must_look = True
            self._on_news(live)

    def _task_of(self, regarding: _Reference) -> LiveTask | None:
        """Whose present object it is about, or a pod of that: such a pod's name begins with the object's."""
        name = regarding.name
        while name:
            live = self._live.get(TaskKey(regarding.namespace, name))
            if live is not None:
                return live if _is_about(live.object, regarding.name) else None
            name = name.rpartition("-")[0]
        return None


def _is_about(known: ObservedObject | None, name: str) -> bool:
    return known is None or name == known.metadata.name or name.startswith(f"{known.metadata.name}-")


def _reason(said: _Event, occurred_at: datetime) -> ReasonInfo:
    count = said.series.count if said.series is not None else said.deprecated_count or 1
    source = said.reporting_controller or said.deprecated_source.component
    return ReasonInfo(
        readable(said.note or said.reason, _NOTE_CHARS),
        occurred_at,
        KubernetesEvent(said.type, said.reason, source, count),
    )


def with_news(live: LiveTask, event: Event | None) -> Event | None:
    """A verdict on the object, and what is new of it; anything else as it is, and the news wait."""
    if not live.news or not isinstance(event, Observed):
        return event
    info = event.info or TaskInfo()
    reasons: Sequence[ReasonInfo] = (*info.additional_reasons, *live.news)
    live.news = ()
    return msgspec.structs.replace(event, info=msgspec.structs.replace(info, additional_reasons=tuple(reasons)))
