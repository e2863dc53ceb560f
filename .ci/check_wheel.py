"""Fails unless a wheel holds every file that git keeps in the packages, and a compiled twin of each typed module."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

FOLDERS = ("engine", "plugins", "pluginmachinery", "_speedups")


def main(wheel: str) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    kept = subprocess.run(
        ["git", "ls-files", "--", *FOLDERS], check=True, capture_output=True, text=True
    ).stdout.split()
    missing = [path for path in kept if f"propfan/{path}" not in packed]
    typed = {Path(path).stem for path in kept if path.endswith((".pyx", ".pxd"))}
    compiled = {Path(name).name.split(".")[0] for name in packed if name.endswith(".so")}
    foreign = [name for name in packed if not name.startswith(("propfan/", "propfan-"))]
    if missing or foreign or typed != compiled:
        sys.exit(f"{wheel}: missing {missing}, not ours {foreign}, not compiled {sorted(typed - compiled)}")
    print(f"{wheel}: {len(kept)} files, compiled: {', '.join(sorted(compiled))}")


if __name__ == "__main__":
    main(sys.argv[1])
