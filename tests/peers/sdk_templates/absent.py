"""Stands in for heavy packages that SDK plugins import but do not need to serialise a task."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, Final

COMPUTE: Final = ("distributed", "pyspark", "ray", "torch")
CLIENTS: Final = ("aioboto3", "asyncssh", "botocore", "openai", "snowflake")


class _AbsentClass(type):
    """A class that has every member, each a class too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _AbsentClass(name, (), {"__module__": f"{cls.__module__}.{cls.__name__}"})
        setattr(cls, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    """Every module below its roots exists; in it, a lower-case name is a module and any other one a class."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = frozenset(roots)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self._roots else None

    def exec_module(self, module: types.ModuleType) -> None:
        name_of_module = module.__name__

        def member(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if name.islower():
                return importlib.import_module(f"{name_of_module}.{name}")
            made = _AbsentClass(name, (), {"__module__": name_of_module})
            module.__dict__[name] = made
            return made

        module.__dict__["__getattr__"] = member


def stand_in(*roots: str) -> None:
    """From now on, these top-level packages can be imported."""
    sys.meta_path.insert(0, _Finder(roots))


def min_and_max_nodes(nodes: str) -> tuple[int, int]:
    """``torch.distributed.run.parse_min_max_nnodes``: ``"2"`` or ``"1:4"``."""
    least, _, most = nodes.partition(":")
    return int(least), int(most or least)
