"""Whose failure it is when a pod has failed and Kubernetes gives no reason.

The shared mapping (``propfan.pluginmachinery.podphase``) calls every such pod interrupted, which
charges the system. A container that ended by itself with a code of its own was not interrupted:
its program failed, and the task's own retries are there for that.
"""

from __future__ import annotations

from typing import Final

import msgspec

from propfan.pluginmachinery.errors import ENGINE_STOPPED
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, Phase, PhaseInfo
from propfan.pluginmachinery.podphase import ObservedPod

KILLED: Final = frozenset({128 + 9, 128 + 15, 256 - 9})
"""Exit codes of containers that others stopped: SIGKILL, SIGTERM, and SIGKILL as a negative byte (-9)."""

_INTERRUPTED: Final = "Interrupted"


def charge(info: PhaseInfo, pod: ObservedPod) -> PhaseInfo:
    """The verdict, charged to the user when a program's own exit code is all there is to it.

    One that the engine brought about by leaving says so and is charged to nobody.
    """
    error, status = info.error, pod.status
    if info.phase is not Phase.RETRYABLE_FAILURE or error is None or status is None:
        return info
    if status.reason == ENGINE_STOPPED:
        stopped = ExecutionError(ENGINE_STOPPED, status.message, ErrorKind.SYSTEM)
        return msgspec.structs.replace(info, error=stopped)
    if error.kind is not ErrorKind.SYSTEM or error.code != _INTERRUPTED or status.reason:
        return info
    statuses = (*(status.init_container_statuses or ()), *(status.container_statuses or ()))
    ended = [s.state.terminated for s in statuses if s.state is not None and s.state.terminated is not None]
    failed = [end for end in ended if end.exit_code]
    if not failed or any(end.exit_code in KILLED for end in failed):
        return info
    charged = ExecutionError(failed[0].reason or "Error", error.message, ErrorKind.USER)
    return msgspec.structs.replace(info, error=charged)
