"""One life of the engine: every call to the outside passes here, may fail, and may be the last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from tests.simulation.dice import Dice
from tests.simulation.plan import Faults

T = TypeVar("T")

Tell = Callable[[str], None]


class Life:
    """Between a start and a crash. After ``has_died`` no call of this life does or returns anything.

    Args:
        crash_at: The call that it dies at, just before or just after it; ``None`` never.
        tell: Takes the lines of the trace.
    """

    def __init__(self, number: int, dice: Dice, faults: Faults, crash_at: int | None, tell: Tell) -> None:
        self.number: Final = number
        self.dice: Final = dice
        self.faults: Final = faults
        self.has_died: Final = anyio.Event()
        self._crash_at: Final = crash_at
        self._tell: Final = tell
        self._calls = 0
        self._lists = 0

    @property
    def is_troubled(self) -> bool:
        """Whether the time of faults is not over."""
        return asyncio.get_running_loop().time() < self.faults.until_s

    def is_down(self, part: str) -> bool:
        now = asyncio.get_running_loop().time()
        return any(what == part and begin <= now < end for what, begin, end in self.faults.down)

    def tell(self, text: str) -> None:
        self._tell(f"life {self.number}: {text}")

    async def call(
        self,
        name: str,
        action: Callable[[], Awaitable[T]],
        *,
        before: Callable[[int], Exception | None] = lambda _: None,
        after: Callable[[int], Exception | None] = lambda _: None,
    ) -> T:
        """Does ``action`` unless it is the time to fail or die.

        Args:
            before: The error to fail with instead of doing it, given the number of the call.
            after: The error to tell although it was done.
        """
        number = self._calls
        self._calls += 1
        crash = (self._crash_at == number) and ("before" if self.dice.chance(0.5, "side", self.number) else "after")
        if crash == "before":
            await self._die(f"before {name}")
        await self._delay(number, "before")
        refusal = before(number)
        if refusal is not None:
            self.tell(f"#{number} {name} -> {type(refusal).__name__}")
            raise refusal
        try:
            result = await action()
        except Exception as error:
            self.tell(f"#{number} {name} -> {type(error).__name__}")
            raise
        if crash == "after":
            await self._die(f"after {name}")
        lie = after(number)
        if lie is not None:
            self.tell(f"#{number} {name} done, but -> {type(lie).__name__}")
            raise lie
        await self._delay(number, "after")
        self.tell(f"#{number} {name}")
        return result

    async def _delay(self, number: int, side: str) -> None:
        if self.has_died.is_set():
            await silence()
        if self.is_troubled and self.dice.chance(self.faults.slow, "slow", self.number, number, side):
            await anyio.sleep(self.dice.uniform(0.0, self.faults.latency_s, "latency", self.number, number, side))
            if self.has_died.is_set():
                await silence()

    async def _die(self, where: str) -> None:
        self.tell(f"dies {where}")
        self.has_died.set()
        await silence()


async def silence() -> None:
    """Never returns; a dead engine is cancelled here."""
    await asyncio.get_running_loop().create_future()
