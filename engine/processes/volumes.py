"""A pod's emptyDirs: folders in its directory, which its containers see where they are mounted.

Where the machine allows it each container gets a view of the file system of its own (``mounts``). Elsewhere the
mount paths are replaced by the folders' own where they stand in its command line, its variables and its working
directory; a program that has such a path in itself does not find it then.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import structlog

from propfan.engine.processes import mounts
from propfan.engine.processes.pods import Container, Pod
from propfan.engine.processes.process import Launch
from propfan.engine.processes.refusals import SHARED_MEMORY

logger = structlog.get_logger(__name__)

FOLDER: Final = "volumes"
"""Of a pod's directory; goes with it."""


async def provide(launch: Launch, pod: Pod, container: Container, directory: Path) -> Launch:
    """The launch with the container's emptyDirs, whose folders are there then.

    Args:
        directory: The pod's.
    """
    empty_dirs = {volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None}
    wanted = {
        mount.mount_path.rstrip("/"): str((directory / FOLDER / mount.name).absolute())
        for mount in container.volume_mounts or ()
        if mount.name in empty_dirs and mount.mount_path.rstrip("/") != SHARED_MEMORY
    }
    if not wanted:
        return launch
    for folder in wanted.values():
        await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    if await anyio.to_thread.run_sync(can_mount):
        return msgspec.structs.replace(launch, mounts=wanted)
    return msgspec.structs.replace(
        launch,
        argv=[replaced(word, wanted) for word in launch.argv],
        environment={name: replaced(value, wanted) for name, value in launch.environment.items()},
        working_dir=replaced(launch.working_dir, wanted),
    )


def replaced(text: str, folders: Mapping[str, str]) -> str:
    """The text with other paths: whole ones, or the beginning of longer ones."""
    pattern = "|".join(re.escape(path) for path in sorted(folders, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({pattern})(?![\w.-])", lambda found: folders[found[1]], text)


@functools.cache
def can_mount() -> bool:
    """Whether a process may have mounts of its own. Tried once: nothing else says what all that stands between a process and the kernel allows."""
    tried = subprocess.run([sys.executable, "-I", "-S", mounts.__file__], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        logger.info("no mounts for processes here: paths are replaced in command lines", error=tried.stderr[-500:])
    return tried.returncode == 0
