"""All promises under faults. ``python -m tests.simulation`` runs more seeds, and replays one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.virtual_time import DeadlockError, VirtualLoop

ROOT = Path(__file__).parents[2]

SEEDS = int(os.environ.get("PROPFAN_SIMULATION_SEEDS", "5000"))


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """In processes of its own: the simulation has a loop, a clock and logs that are not those of other tests."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


def test_promises_hold_in_every_schedule() -> None:
    done = simulate("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", [347, 741, 1594])
def test_a_seed_is_one_schedule_bit_for_bit(seed: int) -> None:
    first, second = (simulate("--seed", str(seed), "--trace", hash_seed=hash_seed).stdout for hash_seed in ("1", "2"))
    assert first == second
    assert "life 1 begins" in first


def test_a_loop_that_nothing_will_ever_wake_is_a_deadlock() -> None:
    loop = VirtualLoop()
    with pytest.raises(DeadlockError, match="no timer is set"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_a_loop_that_spins_without_waiting_is_a_deadlock() -> None:
    loop = VirtualLoop()

    def spin() -> None:
        loop.call_soon(spin)

    spin()
    with pytest.raises(DeadlockError, match="spins"):
        loop.run_until_complete(loop.create_future())
    loop.close()
