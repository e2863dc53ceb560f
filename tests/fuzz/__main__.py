"""``python -m tests.fuzz NAME|all [--seconds N] [--engine atheris|hypothesis]``: exit 0 when nothing was found.

Atheris follows the branches of the decoders and of the plain twins; hypothesis only varies what is in ``corpus.py``.
Inputs that Atheris found worth keeping are in ``build/fuzz/NAME``, an input that fails beside them.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from propfan import _speedups
from tests.fuzz.corpus import MAX_BYTES, TARGETS, Target

KEPT = Path(__file__).parents[2] / "build" / "fuzz"
BATCH = 1000
INSTRUMENTED = ("propfan.", "tests.fuzz.targets", "yaml.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feeds decoders with bytes from outside.")
    parser.add_argument("name", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], help="default: atheris where it is installed")
    options = parser.parse_args()
    engine = options.engine or ("atheris" if importlib.util.find_spec("atheris") else "hypothesis")
    if options.name == "all":
        arguments = ("--seconds", str(options.seconds), "--engine", engine)
        runs = [subprocess.run([sys.executable, "-m", "tests.fuzz", name, *arguments], check=False) for name in TARGETS]
        return max(abs(run.returncode) for run in runs)
    print(f"{options.name}: {engine}, twins {', '.join(sorted(set(_speedups.backends().values())))}", flush=True)
    if engine == "hypothesis" and options.engine is None:
        print("  atheris is not installed (pip install -e '.[fuzz]'): no coverage guides what is tried", flush=True)
    run = with_atheris if engine == "atheris" else with_hypothesis
    run(options.name, TARGETS[options.name], options.seconds)
    return 0


def with_hypothesis(name: str, target: Target, seconds: int) -> None:
    """Raises what the target raises, with the smallest input that does. What Atheris kept comes first."""
    kept = sorted((KEPT / name).glob("*"))
    for path in kept:
        target.fuzz(path.read_bytes())
    executions = len(kept)

    @settings(max_examples=BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs())
    def batch(data: bytes) -> None:
        nonlocal executions
        executions += 1
        target.fuzz(data)

    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        batch()
    print(
        f"{name}: {executions} executions in {time.monotonic() - begin:.0f} s, {len(kept)} kept before, no finding",
        flush=True,
    )


def with_atheris(name: str, target: Target, seconds: int) -> None:
    """Ends the process: with 0 when the time is up, else with what libFuzzer says about the finding."""
    import atheris

    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
        target.fuzz(seed)  # also loads the plain twins
    words = KEPT / f"{name}.dict"
    written = ("".join(map(r"\x{:02x}".format, word)) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in written))
    for function in functions():
        atheris.instrument_func(function)
    limits = (f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=60", f"-artifact_prefix={KEPT}/{name}-")
    atheris.Setup(
        [sys.argv[0], *limits, f"-dict={words}", "-print_final_stats=1", "-verbosity=1", str(corpus)], target.fuzz
    )
    atheris.Fuzz()


def functions() -> Iterator[types.FunctionType]:
    """Those in plain Python, each once, of the modules that are instrumented."""
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if not name.startswith(INSTRUMENTED):
            continue
        owners = [module, *(value for value in vars(module).values() if isinstance(value, type))]
        for owner in owners:
            for value in vars(owner).values():
                found = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
                if isinstance(found, types.FunctionType) and found.__module__ == name and id(found) not in seen:
                    seen.add(id(found))
                    yield found


if __name__ == "__main__":
    sys.exit(main())
