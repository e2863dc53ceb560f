"""Writes that wait go together."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from propfan.engine.control_plane.batching import Batches

pytestmark = pytest.mark.anyio


async def test_what_waits_while_one_is_written_is_written_together_and_each_gets_its_own() -> None:
    batches: list[list[int]] = []
    first_may_end = anyio.Event()

    async def write(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        await first_may_end.wait()
        return [item * 10 for item in items]

    writer: Batches[int, int] = Batches(write)
    results: dict[int, int] = {}

    async def put(item: int) -> None:
        results[item] = await writer.put(item)

    async with anyio.create_task_group() as tasks:
        for item in range(4):
            tasks.start_soon(put, item)
        await anyio.wait_all_tasks_blocked()
        first_may_end.set()
    assert sorted(map(len, batches)) in ([4], [1, 3])
    assert results == {0: 0, 1: 10, 2: 20, 3: 30}


async def test_an_error_is_told_to_all_of_its_batch_and_to_no_other() -> None:
    async def write(items: Sequence[str]) -> Sequence[str]:
        if "bad" in items:
            raise ValueError("no")
        return items

    writer: Batches[str, str] = Batches(write)
    with pytest.raises(ValueError, match="no"):
        await writer.put("bad")
    assert await writer.put("good") == "good"
