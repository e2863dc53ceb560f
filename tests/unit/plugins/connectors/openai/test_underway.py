from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from propfan.plugins.connectors.openai import underway
from propfan.plugins.connectors.openai.underway import Underway

pytestmark = pytest.mark.anyio


async def test_who_asks_again_joins_even_after_the_first_gave_up() -> None:
    works, gate, begun = Underway[int](), anyio.Event(), []

    async def work() -> int:
        begun.append(1)
        await gate.wait()
        return 7

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(works.join, "a", work)
            while not begun:
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    gate.set()
    assert await works.join("a", work) == 7
    assert await works.join("a", work) == 7
    assert len(begun) == 1


async def test_what_failed_begins_anew_and_what_is_forgotten_ends() -> None:
    works = Underway[int]()
    answers: list[int | Exception] = [7, ValueError("no")]

    async def work() -> int:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def endless() -> int:
        await anyio.sleep_forever()
        return 7

    with pytest.raises(ValueError, match="no"):
        await works.join("a", work)
    assert await works.join("a", work) == 7
    works.begin("b", endless)
    task = works.find("b")
    assert task is not None
    works.forget("b")
    await works.close()
    with anyio.fail_after(30):
        while not task.done():
            await anyio.lowlevel.checkpoint()
    assert task.cancelled()
    assert works.find("b") is None


async def test_only_so_many_ends_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "_KEPT", 3)
    works = Underway[int]()

    async def work() -> int:
        return 7

    for number in range(10):
        await works.join(str(number), work)
    assert [number for number in range(10) if works.find(str(number))] == [6, 7, 8, 9]
