"""Replicas that share shards by Leases, on virtual time, while they are killed, stopped and cut off."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import msgspec
import pytest

from propfan.engine.cluster import Kind, ObservedObject, WatchEvent
from propfan.engine.config import ShardingSection
from propfan.engine.daemon.fence import Fence, FencedCluster
from propfan.engine.daemon.leases import LEASE
from propfan.engine.daemon.membership import Membership
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.errors import NotFoundError, UnavailableError
from tests.simulation.virtual_time import VirtualClock, VirtualLoop

pytestmark = pytest.mark.anyio

CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
SHARDS: Final = 16
WORK_EVERY_S: Final = 0.05
MOVED_WITHIN_S: Final = 15.0


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Wire:
    """A replica's way to the API server. A stopped replica does nothing, and its clock stands still for it."""

    def __init__(self, truth: EmbeddedCluster, now_s: Any) -> None:
        self._truth: Final = truth
        self._truth_now_s: Final = now_s
        self._stopped_at: float | None = None
        self._go_on = anyio.Event()
        self.is_cut = False

    def now_s(self) -> float:
        return self._truth_now_s() if self._stopped_at is None else self._stopped_at

    def stop(self) -> None:
        self._stopped_at, self._go_on = self._truth_now_s(), anyio.Event()

    def go_on(self) -> None:
        self._stopped_at = None
        self._go_on.set()

    async def passed(self) -> None:
        while self._stopped_at is not None:
            await self._go_on.wait()
        if self.is_cut:
            await anyio.sleep(0.2)
            raise UnavailableError("API server", "cut off")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._truth, name)

        async def call(*args: Any, **more: Any) -> Any:
            await self.passed()
            return await method(*args, **more)

        return call

    @asynccontextmanager
    async def watch(self, *args: Any, **more: Any) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        await self.passed()
        async with self._truth.watch(*args, **more) as stream:

            async def told() -> AsyncIterator[Sequence[WatchEvent]]:
                async for batch in stream:
                    await self.passed()
                    yield batch

            yield told()


class Replica:
    """Writes all the time for each of its shards, as a reconciler would."""

    def __init__(self, group: Group, name: str, shards: int = SHARDS) -> None:
        self.group: Final = group
        self.wire: Final = Wire(group.truth, group.now_s)
        self.shards: set[int] = set()
        self.name: Final = name
        self.count: Final = shards
        self.member: Membership | None = None
        self.scope = anyio.CancelScope()
        self.terms = 0

    def take_on(self, gained: frozenset[int]) -> None:
        self.shards |= gained

    async def hand_over(self, lost: frozenset[int], patience_s: float) -> None:
        self.shards -= lost

    async def run(self) -> None:
        with self.scope:
            while True:
                self.terms += 1
                self.shards.clear()
                fence = Fence(self.wire.now_s)
                config = ShardingSection(shards=self.count)
                self.member = Membership(
                    self.wire, config, "ns", self.name, fence, self, self.group.clock, now_s=self.wire.now_s
                )  # fmt: skip
                fenced = FencedCluster(self.group.truth, fence)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._work, fenced, self.member)
                    await self.member.run()
                    tasks.cancel_scope.cancel()

    async def _work(self, fenced: FencedCluster, member: Membership) -> None:
        while True:
            for shard in sorted(self.shards):
                try:
                    await self.wire.passed()
                    await fenced.patch(CONFIG_MAP, "ns", f"shard-{shard}", {"data": {"by": member.identity}})
                except UnavailableError:
                    continue
                await self.group.wrote(shard, member.identity)
            await anyio.sleep(WORK_EVERY_S)


class Group:
    """``problems`` are writes for a shard by one who does not hold its lease."""

    def __init__(self, truth: EmbeddedCluster, tasks: Any) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.truth: Final = truth
        self.now_s: Final = loop.time
        self.clock: Final = VirtualClock(loop)
        self.replicas: Final[list[Replica]] = []
        self.problems: Final[list[str]] = []
        self._tasks: Final = tasks
        self.last_write: Final[dict[int, float]] = {}

    def start(self, name: str, shards: int = SHARDS) -> Replica:
        replica = Replica(self, name, shards)
        self.replicas.append(replica)
        self._tasks.start_soon(replica.run)
        return replica

    def kill(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        replica.scope.cancel()

    async def wrote(self, shard: int, identity: str) -> None:
        holder = await self.holder(shard)
        self.last_write[shard] = self.now_s()
        if holder != identity:
            self.problems.append(f"{self.now_s():.2f} s: {identity} wrote for shard {shard} of {holder or 'nobody'}")

    async def holder(self, shard: int) -> str:
        return str(msgspec.json.decode((await self.lease(shard)).raw)["spec"]["holderIdentity"])

    async def lease(self, shard: int) -> ObservedObject:
        return await self.truth.get(LEASE, "ns", f"propfan-shard-{shard}")

    async def until_settled(self, *sizes: int) -> None:
        """Until the shards are spread in such shares over the replicas, and are all worked for."""
        with anyio.fail_after(MOVED_WITHIN_S):
            while True:
                shares = sorted(len(replica.shards) for replica in self.replicas)
                busy = all(self.now_s() - self.last_write.get(shard, -9e9) < 1.0 for shard in range(SHARDS))
                if shares == sorted(sizes) and sum(shares) == SHARDS and busy:
                    return
                await anyio.sleep(0.1)


@asynccontextmanager
async def group() -> AsyncIterator[Group]:
    async with EmbeddedCluster.open() as truth, anyio.create_task_group() as tasks:
        for shard in range(SHARDS):
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"shard-{shard}", "namespace": "ns"}}
            await truth.create(CONFIG_MAP, msgspec.json.encode(body))
        made = Group(truth, tasks)
        yield made
        tasks.cancel_scope.cancel()
        assert made.problems == []


async def test_one_replica_has_all_shards_at_once() -> None:
    async with group() as it:
        it.start("a")
        began = it.now_s()
        await it.until_settled(16)
        assert it.now_s() - began < 1.5


async def test_newcomers_get_their_share_at_once() -> None:
    async with group() as it:
        it.start("a")
        await it.until_settled(16)
        began = it.now_s()
        it.start("b")
        await it.until_settled(8, 8)
        it.start("c")
        await it.until_settled(5, 5, 6)
        assert it.now_s() - began < 5


async def test_shards_of_a_killed_replica_move() -> None:
    async with group() as it:
        it.start("a")
        lost = it.start("b")
        await it.until_settled(8, 8)
        it.kill(lost)
        await it.until_settled(16)


async def test_a_replica_that_leaves_gives_its_shards_to_the_others_at_once() -> None:
    async with group() as it:
        it.start("a")
        leaving = it.start("b")
        await it.until_settled(8, 8)
        began = it.now_s()
        assert leaving.member is not None
        await leaving.member.leave(5.0)
        it.kill(leaving)
        await it.until_settled(16)
        assert it.now_s() - began < 1.5
        with pytest.raises(NotFoundError):
            await it.truth.get(LEASE, "ns", f"propfan-member-{leaving.member.identity}")


async def test_a_stopped_replica_finds_itself_replaced_and_joins_anew() -> None:
    async with group() as it:
        it.start("a")
        stopped = it.start("b")
        await it.until_settled(8, 8)
        stopped.wire.stop()
        await anyio.sleep(30)
        assert len(it.replicas[0].shards) == SHARDS
        stopped.wire.go_on()
        await it.until_settled(8, 8)
        assert stopped.terms == 2


async def test_a_short_stop_changes_nothing() -> None:
    async with group() as it:
        it.start("a")
        stopped = it.start("b")
        await it.until_settled(8, 8)
        mine = set(stopped.shards)
        for _ in range(5):
            stopped.wire.stop()
            await anyio.sleep(3)
            stopped.wire.go_on()
            await anyio.sleep(3)
        assert (stopped.terms, stopped.shards) == (1, mine)


async def test_a_replica_that_is_cut_off_stops_before_it_is_replaced() -> None:
    async with group() as it:
        it.start("a")
        cut = it.start("b")
        await it.until_settled(8, 8)
        mine = set(cut.shards)
        cut.wire.is_cut = True
        await anyio.sleep(7.5)
        assert not cut.shards & mine
        await anyio.sleep(7.5)
        assert len(it.replicas[0].shards) == SHARDS
        cut.wire.is_cut = False
        await it.until_settled(8, 8)


async def test_an_outage_of_the_api_server_is_survived_by_all() -> None:
    async with group() as it:
        for name in "abc":
            it.start(name)
        await it.until_settled(5, 5, 6)
        for replica in it.replicas:
            replica.wire.is_cut = True
        await anyio.sleep(60)
        for replica in it.replicas:
            replica.wire.is_cut = False
        await it.until_settled(5, 5, 6)


async def test_replicas_with_another_number_of_shards_wait_until_the_others_are_gone() -> None:
    async with group() as it:
        old = it.start("old")
        await it.until_settled(16)
        new = it.start("new", shards=8)
        await anyio.sleep(60)
        assert (len(old.shards), len(new.shards)) == (16, 0)
        it.kill(old)
        await anyio.sleep(20)
        assert len(new.shards) == 8


async def test_of_replicas_that_disagree_one_kind_alone_gets_to_work() -> None:
    async with group() as it:
        one, other = it.start("one"), it.start("other", shards=8)
        await anyio.sleep(60)
        assert bool(one.shards) != bool(other.shards)


async def test_a_stolen_shard_makes_a_replica_start_anew() -> None:
    async with group() as it:
        it.start("a")
        await it.until_settled(16)
        await it.truth.patch(LEASE, "ns", "propfan-shard-3", {"spec": {"holderIdentity": "thief"}})
        await anyio.sleep(2)
        assert it.replicas[0].terms == 2
        it.problems.clear()
        await anyio.sleep(15)
        await it.until_settled(16)


async def test_leases_of_the_lost_are_cleared_away() -> None:
    async with group() as it:
        it.start("a")
        lost = it.start("b")
        await it.until_settled(8, 8)
        it.kill(lost)
        await anyio.sleep(60)
        found = [lease.metadata.name for lease in (await it.truth.list(LEASE)).items]
        assert [name for name in found if "-member-b" in name] == []


@pytest.mark.parametrize("seed", range(5))
async def test_no_two_ever_work_for_one_shard_whatever_happens(seed: int) -> None:
    dice = random.Random(seed)
    async with group() as it:
        for number in range(3):
            it.start(f"r{number}")
        for number in range(3, 40):
            match dice.choice(("kill", "start", "stop", "stop", "cut", "cut", "leave")):
                case "kill" if len(it.replicas) > 1:
                    it.kill(dice.choice(it.replicas))
                case "start" if len(it.replicas) < 5:
                    it.start(f"r{number}")
                case "stop":
                    replica = dice.choice(it.replicas)
                    replica.wire.stop()
                    await anyio.sleep(dice.uniform(0, 25))
                    replica.wire.go_on()
                case "cut":
                    victims = dice.sample(it.replicas, dice.randint(1, len(it.replicas)))
                    for replica in victims:
                        replica.wire.is_cut = True
                    await anyio.sleep(dice.uniform(0, 25))
                    for replica in victims:
                        replica.wire.is_cut = False
                case "leave" if len(it.replicas) > 1:
                    replica = dice.choice(it.replicas)
                    if replica.member is not None:
                        await replica.member.leave(1.0)
                    it.kill(replica)
            await anyio.sleep(dice.choice((0.1, 1.0, 5.0)))
        share, larger = divmod(SHARDS, len(it.replicas))
        await anyio.sleep(20)
        await it.until_settled(*(share + (rank < larger) for rank in range(len(it.replicas))))


async def test_each_shard_is_taken_once_when_nothing_happens() -> None:
    async with group() as it:
        for name in "abc":
            it.start(name)
        await it.until_settled(5, 5, 6)
        before = Counter({shard: int((await it.lease(shard)).metadata.resource_version) for shard in range(SHARDS)})
        await anyio.sleep(120)
        after = Counter({shard: int((await it.lease(shard)).metadata.resource_version) for shard in range(SHARDS)})
        assert after == before
