"""Many seeds, on all cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence

from tests.simulation import world

_CHUNK = 20


def outcomes(seeds: range, jobs: int) -> Iterator[tuple[int, list[str]]]:
    """Each seed with what it found, in order."""
    if jobs <= 1:
        yield from map(_play, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_play, seeds, chunksize=_CHUNK)


def _play(seed: int) -> tuple[int, list[str]]:
    return seed, world.run(seed).problems


def explain(seed: int, problems: Sequence[str]) -> str:
    """What was found, and the one command that shows it again."""
    lines = "\n".join(f"  {problem}" for problem in problems[:8])
    return f"seed {seed} failed:\n{lines}\n  replay: python -m tests.simulation --seed {seed} --trace"
