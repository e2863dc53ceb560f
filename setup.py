"""Builds the compiled twins of ``_speedups/`` and maps the top-level folders to ``propfan.*``.

``PROPFAN_PURE=1`` skips the compilation; otherwise a failed compile fails the build.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = ("engine", "pluginmachinery", "plugins", "_speedups")
SPEEDUPS = Path("_speedups")


def packages() -> list[str]:
    found = []
    for folder in FOLDERS:
        found.append(f"propfan.{folder}")
        found += [f"propfan.{folder}.{name}" for name in find_packages(folder)]
    return found


def extensions() -> list[Extension]:
    """Every ``.pyx``, and every ``.py`` that has a ``.pxd`` beside it."""
    if os.environ.get("PROPFAN_PURE") == "1":
        return []
    from Cython.Build import cythonize

    sources = sorted(
        [*SPEEDUPS.glob("*.pyx"), *(p.with_suffix(".py") for p in SPEEDUPS.glob("*.pxd") if p.with_suffix(".py").exists())]
    )
    modules = [Extension(f"propfan._speedups.{p.stem}", [str(p)], extra_compile_args=["-O3"]) for p in sources]
    return cythonize(
        modules,
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "boundscheck": True, "wraparound": True},
    )


setup(
    packages=packages(),
    package_dir={f"propfan.{folder}": folder for folder in FOLDERS},
    package_data={"propfan._speedups": ["*.pxd", "*.pyx", "*.pyi"], **{f"propfan.{f}": ["py.typed"] for f in FOLDERS}},
    ext_modules=extensions(),
    zip_safe=False,
)
