"""The end of a replica's right to act, known to it before anybody else may take its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import msgspec

from propfan.engine.cluster import Cluster, Kind, ObservedObject
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.task_events import EventSink, TaskEvent
from propfan.pluginmachinery.errors import UnavailableError

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_LOOK_S: Final = 0.25


def boot_time_s() -> float:
    """A clock that nobody sets and that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(_CLOCK)


class Fence:
    """Open until a deadline, which renewals push on. Once it is shut it stays shut."""

    def __init__(self, now_s: Callable[[], float] = boot_time_s) -> None:
        self._now_s: Final = now_s
        self._until_s = now_s()
        self._is_shut = False
        self.why = "the lease was not renewed in time"
        self._has_shut: Final = anyio.Event()

    def begin(self, until_s: float) -> None:
        """Opens it for the first time."""
        self._until_s = until_s

    def extend(self, until_s: float) -> None:
        """Of no effect on one that is shut, also when nobody has noticed that yet."""
        if self.is_open:
            self._until_s = max(self._until_s, until_s)

    def shut(self, why: str) -> None:
        if not self._is_shut:
            self._is_shut, self.why = True, why
            self._has_shut.set()

    @property
    def is_open(self) -> bool:
        if not self._is_shut and self._now_s() >= self._until_s:
            self.shut(self.why)
        return not self._is_shut

    def may_act(self) -> bool:
        return self.is_open

    def check(self, target: str = "a write") -> None:
        """Raises ``UnavailableError`` once it is shut."""
        if not self.is_open:
            raise UnavailableError(target, f"this replica may not act any more: {self.why}")

    async def closed(self) -> None:
        """Returns as soon as it is shut, and a quarter of a second after its deadline at the latest."""
        while self.is_open:
            with anyio.move_on_after(min(_LOOK_S, max(0.0, self._until_s - self._now_s()))):
                await self._has_shut.wait()


class FencedCluster(ForwardingCluster):
    """A cluster that takes no writes once the fence is shut. Reads do no harm."""

    def __init__(self, cluster: Cluster, fence: Fence) -> None:
        super().__init__(cluster)
        self._fence: Final = fence

    def _check(self, kind: Kind, name: str) -> None:
        self._fence.check(f"{kind.kind} {name}")

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        self._check(kind, "to be created")
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
        self._check(kind, f"{namespace}/{name}")
        return await self._cluster.patch(
            kind, namespace, name, patch, subresource=subresource, resource_version=resource_version
        )

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        self._check(kind, f"{namespace}/{name}")
        await self._cluster.delete(kind, namespace, name, uid=uid, grace_period_s=grace_period_s)


class FencedSink:
    """A sink that takes no events once the fence is shut: another replica tells them."""

    def __init__(self, sink: EventSink, fence: Fence) -> None:
        self._sink: Final = sink
        self._fence: Final = fence

    async def record(self, events: Sequence[TaskEvent]) -> None:
        self._fence.check("event sink")
        await self._sink.record(events)
