"""Chance that does not depend on the order in which it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, TypeVar

T = TypeVar("T")


class Dice:
    """Each throw is a pure function of the seed and of what it is for."""

    def __init__(self, seed: int) -> None:
        self.seed: Final = seed

    def roll(self, *what: object) -> float:
        """From 0 up to, not including, 1."""
        digest = blake2b(repr((self.seed, what)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def chance(self, probability: float, *what: object) -> bool:
        return probability > 0 and self.roll(*what) < probability

    def uniform(self, low: float, high: float, *what: object) -> float:
        return low + (high - low) * self.roll(*what)

    def integer(self, low: int, high: int, *what: object) -> int:
        """Both ends included."""
        return low + int((high - low + 1) * self.roll(*what))

    def pick(self, among: Sequence[T], *what: object) -> T:
        return among[int(len(among) * self.roll(*what))]
