"""Builds the compiled twins of ``_speedups/`` and maps the top-level folders to ``propfan.*``.

``PROPFAN_PURE=1`` skips the compilation; otherwise a failed compile fails the build.
``PROPFAN_SANITIZE=address,undefined`` builds with these sanitizers of the C compiler, for ``make asan``.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = ("engine", "pluginmachinery", "plugins", "_speedups")
SPEEDUPS = Path("_speedups")
TYPES = Path("build/types")
GENERATED = Path("build/cython")
SANITIZERS = os.environ.get("PROPFAN_SANITIZE", "")
FLAGS = ["-O3", "-g0"]
LINK_FLAGS: list[str] = []
if SANITIZERS:
    LINK_FLAGS = [f"-fsanitize={SANITIZERS}"]
    FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", *LINK_FLAGS]
DATA = ("css", "html", "js", "json", "svg", "yaml")


def packages() -> list[str]:
    """Each folder as ``propfan.<folder>``, and the packages within."""
    inner = [f"{folder}.{name}" for folder in FOLDERS for name in find_packages(folder)]
    return [f"propfan.{name}" for name in (*FOLDERS, *inner)]


def types_path() -> str:
    """Where Cython finds ``propfan/_speedups/<module>.pxd``: it looks by the full name, and silently does without."""
    link = TYPES / "propfan" / SPEEDUPS.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(Path("../../..") / SPEEDUPS, target_is_directory=True)
    return str(TYPES)


def is_outdated() -> bool:
    """Whether C is older than what Cython does not look at: the directives here, and types that others ``cimport``."""
    newest = max(path.stat().st_mtime for path in (Path(__file__), SPEEDUPS / "pod_layout.pxd"))
    return any(path.stat().st_mtime < newest for path in GENERATED.rglob("*.c"))


def extensions() -> list[Extension]:
    """Every ``.pyx``, and every ``.py`` that has a ``.pxd`` beside it."""
    if os.environ.get("PROPFAN_PURE") == "1":
        return []
    from Cython.Build import cythonize  # only a build that compiles needs it

    typed = (path.with_suffix(".py") for path in SPEEDUPS.glob("*.pxd"))
    sources = sorted([*SPEEDUPS.glob("*.pyx"), *filter(Path.exists, typed)])
    modules = [
        Extension(f"propfan._speedups.{path.stem}", [str(path)], extra_compile_args=FLAGS, extra_link_args=LINK_FLAGS)
        for path in sources
    ]
    return cythonize(
        modules,
        build_dir=str(GENERATED),
        force=is_outdated(),
        include_path=[types_path()],
        # Types come from the .pxd alone: annotations are for readers and mypy, and int there means any size.
        # Every check stays on: an index out of range and an attribute of None raise as they do in Python.
        compiler_directives={
            "annotation_typing": False,
            "autotestdict": False,
            "boundscheck": True,
            "cdivision": False,
            "language_level": 3,
            "nonecheck": True,
            "wraparound": True,
        },
    )


setup(
    packages=packages(),
    package_dir={f"propfan.{folder}": folder for folder in FOLDERS},
    package_data={"": ["py.typed", "*.pxd", "*.pyx", "*.pyi", *(f"**/*.{kind}" for kind in DATA)]},
    ext_modules=extensions(),
    zip_safe=False,
)
