"""The pods that operators run for tasks, as the watch shows them, by task.

An operator's pods are owned by what it made of the task's object, not by the TaskAction. They wear the
labels of the execution, because plugins put these on every pod template: run and action say whose they are.
A pod that is itself the task's object is not kept twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from propfan.engine.cluster import ObservedObject, WatchEvent, WatchEventType
from propfan.engine.reconcile.live_task import LiveTask
from propfan.pluginmachinery.names import sanitize_label_value

Owner = tuple[str, str, str]
"""Namespace, and the values of the labels for run and action."""


class TaskPods:
    """Who owns which pod. Those of live tasks are kept, as the JSON that came.

    Args:
        on_change: Called with a task after some of its pods have changed.
    """

    def __init__(self, on_change: Callable[[LiveTask], None]) -> None:
        self._on_change: Final = on_change
        self._tasks: Final[dict[Owner, LiveTask]] = {}
        self._early: dict[Owner, dict[str, bytes]] | None = {}
        """Pods that were seen before their tasks; ``None`` once all tasks are known."""

    def add(self, live: LiveTask) -> None:
        """From now on the task knows its pods, and is told of changes."""
        owner = _owner_of_task(live)
        self._tasks[owner] = live
        live.pods = (self._early.pop(owner, None) if self._early is not None else None) or {}

    def drop(self, live: LiveTask) -> None:
        """The task is told no more. It keeps what it knew."""
        owner = _owner_of_task(live)
        if self._tasks.get(owner) is live:
            del self._tasks[owner]

    def expect_tasks(self) -> None:
        """Pods are about to be listed before their tasks."""
        self._early = {}

    def all_tasks_known(self) -> None:
        """What is left of the pods belongs to tasks that are over, or are not driven here."""
        self._early = None

    def on_event(self, event: WatchEvent) -> None:
        """Takes in a change of a pod."""
        owner, name = _owner_of_pod(event.object), event.object.metadata.name
        live = self._tasks.get(owner)
        if live is not None:
            pods = live.pods
        elif self._early is not None:
            pods = self._early.setdefault(owner, {})
        else:
            return
        assert pods is not None
        before = pods.get(name)
        if event.type is WatchEventType.DELETED:
            pods.pop(name, None)
            is_news = before is not None
        else:
            is_news = before != event.object.raw  # a list tells again what is known
            if is_news:
                pods[name] = event.object.raw
        if is_news and live is not None:
            self._on_change(live)

    def on_listed(self, namespace: str, keys: frozenset[tuple[str, str]]) -> None:
        """Takes in that there are no other pods in the namespace, or in all."""
        for live in list(self._tasks.values()):
            if namespace in ("", live.key.namespace) and _forget(live.pods, live.key.namespace, keys):
                self._on_change(live)


def _forget(pods: dict[str, bytes] | None, namespace: str, keys: frozenset[tuple[str, str]]) -> bool:
    """Whether there were pods that are not among the keys."""
    gone = [name for name in pods or () if (namespace, name) not in keys]
    for name in gone:
        assert pods is not None
        del pods[name]
    return bool(gone)


def _owner_of_task(live: LiveTask) -> Owner:
    identity = live.identity
    return live.key.namespace, sanitize_label_value(identity.run), sanitize_label_value(identity.action)


def _owner_of_pod(pod: ObservedObject) -> Owner:
    labels = pod.metadata.labels
    return pod.metadata.namespace, labels.get("run", ""), labels.get("action", "")
