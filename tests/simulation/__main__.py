"""``python -m tests.simulation --seeds N [--from N] [--jobs N]``, or ``--seed N [--trace]``: exit 0 when all promises held."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence

from tests.simulation import campaign, world
from tests.simulation.plan import plan


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Runs the engine under faults.")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many to run")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="N", help="the first of them")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), metavar="N", help="processes")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="failures to explain")
    parser.add_argument("--seed", type=int, metavar="N", help="only this one")
    parser.add_argument("--trace", action="store_true", help="tell what happens, with --seed")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, with_trace=options.trace)
    began = time.monotonic()
    failures = 0
    for seed, problems in campaign.outcomes(range(options.first, options.first + options.seeds), options.jobs):
        if problems:
            failures += 1
            if failures <= options.show:
                print(campaign.explain(seed, problems), flush=True)
    took_s = time.monotonic() - began
    print(f"{options.seeds} seeds, {failures} failed, {took_s:.1f} s, {1000 * took_s / options.seeds:.1f} ms each")
    return 1 if failures else 0


def _replay(seed: int, *, with_trace: bool) -> int:
    result = world.run(seed, with_trace=with_trace)
    if with_trace:
        print(plan(seed))
        print("\n".join(result.trace))
    print(f"seed {seed}: {result.took_s:.3f} virtual seconds, digest {result.digest}")
    if result.problems:
        print(campaign.explain(seed, result.problems))
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
