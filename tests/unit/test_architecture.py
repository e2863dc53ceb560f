"""Rules of the tree that no linter knows."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "plugins", "pluginmachinery", "_speedups")
FOLDERS = (*PACKAGES, "benchmarks", "examples", "tests")
SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd"}

MAX_LINES = 600
VAGUE_NAMES = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
UNFINISHED = re.compile("|".join(first + second for first, second in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"))))
CLOCK_READS = {"now", "today", "utcnow"}

ONLY_IMPORTED_BY: dict[str, tuple[str, ...]] = {
    "aiohttp": ("engine", "plugins/connector", "benchmarks", "examples", "tests"),
    "grpc": ("engine", "plugins/connector", "benchmarks", "tests"),
    "kubernetes": ("engine", "benchmarks", "tests"),
    "sqlite3": ("engine", "plugins/connectors/sqlalchemy", "benchmarks", "tests"),
}
"""What is heavy or does I/O, and the folders or files that may import it."""


def sources(*folders: str) -> list[str]:
    """Paths below the root; nothing that is generated."""
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SOURCE_SUFFIXES
    )


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return table


def distribution(name: str) -> str:
    """The normal form of a distribution's name, or of a requirement's first word (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower()


def imported_roots(path: str) -> Iterator[str]:
    """Top-level names that a Python file imports anywhere; of propfan, the folder too."""
    for node in ast.walk(ast.parse(read(path))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield ".".join(parts[:2]) if parts[0] == "propfan" else parts[0]


@pytest.mark.parametrize("name", ["engine", "plugins", "pluginmachinery"])
def test_all_lists_exactly_the_public_names(name: str) -> None:
    package = importlib.import_module(f"propfan.{name}")
    promised = list(getattr(package, "__all__", ()))
    present = {
        public
        for public, value in vars(package).items()
        if not public.startswith("_") and public != "annotations" and not isinstance(value, types.ModuleType)
    }
    assert len(promised) == len(set(promised))
    assert [public for public in promised if not hasattr(package, public)] == []
    assert present <= set(promised), "these are public by accident"


@pytest.mark.parametrize("path", sources(*FOLDERS))
def test_file_is_short_and_finished(path: str) -> None:
    text = read(path)
    assert len(text.splitlines()) < MAX_LINES, "split it by subject"
    assert UNFINISHED.findall(text) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_has_a_vague_name(folder: str) -> None:
    parts = {part for path in sources(folder) for part in Path(path).with_suffix("").parts}
    assert parts & VAGUE_NAMES == set()


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_folder_with_code_is_a_package(folder: str) -> None:
    """A folder without ``__init__.py`` would be missing in the wheel."""
    folders = {(ROOT / path).parent for path in sources(folder)}
    assert [str(path) for path in folders if not (path / "__init__.py").exists()] == []
    assert (ROOT / folder / "py.typed").exists()


@pytest.mark.parametrize("package", ONLY_IMPORTED_BY)
def test_heavy_packages_are_imported_only_where_listed(package: str) -> None:
    allowed = ONLY_IMPORTED_BY[package]
    importers = {path for path in sources(*FOLDERS) if path.endswith(".py") and package in imported_roots(path)}
    assert {path for path in importers if not path.startswith(allowed)} == set()


def test_speedups_import_only_the_standard_library_and_msgspec() -> None:
    allowed = sys.stdlib_module_names | {"msgspec", "propfan._speedups"}
    found = {
        (path, root) for path in sources("_speedups") if path.endswith((".py", ".pyi")) for root in imported_roots(path)
    }
    assert {(path, root) for path, root in found if root not in allowed} == set()


def test_every_pyx_has_its_types_and_its_plain_definition() -> None:
    stems = [path.removesuffix(".pyx") for path in sources("_speedups") if path.endswith(".pyx")]
    needed = [f"{stem}{suffix}" for stem in stems for suffix in (".pyi", "_pure.py")]
    assert [path for path in needed if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", [path for path in sources("plugins", "pluginmachinery") if path.endswith(".py")])
def test_plugins_open_no_files_and_read_no_clock(path: str) -> None:
    calls = [node.func for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.Call)]
    attributes = [call for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCK_READS]
    # What connectors are made with has a clock.
    assert [call.lineno for call in attributes if not ast.unparse(call).endswith("setup.now")] == []
    assert [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "open"] == []


def test_every_import_is_a_declared_requirement() -> None:
    table = project()
    extras = table["optional-dependencies"]
    optional = [name for extra, names in extras.items() if extra not in ("dev", "fuzz") for name in names]
    declared = {distribution(name) for name in (*table["dependencies"], *optional)}
    declared |= {"botocore"} if "boto3" in declared else set()  # a part of it
    ours = {f"propfan.{folder}" for folder in PACKAGES}
    roots = {root for path in sources(*PACKAGES) if path.endswith(".py") for root in imported_roots(path)}
    sold_by = metadata.packages_distributions()
    undeclared = {
        root
        for root in roots - ours - sys.stdlib_module_names
        if not declared & {distribution(name) for name in sold_by.get(root, [root])}
    }
    assert undeclared == set()


def test_every_plugin_family_is_offered_as_an_entry_point() -> None:
    offered = {target.partition(":")[0] for target in project()["entry-points"]["propfan.plugins"].values()}
    families = {f"propfan.plugins.{path.parent.name}" for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert offered == families - {"propfan.plugins.connectors"}


def test_every_native_connector_is_offered_as_an_entry_point() -> None:
    offered = {target.partition(":")[0] for target in project()["entry-points"]["propfan.connectors"].values()}
    folders = (ROOT / "plugins" / "connectors").glob("*/__init__.py")
    assert offered == {f"propfan.plugins.connectors.{path.parent.name}" for path in folders}
