"""Section ``quotas``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

QUEUE_LABEL: Final = "flyte.org/queue"
"""Of a TaskAction: the queue that its run names."""

_Cap = Annotated[int, Meta(ge=1, le=10_000_000)]
_Seconds = Annotated[float, Meta(ge=1, le=86_400)]


class QueueQuota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One queue.

    Attributes:
        max_running: Tasks of it that run at the same time; any number when absent.
        labels: On everything that its tasks run as, such as ``kueue.x-k8s.io/queue-name``.
    """

    max_running: _Cap | None = None
    labels: Mapping[str, str] = {}


class ProjectQuota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One project. With twice the ``weight`` of another it gets twice as much of what both want."""

    max_running: _Cap | None = None
    weight: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0


class DomainQuota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One domain, over all projects."""

    max_running: _Cap | None = None


class QuotasSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``quotas``: how many tasks run at the same time. Without any cap nobody waits and nothing is counted.

    Attributes:
        max_running: Over everything.
        queue_labels: Labels of TaskActions that name their queue; the first that is there counts.
        default_queue: Of tasks that name none.
        queues, projects, domains: By name. What is not named here is not bounded.
        tell_again_s: A task that waits looks anew this often, and tells its place in the line. It is told at once
            when its turn has come.
    """

    max_running: _Cap | None = None
    queue_labels: tuple[str, ...] = (QUEUE_LABEL, "kueue.x-k8s.io/queue-name")
    default_queue: str = "default"
    queues: Mapping[str, QueueQuota] = {}
    projects: Mapping[str, ProjectQuota] = {}
    domains: Mapping[str, DomainQuota] = {}
    tell_again_s: _Seconds = 300.0

    @property
    def is_any(self) -> bool:
        """Whether anything is bounded."""
        caps = [self.max_running]
        caps += [quota.max_running for quota in self.queues.values()]
        caps += [quota.max_running for quota in self.projects.values()]
        caps += [quota.max_running for quota in self.domains.values()]
        return any(cap is not None for cap in caps)

    def queue_of(self, labels: Mapping[str, str]) -> str:
        """The queue that a TaskAction's labels name."""
        named = (labels[name] for name in self.queue_labels if labels.get(name))
        return next(named, self.default_queue)

    def labels_of(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """What objects of such a TaskAction wear for its queue. The TaskAction's own labels go first."""
        queue = self.queues.get(self.queue_of(labels)) if self.queues else None
        if queue is None:
            return {}
        return {name: value for name, value in queue.labels.items() if name not in labels}
