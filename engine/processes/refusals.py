"""What a pod may ask for that a local process can not have.

Whatever would change what the program sees (its files, its working directory, its entrypoint) is
refused before anything is started. What only decorates it (probes, hooks) is left out and said once.
An image is neither: the program is taken from this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from propfan.engine.processes.pods import Container, Pod

CREATE_CONTAINER_CONFIG_ERROR: Final = "CreateContainerConfigError"
CREATE_CONTAINER_ERROR: Final = "CreateContainerError"

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the mount path that stands for shared memory
"""An emptyDir mounted here is served by the machine's own shared memory."""

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where API servers mount the account's token into every pod, asked or not. Few programs read it."""


class RefusedError(Exception):
    """A container can not be created as it is.

    Attributes:
        reason: Of its waiting state; the phase mapping fails a task on it.
        is_final: Nothing that could change would help. Else it is worth another try.
    """

    def __init__(self, message: str, *, reason: str = CREATE_CONTAINER_CONFIG_ERROR, is_final: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.is_final = is_final


def refusal_of(pod: Pod, container: Container) -> str:
    """Why this container can never run as a local process; empty when it can."""
    if not container.command and not container.args:
        return "no command specified: a local process has no image that could give an entrypoint"
    if container.working_dir and not Path(container.working_dir).is_absolute():
        return f"workingDir {container.working_dir!r} is not absolute"
    mounted = tuple(mount.mount_path.rstrip("/") + "/" for mount in container.volume_mounts or ())
    is_mounted = f"{container.working_dir}/".startswith(mounted)
    if container.working_dir and not is_mounted and not Path(container.working_dir).is_dir():
        return f"workingDir {container.working_dir!r} is no directory of this machine"
    empty_dirs = {volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None}
    for mount in container.volume_mounts or ():
        if mount.mount_path == SERVICE_ACCOUNT:
            continue
        if mount.name not in empty_dirs:
            return f"volume {mount.name!r} at {mount.mount_path}: a local process can be given an emptyDir only"
        if mount.sub_path or mount.sub_path_expr:
            return f"volume {mount.name!r} at {mount.mount_path}: subPath is not provided to local processes"
        if not Path(mount.mount_path).is_absolute() or not mount.mount_path.strip("/") or ".." in mount.mount_path:
            return f"volume {mount.name!r} at {mount.mount_path!r}: a mount path is absolute, not '/', and has no '..'"
    return ""


def left_out(pod: Pod) -> Sequence[str]:
    """What is not done for this pod without being refused, in words."""
    return tuple(_left_out(pod))


def _left_out(pod: Pod) -> Iterator[str]:
    for container in pod.all_containers:
        if any(mount.mount_path == SERVICE_ACCOUNT for mount in container.volume_mounts or ()):
            yield f"token of the service account in container {container.name}"
        for field in ("liveness_probe", "readiness_probe", "startup_probe", "lifecycle"):
            if getattr(container, field):
                first, _, second = field.partition("_")
                yield f"{first}{second.capitalize()} of container {container.name}"
