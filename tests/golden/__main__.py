"""``python -m tests.golden [PATH...] [--area A] [--id ID] [--show N]``: exit 0 when nothing failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden import runner


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description="Replays recorded cases.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="vector file, or folder of them")
    parser.add_argument("--id", default="", help="only this case; its differences on purpose are shown too")
    parser.add_argument("--area", default="", help="only this area")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="failures to explain per area")
    options = parser.parse_args(arguments)
    try:
        reports = runner.run_paths(options.paths or [runner.DATA], options.id, options.area)
    except (OSError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    for report in reports:
        for outcome in report.failures[: options.show]:
            print(runner.explain(outcome))
        if options.id:
            for outcome in report.outcomes:
                if outcome.causes:
                    print(runner.explain(outcome))
        print(runner.summary(report))
    passed, failed = sum(r.passed for r in reports), sum(r.failed for r in reports)
    on_purpose = sum(r.on_purpose.total() for r in reports)
    if on_purpose:
        print(f"{on_purpose} differ on purpose")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or passed + on_purpose == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
