"""Compiled twins of the hot paths, each with its plain-Python definition.

This is the only import point: ``from propfan._speedups import quantities``. A module is either plain
Python that is also compiled as it stands (``name.py`` with its C types in ``name.pxd``), or a ``name.pyx``
defined by ``name_pure.py``. The compiled twin is used where it was built; the environment variable
``PROPFAN_PURE=1`` picks the pure ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parent


def _definition(name: str) -> Path:
    """The plain-Python file that says what the module does."""
    separate = _FOLDER / f"{name}_pure.py"
    return separate if separate.exists() else _FOLDER / f"{name}.py"


class _PureTwins:
    """Finds the definition of each module of this package instead of its compiled twin."""

    @staticmethod
    def find_spec(fullname: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != __name__ or not _definition(name).exists():
            return None
        return importlib.util.spec_from_file_location(fullname, _definition(name))


if os.environ.get("PROPFAN_PURE") == "1":
    sys.meta_path.insert(0, _PureTwins)


def twins() -> tuple[str, ...]:
    """Names of the modules that can be compiled."""
    typed = {path.stem for path in _FOLDER.glob("*.pxd") if path.with_suffix(".py").exists()}
    return tuple(sorted(typed | {path.stem for path in _FOLDER.glob("*.pyx")}))


def backends() -> dict[str, str]:
    """Which twin of each module is in use: ``{"quantities": "compiled"}``."""
    found = {}
    for name in twins():
        module = importlib.import_module(f"{__name__}.{name}")
        compiled = str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))
        found[name] = "compiled" if compiled else "pure"
    return found


def pure_twin(name: str) -> ModuleType:
    """The definition of a module, also where its compiled twin is in use; for comparing the two."""
    fullname = f"{__name__}.{name}__definition"
    if fullname not in sys.modules:
        spec = importlib.util.spec_from_file_location(fullname, _definition(name))
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"no definition of {name} in {_FOLDER}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[fullname] = module
        spec.loader.exec_module(module)
    return sys.modules[fullname]
