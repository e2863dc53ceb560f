"""Builds the compiled twins of ``_speedups/`` and maps the top-level folders to ``propfan.*``.

``PROPFAN_PURE=1`` skips the compilation; otherwise a failed compile fails the build.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = ("engine", "pluginmachinery", "plugins", "_speedups")
SPEEDUPS = Path("_speedups")
TYPES = Path("build/types")
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


def extensions() -> list[Extension]:
    """Every ``.pyx``, and every ``.py`` that has a ``.pxd`` beside it."""
    if os.environ.get("PROPFAN_PURE") == "1":
        return []
    from Cython.Build import cythonize  # only a build that compiles needs it

    typed = (path.with_suffix(".py") for path in SPEEDUPS.glob("*.pxd"))
    sources = sorted([*SPEEDUPS.glob("*.pyx"), *filter(Path.exists, typed)])
    modules = [
        Extension(f"propfan._speedups.{path.stem}", [str(path)], extra_compile_args=["-O3", "-g0"]) for path in sources
    ]
    return cythonize(
        modules,
        build_dir="build/cython",
        include_path=[types_path()],
        # Types come from the .pxd alone: annotations are for readers and mypy, and int there means any size.
        compiler_directives={
            "annotation_typing": False,
            "autotestdict": False,
            "boundscheck": True,
            "language_level": 3,
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
