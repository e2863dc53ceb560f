"""Where containers' output is kept and how its end is read back.

Standard output and error go to one file per start of a container, as the program wrote them. The
files stay when the pod is deleted: they are the only trace of what happened. They are not rotated.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TERMINATION_MESSAGE_BYTES: Final = 2048
TERMINATION_MESSAGE_LINES: Final = 80
"""How much of a failed container's log becomes its message (``FallbackToLogsOnError`` of the kubelet)."""


def log_path(data_dir: Path, namespace: str, pod: str, container: str, restart: int) -> Path:
    return data_dir / "logs" / namespace / pod / container / f"{restart}.log"


def prepare(path: Path) -> None:
    """Makes room for a new log. One left by an earlier pod of the name is kept as ``<restart>.previous.log``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".previous.log"))


def tail(path: Path, *, limit_bytes: int, limit_lines: int | None = None) -> str:
    """The end of a log, whole lines where that is possible; empty when there is none.

    What is no UTF-8 reads as U+FFFD.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            data = file.read(limit_bytes)
    except FileNotFoundError:
        return ""
    text = data.decode(errors="replace")
    if limit_lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-limit_lines:])
