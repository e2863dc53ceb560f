"""An engine that dies at any of its writes leaves shared clusters and their jobs to the next one, which ends them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import anyio
import pytest

from propfan.engine.cluster import TASK_ACTION, Kind, ObservedObject
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.errors import NotFoundError
from tests.unit.engine.reconcile.shared_rig import TEAM, WORK, make, status_of, working

WRITES: Final = ("create", "patch", "delete")


class Mortal:
    """The cluster as seen by a process that dies at its ``last`` write: ``after`` that is done, or before."""

    def __init__(self, cluster: EmbeddedCluster, last: int, *, after: bool) -> None:
        self._cluster: Final = cluster
        self._left = last
        self._after: Final = after
        self.is_dead: Final = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._cluster, name)
        if name not in WRITES:
            return call

        async def written(*args: Any, **more: Any) -> Any:
            self._left -= 1
            done = await call(*args, **more) if self._left > 0 or (self._left == 0 and self._after) else None
            if self._left <= 0:
                self.is_dead.set()
                await anyio.sleep_forever()  # until the process is gone: nothing more comes of it
            return done

        return written


class Operator:
    """Makes every team ready and every work done; ``made`` counts what it has ever seen of each name."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster: Final = cluster
        self._seen: Final[set[str]] = set()
        self.made: Final[Counter[str]] = Counter()

    async def run(self) -> None:
        while True:
            for kind, state in ((TEAM, "ready"), (WORK, "done")):
                for found in (await self._cluster.list(kind)).items:
                    await self._move(kind, found, state)
            await anyio.sleep(0.001)

    async def _move(self, kind: Kind, found: ObservedObject, state: str) -> None:
        meta = found.metadata
        if meta.uid not in self._seen:
            self._seen.add(meta.uid)
            self.made[meta.name] += 1
        if status_of(found).get("state") != state:
            try:
                patch = {"status": {"state": state}}
                await self._cluster.patch(kind, meta.namespace, meta.name, patch, subresource="status")
            except NotFoundError:
                return


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("last", range(1, 17))
@pytest.mark.anyio
async def test_the_next_engine_ends_what_one_that_died_began(*, last: int, after: bool) -> None:
    names = ("r1", "r2")
    async with EmbeddedCluster.open() as cluster, anyio.create_task_group() as outside:
        operator = Operator(cluster)
        outside.start_soon(operator.run)
        submitter = make(cluster, idle_s=0.0)
        for name in names:
            await submitter.submit_to("red", name)
        mortal = Mortal(cluster, last, after=after)

        async def is_dead_or_done() -> bool:
            actions = (await cluster.list(TASK_ACTION)).items
            is_done = not any(action.metadata.finalizers for action in actions) and await submitter.teams() == []
            return is_done or mortal.is_dead.is_set()

        async with anyio.create_task_group() as process:
            process.start_soon(make(mortal, idle_s=0.0).reconciler.run)  # type: ignore[arg-type]
            await submitter.until(is_dead_or_done)
            process.cancel_scope.cancel()
        async with working(cluster, idle_s=0.0) as it:
            for name in names:
                status = await it.until_over(name)
                assert status.error_state is None
                assert status.attempts <= 1

            async def is_clean() -> bool:
                return await it.teams() == []

            await it.until(is_clean)
        assert [operator.made[f"{name}-a0-0"] for name in names] == [1, 1], "no task ran twice, none not at all"
        outside.cancel_scope.cancel()
