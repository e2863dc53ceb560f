"""Co-pilot containers as processes: their image's program is not here, its work is done by ``propfan.engine.copilot``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from propfan.engine.processes.pods import Container, Pod
from propfan.engine.processes.process import Launch

PROGRAM: Final = "/bin/flyte-copilot"


def is_copilot(container: Container) -> bool:
    return next(iter(container.command or ()), None) == PROGRAM


def own(launch: Launch, pod: Pod, directory: Path) -> Launch:
    """The launch with our program in place of the image's, which waits for SIGTERM from its first moment on.

    Args:
        directory: The pod's; how its containers ended is told there.
    """
    if launch.argv[:1] != [PROGRAM]:
        return launch
    words = [sys.executable, "-P", "-m", "propfan.engine.copilot", *launch.argv[1:]]
    if "sidecar" in launch.argv:
        words += [
            f"--launches={directory.absolute() / 'launches' / container.name}" for container in pod.spec.containers
        ]
    return msgspec.structs.replace(launch, argv=words, memory_limit_bytes=0, holds_sigterm=True)
