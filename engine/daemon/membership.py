"""One replica's part in a group that shares the shards, with nobody in charge.

Each replica renews its own lease, sees those of the others, and computes by itself which shards are
its own. It gives up what is not, and takes what is free: released, or held by a member whose lease
was not renewed for its whole duration, as measured on the own clock. A shard is taken by a write
that fails if anybody else wrote before. A replica that can not renew stops acting (its ``Fence``
shuts) well before anybody may find that out, so that no two ever drive the same shard.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import anyio
import structlog

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.config import ShardingSection
from propfan.engine.daemon import leases
from propfan.engine.daemon.assignment import assign
from propfan.engine.daemon.fence import Fence, boot_time_s
from propfan.engine.daemon.leases import LEASE, SeenLease
from propfan.engine.reconcile.watches import Watcher
from propfan.pluginmachinery.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError

logger = structlog.get_logger(__name__)

RENEWALS: Final = 4
"""In the duration of a lease."""

FENCE_AT: Final = 0.7
"""Part of the duration after which a replica that could not renew stops. What it sent before has the rest of
the duration to arrive."""

_RETRY: Final = 0.05
_SETTLE: Final = 0.1
_FORGET_AFTER: Final = 3.0
_QUARREL_S: Final = 2.0


class Work(Protocol):
    """What is done for shards."""

    def take_on(self, gained: frozenset[int]) -> None: ...

    async def hand_over(self, lost: frozenset[int], patience_s: float) -> None:
        """Returns when nothing is done for them any more."""
        ...


class Membership:
    """From joining to leaving, once.

    Args:
        namespace: Of the leases.
        replica: A name for people; the identity is made of it.
        work: Gets and loses shards.
        patience_s: Given to ``work`` to let shards go.

    Attributes:
        has_joined: Others know of this replica, and it may act.
        owned: The shards that this replica has.
        identity: Its own, never used again.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: ShardingSection,
        namespace: str,
        replica: str,
        fence: Fence,
        work: Work,
        clock: Clock,
        *,
        patience_s: float = 5.0,
        now_s: Callable[[], float] = boot_time_s,
    ) -> None:
        self._cluster: Final = cluster
        self._count: Final = config.shards
        self._duration_s: Final = config.lease_duration_s
        self._namespace: Final = namespace
        self._fence: Final = fence
        self._work: Final = work
        self._clock: Final = clock
        self._patience_s: Final = patience_s
        self._now_s: Final = now_s
        self._names: Final = leases.LeaseNames(config.group)
        self.identity: Final = f"{replica}-{secrets.token_hex(4)}"
        self.owned: frozenset[int] = frozenset()
        self._leases: Final[dict[str, SeenLease]] = {}
        self._absent: Final[dict[str, float]] = {}
        """Holders of shards that have no lease, and since when that is known."""
        self.has_joined = False
        self._is_leaving = False
        self._news = anyio.Event()
        self._moving: Final = anyio.Lock()
        self._watcher: Final = Watcher(
            cluster,
            LEASE,
            namespace=namespace,
            labels={leases.GROUP_LABEL: config.group},
            on_event=self._on_event,
            on_listed=self._on_listed,
            longest_wait_s=config.lease_duration_s * _SETTLE,
            silence_s=2 * config.lease_duration_s,
        )

    async def run(self) -> None:
        """Takes part until it is cancelled or the fence is shut."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watcher.run)
            await self._watcher.is_synced.wait()
            await self._join()
            tasks.start_soon(self._renew)
            tasks.start_soon(self._settle)
            await self._fence.closed()
            tasks.cancel_scope.cancel()

    async def leave(self, patience_s: float) -> None:
        """Gives everything up, so that others go on at once. ``run`` must go on meanwhile."""
        if not self.has_joined:
            return
        self._is_leaving = True
        try:
            note = {"metadata": {"annotations": {leases.LEAVING_ANNOTATION: "true"}}}
            if self._fence.is_open:
                await self._cluster.patch(LEASE, self._namespace, self._own_name, note)
        except ApiError as error:
            logger.warning("the other replicas can not be told that this one leaves", error=str(error))
        async with self._moving:
            await self._give_up(self.owned, patience_s)
        try:
            await self._cluster.delete(LEASE, self._namespace, self._own_name)
        except ApiError as error:
            logger.warning("own lease is left to expire", error=str(error))

    @property
    def members(self) -> Sequence[str]:
        """Identities of the replicas that are alive and stay, with this one."""
        alive = {
            self._names.identity_of(lease.name)
            for lease in self._leases.values()
            if self._is_member(lease) and self._is_alive(lease) and lease.shards == self._count and not lease.is_leaving
        }
        return sorted(alive if self._is_leaving else alive | {self.identity})

    # -- What is seen ------------------------------------------------------------------------------

    def _on_event(self, event: WatchEvent) -> None:
        if event.type is WatchEventType.DELETED:
            if self._leases.pop(event.object.metadata.name, None) is not None:
                self._news.set()
            return
        self._see(event.object)

    def _on_listed(self, keys: frozenset[tuple[str, str]]) -> None:
        names = {name for _, name in keys}
        for name in [name for name in self._leases if name not in names]:
            del self._leases[name]
        self._news.set()

    def _see(self, lease: ObservedObject) -> SeenLease:
        """Notes a lease; one that is no newer than what is known keeps the time when that was seen."""
        known = self._leases.get(lease.metadata.name)
        if (
            known is not None
            and known.uid == lease.metadata.uid
            and int(lease.metadata.resource_version) <= int(known.version)
        ):
            return known
        seen = self._leases[lease.metadata.name] = leases.seen_at(self._now_s(), lease)
        if known is None or known.gist != seen.gist:
            self._news.set()
        return seen

    def _is_member(self, lease: SeenLease) -> bool:
        return self._names.identity_of(lease.name) != ""

    def _is_alive(self, lease: SeenLease) -> bool:
        return self._now_s() - lease.since_s < self._duration_s

    def _others_count(self) -> Sequence[str]:
        """Live members that divide the tasks into another number of shards."""
        return sorted(
            lease.name
            for lease in self._leases.values()
            if self._is_member(lease) and self._is_alive(lease) and lease.shards != self._count
        )

    async def _is_dead(self, holder: str) -> bool:
        """Whether the holder of a shard has lost it for sure; a live read confirms what the watch told."""
        name = self._names.member(holder)
        known = self._leases.get(name)
        now_s = self._now_s()
        if known is not None:
            self._absent.pop(holder, None)
            if self._is_alive(known):
                return False
        elif now_s - self._absent.setdefault(holder, now_s) < self._duration_s:
            return False
        try:
            latest = await self._cluster.get(LEASE, self._namespace, name)
        except NotFoundError:
            return known is None
        return self._see(latest) is known

    # -- Joining and staying -----------------------------------------------------------------------

    @property
    def _own_name(self) -> str:
        return self._names.member(self.identity)

    async def _join(self) -> None:
        while not self.has_joined:
            if others := self._others_count():
                logger.error(
                    "replicas with another number of shards are alive: stop them, or give all the same sharding.shards",
                    shards=self._count,
                    replicas=others,
                )
                await _quarrel()
                continue
            try:
                sent_s = await self._announce()
                if self._others_count():  # somebody joined in the same moment; both step back, for times of their own
                    await self._cluster.delete(LEASE, self._namespace, self._own_name)
                    await _quarrel()
                    continue
            except ApiError as error:
                logger.warning("can not join the other replicas", error=str(error))
                await anyio.sleep(max(error.retry_after_s, self._duration_s * _RETRY))
                continue
            self._fence.begin(sent_s + self._duration_s * FENCE_AT)
            self.has_joined = True
            logger.info("joined", identity=self.identity, members=self.members)

    async def _announce(self) -> float:
        """Makes the own lease and looks who else is there; the time from which it counts."""
        sent_s = self._now_s()
        spec = leases.held_by(self.identity, self._duration_s, self._clock.now())
        annotations = {leases.SHARDS_ANNOTATION: str(self._count)}
        body = leases.new_lease(self._names, self._namespace, self._own_name, spec, annotations)
        try:
            self._see(await self._cluster.create(LEASE, body))
        except AlreadyExistsError:  # made by a try whose answer was lost: it may be old by now
            sent_s = self._now_s()
            patch = {"spec": {"renewTime": leases.micro_time(self._clock.now())}}
            self._see(await self._cluster.patch(LEASE, self._namespace, self._own_name, patch))
        await self._look_again()
        return sent_s

    async def _look_again(self) -> None:
        """After the own lease was made: of two that join at once, one at least sees the other."""
        token = ""
        while True:
            page = await self._cluster.list(
                LEASE,
                namespace=self._namespace,
                labels={leases.GROUP_LABEL: self._names.group},
                continue_token=token,
            )
            for lease in page.items:
                self._see(lease)
            token = page.continue_token
            if not token:
                return

    async def _renew(self) -> None:
        interval_s = self._duration_s / RENEWALS
        wait_s = interval_s
        while True:
            await anyio.sleep(wait_s)
            sent_s = self._now_s()
            patch = {"spec": {"renewTime": leases.micro_time(self._clock.now())}}
            try:
                with anyio.fail_after(interval_s):
                    await self._cluster.patch(LEASE, self._namespace, self._own_name, patch)
            except NotFoundError:
                self._fence.shut("the lease of this replica was deleted")
                return
            except (ApiError, TimeoutError) as error:
                logger.warning("lease is not renewed", error=str(error) or "no answer")
                wait_s = self._duration_s * _RETRY
                continue
            self._fence.extend(sent_s + self._duration_s * FENCE_AT)
            wait_s = interval_s

    # -- Shards ------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Brings what this replica has to what it should have, whenever something changes and now and then."""
        while True:
            self._news = anyio.Event()
            if not self._is_leaving:
                try:
                    async with self._moving:
                        await self._settle_once()
                except ApiError as error:
                    logger.warning("shards can not be settled", error=str(error))
            with anyio.move_on_after(self._duration_s * _SETTLE):
                await self._news.wait()

    async def _settle_once(self) -> None:
        holders = {
            shard: lease.holder
            for lease in list(self._leases.values())
            if (shard := self._names.shard_of(lease.name)) is not None and lease.holder
        }
        stolen = [shard for shard in self.owned if holders.get(shard) != self.identity]
        if stolen:
            self._fence.shut(f"somebody else wrote the leases of shards {stolen}")
            return
        target = assign(self._count, self.members, holders)
        wanted = {shard for shard, member in target.items() if member == self.identity}
        if surplus := self.owned - wanted:
            await self._give_up(surplus, self._patience_s)
        if not self._others_count():
            await self._take(sorted(wanted - self.owned))
        await self._bury(set(holders.values()))

    async def _take(self, shards: Sequence[int]) -> None:
        taken: list[int] = []

        async def take(shard: int) -> None:
            if await self._take_one(shard):
                taken.append(shard)

        async with anyio.create_task_group() as tasks:
            for shard in shards:
                tasks.start_soon(take, shard)
        if taken and self._fence.is_open:
            self.owned |= frozenset(taken)
            logger.info("took shards", shards=sorted(taken), owned=len(self.owned))
            self._work.take_on(frozenset(taken))

    async def _take_one(self, shard: int) -> bool:
        name = self._names.shard(shard)
        known = self._leases.get(name)
        transitions = known.transitions + 1 if known is not None else 0
        spec = leases.held_by(self.identity, self._duration_s, self._clock.now(), transitions)
        try:
            if known is None:
                answer = await self._cluster.create(
                    LEASE, leases.new_lease(self._names, self._namespace, name, spec, {})
                )
            else:
                if known.holder and not await self._is_dead(known.holder):
                    return False
                answer = await self._cluster.patch(
                    LEASE, self._namespace, name, {"spec": spec}, resource_version=known.version
                )
        except (AlreadyExistsError, ConflictError, NotFoundError):
            return False  # the watch tells what has happened
        except ApiError as error:
            logger.warning("shard is not taken", shard=shard, error=str(error))
            return False
        self._see(answer)
        return True

    async def _give_up(self, shards: frozenset[int], patience_s: float) -> None:
        """Nothing is done for them any more when others are told."""
        if not shards:
            return
        await self._work.hand_over(shards, patience_s)
        self.owned -= shards
        async with anyio.create_task_group() as tasks:
            for shard in shards:
                tasks.start_soon(self._release, shard)
        logger.info("gave up shards", shards=sorted(shards), owned=len(self.owned))

    async def _release(self, shard: int) -> None:
        name = self._names.shard(shard)
        known = self._leases.get(name)
        if known is None or known.holder != self.identity:
            return
        try:
            self._see(
                await self._cluster.patch(
                    LEASE, self._namespace, name, {"spec": {"holderIdentity": ""}}, resource_version=known.version
                )
            )
        except ApiError as error:
            logger.warning("shard is left to expire", shard=shard, error=str(error))

    async def _bury(self, holders: set[str]) -> None:
        """Deletes the leases of members that were lost long ago and have nothing any more."""
        for lease in list(self._leases.values()):
            identity = self._names.identity_of(lease.name)
            if not identity or identity == self.identity or identity in holders:
                continue
            if self._now_s() - lease.since_s > self._duration_s * _FORGET_AFTER and await self._is_dead(identity):
                try:
                    await self._cluster.delete(LEASE, self._namespace, lease.name, uid=lease.uid)
                except (NotFoundError, ConflictError):
                    continue


async def _quarrel() -> None:
    await anyio.sleep(_QUARREL_S + random.uniform(0, _QUARREL_S))  # noqa: S311 - no secret
