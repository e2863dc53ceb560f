"""The cluster as one life of the engine sees it: late, partial, sometimes wrong, never inconsistent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

import anyio
import msgspec

from propfan.engine.cluster import Kind, LabelSelector, ObjectList, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.embedded.watching import Selector
from propfan.engine.forwarding import ForwardingCluster
from propfan.pluginmachinery.errors import (
    ApiError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    ThrottledError,
    UnavailableError,
)
from propfan.pluginmachinery.kubernetes_plugin import POD
from tests.simulation.life import Life
from tests.simulation.truth import Truth

T = TypeVar("T")

_LAG_OF_LISTS: Final = 40
"""Changes that a stale list may be behind by, at most."""


class FaultyCluster(ForwardingCluster):
    """A ``Cluster`` in front of ``truth`` for one life."""

    def __init__(self, truth: Truth, life: Life) -> None:
        super().__init__(truth.cluster)
        self._truth: Final = truth
        self._life: Final = life
        self._watches = 0
        self._listed: set[Kind] = set()

    async def get(self, kind: Kind, namespace: str, name: str) -> ObservedObject:
        return await self._call(f"get {kind} {name}", lambda: self._cluster.get(kind, namespace, name))

    async def create(self, kind: Kind, body: bytes) -> ObservedObject:
        name = f"create {kind} {_name(body)}"
        return await self._call(name, lambda: self._cluster.create(kind, body), writes=True, needs_room=kind == POD)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Any, **options: Any) -> ObservedObject:
        return await self._call(
            f"patch {kind} {name} {options.get('subresource', '')}",
            lambda: self._cluster.patch(kind, namespace, name, patch, **options),
            writes=True,
            may_conflict=True,
        )

    async def delete(self, kind: Kind, namespace: str, name: str, **options: Any) -> None:
        await self._call(
            f"delete {kind} {name}", lambda: self._cluster.delete(kind, namespace, name, **options), writes=True
        )

    async def list(self, kind: Kind, *, labels: LabelSelector | None = None, **options: Any) -> ObjectList:
        life = self._life
        is_stale = life.is_troubled and life.dice.chance(life.faults.stale_list, "stale", life.number, str(kind))
        is_first = kind not in self._listed

        async def action() -> ObjectList:
            if is_stale and is_first:
                return self._past(kind, labels)
            return await self._cluster.list(kind, labels=labels, **options)

        found = await self._call(f"list {kind}", action)
        self._listed.add(kind)
        return found

    def _past(self, kind: Kind, labels: LabelSelector | None) -> ObjectList:
        """The objects as they were some changes ago."""
        changes = self._truth.changes[kind]
        back = self._life.dice.integer(0, _LAG_OF_LISTS, "back", self._life.number, str(kind))
        kept = changes[: max(0, len(changes) - back)]
        if not kept:
            return ObjectList((), "1")
        found: dict[str, ObservedObject] = {}
        for event in kept:
            found.pop(event.object.metadata.name, None)
            if event.type is not WatchEventType.DELETED:
                found[event.object.metadata.name] = event.object
        selector = Selector("", labels)
        items = [seen for seen in found.values() if selector.matches(seen.metadata)]
        self._life.tell(f"list {kind} is {back} changes old")
        return ObjectList(items, kept[-1].object.metadata.resource_version)

    @asynccontextmanager
    async def watch(
        self, kind: Kind, *, resource_version: str, **options: Any
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        async def action() -> None:
            return None

        await self._call(f"watch {kind} {resource_version}", action)
        self._watches += 1
        number = self._watches
        async with (
            self._cluster.watch(kind, resource_version=resource_version, **options) as stream,
            aclosing(self._stream(kind, stream, number)) as told,
        ):
            yield told

    async def _stream(
        self, kind: Kind, truth: AsyncIterator[Sequence[WatchEvent]], watch: int
    ) -> AsyncGenerator[Sequence[WatchEvent]]:
        life = self._life
        faults, dice = life.faults, life.dice
        earlier: Sequence[WatchEvent] = ()
        turn = 0
        async for changes in truth:
            batch = changes
            turn += 1
            what = (life.number, watch, turn)
            if life.is_troubled:
                if faults.watch_lag_s:
                    await anyio.sleep(dice.uniform(0.0, faults.watch_lag_s, "lag", *what))
                if dice.chance(faults.watch_silent, "silent", *what):
                    life.tell(f"watch {kind} falls silent")
                    await anyio.sleep_forever()
                if dice.chance(faults.watch_expire, "expire", *what):
                    life.tell(f"watch {kind} expires")
                    raise ExpiredError(f"watch of {kind}", "simulated")
                if dice.chance(faults.watch_end, "end", *what):
                    life.tell(f"watch {kind} ends, {len(batch)} changes are not told")
                    if dice.chance(0.5, "end how", *what):
                        raise UnavailableError(f"watch of {kind}", "connection reset")
                    return
                if dice.chance(faults.watch_shuffle, "shuffle", *what):
                    batch = _shuffled(batch, life)
                if dice.chance(faults.watch_repeat, "repeat", *what):
                    batch = [*earlier, *batch]
            earlier = batch[-5:]
            life.tell(f"watch {kind} tells " + ", ".join(_short(event) for event in batch))
            yield batch

    async def _call(
        self,
        name: str,
        action: Callable[[], Awaitable[T]],
        *,
        writes: bool = False,
        needs_room: bool = False,
        may_conflict: bool = False,
    ) -> T:
        life = self._life
        faults, dice = life.faults, life.dice

        def before(number: int) -> ApiError | None:
            if life.is_down("cluster"):
                return UnavailableError(name, "simulated outage")
            if not life.is_troubled:
                return None
            if needs_room and dice.chance(faults.quota, "quota", life.number, number):
                return ForbiddenError(name, "exceeded quota: simulated")
            if dice.chance(faults.api_error, "api", life.number, number):
                return _error(dice.roll("which", life.number, number), name, may_conflict=may_conflict)
            return None

        def after(number: int) -> ApiError | None:
            if writes and life.is_troubled and dice.chance(faults.lost_answer, "lost", life.number, number):
                return UnavailableError(name, "simulated timeout after the write")
            return None

        return await life.call(name, action, before=before, after=after)


def _error(roll: float, name: str, *, may_conflict: bool) -> ApiError:
    if roll < 0.3:
        return ThrottledError(name, "simulated", retry_after_s=1.0 + 10 * roll)
    if roll < 0.6:
        return UnavailableError(name, "simulated")
    if roll < 0.8 or not may_conflict:
        return ApiError(name, "simulated: etcdserver: leader changed")
    return ConflictError(name, "simulated")


def _shuffled(batch: Sequence[WatchEvent], life: Life) -> Sequence[WatchEvent]:
    """In another order, but for the events of one object."""
    by_name: dict[str, list[WatchEvent]] = {}
    for event in batch:
        by_name.setdefault(event.object.metadata.name, []).append(event)
    names = sorted(by_name, key=lambda name: life.dice.roll("order", life.number, name, len(batch)))
    return [event for name in names for event in by_name[name]]


def _short(event: WatchEvent) -> str:
    meta = event.object.metadata
    return f"{event.type.value} {meta.name}@{meta.resource_version}"


def _name(body: bytes) -> str:
    return str(msgspec.json.decode(body)["metadata"]["name"])
