"""Fails unless every module of ``propfan._speedups`` runs as the twin that is named: compiled or pure."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

from propfan import _speedups


def main(expected: str) -> None:
    backends = _speedups.backends()
    wrong = {name: twin for name, twin in backends.items() if twin != expected}
    loaded = [
        str(module.__file__)
        for name, module in sys.modules.items()
        if name.startswith("propfan._speedups.") and isinstance(module, ModuleType)
    ]
    compiled = [path for path in loaded if path.endswith(tuple(EXTENSION_SUFFIXES))]
    if wrong or not backends:
        sys.exit(f"not {expected}: {wrong or 'there are no twins at all'}")
    if expected == "pure" and compiled:
        sys.exit(f"compiled although pure was asked for: {compiled}")
    print(f"{expected}: {', '.join(sorted(backends))} in {_speedups.__file__}")


if __name__ == "__main__":
    main(sys.argv[1])
