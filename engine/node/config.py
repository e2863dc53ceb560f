"""What a node is called and how it is told from others."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

TAINT_KEY: Final = "propfan.dev/process"
RUNTIME_LABEL: Final = "propfan.dev/runtime"
RUNTIME: Final = "process"


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How this machine appears in the cluster.

    Attributes:
        name: Of the Node; unique in the cluster.
        labels: In addition to those every node has, and to ``propfan.dev/runtime: process``.
        is_tainted: Only pods that tolerate ``propfan.dev/process:NoSchedule`` come here.
        lease_s: Others take the node for lost when its Lease was not renewed for so long. 40 s is a kubelet's
            ``nodeLeaseDurationSeconds``; it is renewed after a quarter of it.
        status_s: How often the Node's status is written though nothing has changed, as a kubelet's
            ``nodeStatusReportFrequency``.
    """

    name: str
    labels: Mapping[str, str] = {}
    is_tainted: bool = True
    lease_s: Annotated[float, Meta(ge=1, le=3600)] = 40.0
    status_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0


def default_name() -> str:
    """The host's, as a kubelet would call it."""
    return platform.node().lower()
