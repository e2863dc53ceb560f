from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from propfan import _speedups

ROOT = Path(__file__).parents[3]
CHECKS = re.compile(r"(boundscheck|cdivision|initializedcheck|nonecheck|overflowcheck|wraparound)\b")

CALLS = """
import inspect, itertools, random
from propfan import _speedups
from propfan._speedups import pods

ANY = [None, 0, -1, 7, 2**70, "", "1Gi", "\\udcff", b"", b"\\n\\xff", (), (None,), [], ["{", None], {}, {"a": None},
       frozenset(), object(), pods.Pod(), pods.Status(container_statuses=(None,)), pods.Pod(spec=pods.Spec(containers=(1,)))]
SAMPLE = 400
chosen = random.Random(1)

def call_with_all(function, definition, is_method=False):
    parameters = list(inspect.signature(definition).parameters.values())[is_method:]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    count = len(parameters)
    some = itertools.product(ANY, repeat=count) if count < 3 else (chosen.choices(ANY, k=count) for _ in range(SAMPLE))
    for values in some:
        try:
            split = count - len(named)
            function(*values[:split], **dict(zip(named, values[split:])))
        except Exception:
            continue

called = 0
for name in _speedups.twins():
    module = __import__(f"propfan._speedups.{name}", fromlist=["*"])
    pure = _speedups.pure_twin(name)
    for member, definition in list(vars(pure).items()):
        compiled = getattr(module, member, None)
        if getattr(definition, "__module__", None) != pure.__name__ or not callable(compiled):
            continue
        called += 1
        if not isinstance(definition, type):
            call_with_all(compiled, definition)
        elif not issubclass(definition, (Exception, tuple)):
            call_with_all(compiled, definition)
            for method, value in vars(definition).items():
                if callable(value) and hasattr(compiled, method) and not method.startswith("__"):
                    call_with_all(getattr(compiled.__new__(compiled), method), value, is_method=True)
assert called > 30, called
print("done")
"""


@pytest.mark.skipif("pure" in _speedups.backends().values(), reason="plain Python reads no memory but its own")
def test_arguments_of_any_type_raise_and_never_crash() -> None:
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_all_modules_are_compiled_with_every_check() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "_speedups").glob("*.p*")}
    assert {name for name, text in texts.items() if CHECKS.search(text)} == set()
    directives = (ROOT / "setup.py").read_text(encoding="utf-8")
    for directive in ('"boundscheck": True', '"cdivision": False', '"nonecheck": True', '"wraparound": True'):
        assert directive in directives
