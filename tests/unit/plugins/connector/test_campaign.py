"""Many tasks while everything fails at random, by a seed: what holds whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from flyteidl2.connector import connector_pb2

from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from tests.unit.plugins.connector.rig import engine_at, quick_looks, submit, template
from tests.unit.plugins.connector.service import PHASES, Server, Service, serving

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

TASKS = 16
ENDS = (PHASES.SUCCEEDED, PHASES.SUCCEEDED, PHASES.FAILED, PHASES.RETRYABLE_FAILED)
LOST = (grpc.StatusCode.UNAVAILABLE,)
"""What comes in place of an answer when the call was done; an INTERNAL would say that there is no job."""
REFUSALS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)


class UnreliableService(Service):
    """Fails every fifth call: before it does anything, or after, by an error or by saying nothing."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.is_calm = False
        self.looks: Counter[bytes] = Counter()
        self.first = connector_pb2.Resource(phase=PHASES.RUNNING)

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        await super()._enter(method, request, context)
        if method != "ListConnectors":
            await self._may_fail(context, REFUSALS)
        if method == "GetTask":
            self.looks[request.resource_meta] += 1
            job = self.jobs.get(request.resource_meta)
            if job is not None and self.looks[request.resource_meta] == 2:
                job.answer = connector_pb2.Resource(phase=self.dice.choice(ENDS), message="its end")

    async def _leave(self, method: str, request: Any, context: Any) -> None:
        await super()._leave(method, request, context)
        await self._may_fail(context, LOST)

    async def _may_fail(self, context: Any, codes: tuple[grpc.StatusCode, ...]) -> None:
        if self.is_calm or self.dice.random() > 0.1:
            return
        if self.dice.random() < 0.3:
            await anyio.sleep_forever()
        trailing = (("grpc-retry-pushback-ms", "20"),)
        await context.abort(self.dice.choice(codes), "at random", trailing_metadata=trailing)


async def disturb(server: Server, dice: random.Random) -> None:
    """The server goes away and comes back."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(0.1, 0.5))
        with anyio.CancelScope(shield=True):
            await server.stop()
            await server.start()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_task_ends_and_no_job_is_left_or_made_twice(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    service = UnreliableService(dice)
    settings: dict[str, Any] = {
        "deployment": {"timeouts": dict.fromkeys(("CreateTask", "GetTask", "DeleteTask"), "250ms")},
        "webApi": {"caching": {"resyncInterval": "5s", "maxSystemFailures": 2}, "resourceQuotas": {"default": 6}},
        "pollIntervals": {"job": "1s"},
    }
    keys: list[TaskKey] = []
    statuses: list[TaskStatus] = []
    with anyio.fail_after(120):
        async with serving(service) as server:
            for life in range(3):
                async with (
                    anyio.create_task_group() as tasks,
                    engine_at(server.endpoint, tmp_path, **settings) as engine,
                ):
                    tasks.start_soon(disturb, server, dice)
                    if life == 0:
                        for number in range(TASKS):
                            keys.append(await submit(engine, template(retries=2), run_name=f"r{number}"))  # noqa: PERF401 - awaited
                    for key in dice.sample(keys, 2):
                        await engine.abort(key)
                    if life < 2:
                        await anyio.sleep(dice.uniform(0.5, 1.5))
                    else:
                        service.is_calm = True
                        statuses = [await engine.wait(key) for key in keys]
                        await engine.settled()
                    tasks.cancel_scope.cancel()
    assert {status.outcome for status in statuses} <= {Outcome.COMPLETED, Outcome.FAILED, Outcome.ABORTED}
    assert len(service.created) == len(set(service.created)), "a key makes one job"
    attempts = Counter(key.split("-a0-")[0] for key in service.created)
    assert all(attempts[status.run_name] <= 3 for status in statuses)
    finals = {PHASES.SUCCEEDED, PHASES.FAILED, PHASES.RETRYABLE_FAILED}
    left = [job.key for job in service.jobs.values() if not job.is_deleted and job.answer.phase not in finals]
    assert left == []
