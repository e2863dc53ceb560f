"""A pod's status as a kubelet writes it: container states, the phase and the conditions that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

POD_INITIALIZING: Final = "PodInitializing"
CONTAINER_CREATING: Final = "ContainerCreating"
CRASH_LOOP_BACK_OFF: Final = "CrashLoopBackOff"


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    reason: str = ""
    message: str = ""


class Running(msgspec.Struct, frozen=True, rename="camel"):
    started_at: datetime | None = None


class Terminated(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    exit_code: int = msgspec.field(name="exitCode")
    reason: str = ""
    signal: int = 0
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    container_id: str = msgspec.field(name="containerID", default="")


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most one is set; none is a container that nothing is known of."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    state: State = State()
    last_state: State = State()
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    container_id: str = msgspec.field(name="containerID", default="")
    started: bool | None = False


class Condition(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    type: str
    status: str
    last_transition_time: datetime | None = None
    reason: str = ""
    message: str = ""


class PodIP(msgspec.Struct, frozen=True):
    ip: str


class PodStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    phase: str = ""
    conditions: Sequence[Condition] | None = None
    reason: str = ""
    message: str = ""
    start_time: datetime | None = None
    host_ip: str = msgspec.field(name="hostIP", default="")
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: Sequence[PodIP] | None = msgspec.field(name="podIPs", default=None)
    init_container_statuses: Sequence[ContainerStatus] | None = None
    container_statuses: Sequence[ContainerStatus] | None = None

    @property
    def is_terminal(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


class Verdict(msgspec.Struct, frozen=True):
    """Why the node ended a pod before its time (``DeadlineExceeded``, ``Terminated``)."""

    reason: str
    message: str


class Containers(msgspec.Struct, frozen=True):
    """The statuses of one pod's containers, and what decides how they add up.

    Attributes:
        sidecars: Names of the init containers that run beside the others.
    """

    init: Sequence[ContainerStatus]
    regular: Sequence[ContainerStatus]
    sidecars: frozenset[str]
    restart_policy: str

    @property
    def incomplete_init(self) -> Sequence[str]:
        """Init containers that still hold up the regular ones."""
        return [s.name for s in self.init if not (s.started if s.name in self.sidecars else _succeeded(s))]

    @property
    def is_initialized(self) -> bool:
        """Also when a sidecar has ended since: the pod does not go back."""
        return not self.incomplete_init or any(s.state.running or s.state.terminated for s in self.regular)

    @property
    def phase(self) -> str:
        """As the kubelet adds them up."""
        if not self.is_initialized:
            failed = any(_failed(s) for s in self.init if s.name not in self.sidecars)
            return "Failed" if failed and self.restart_policy == "Never" else "Pending"
        if not all(s.state.running or _last_end(s) for s in self.regular):
            return "Pending"
        if any(s.state.running for s in self.regular) or self.restart_policy == "Always":
            return "Running"
        if all(_succeeded(s) for s in self.regular):
            return "Succeeded"
        return "Failed" if self.restart_policy == "Never" else "Running"


def _last_end(status: ContainerStatus) -> Terminated | None:
    return status.state.terminated or status.last_state.terminated


def _succeeded(status: ContainerStatus) -> bool:
    return status.state.terminated is not None and status.state.terminated.exit_code == 0


def _failed(status: ContainerStatus) -> bool:
    return status.state.terminated is not None and status.state.terminated.exit_code != 0


def summarize(
    containers: Containers,
    previous: PodStatus,
    start_time: datetime,
    now: datetime,
    *,
    is_over: bool,
    verdict: Verdict | None,
) -> PodStatus:
    """The whole status.

    Args:
        previous: Gives the transition times of conditions that stay as they are.
        is_over: Nothing runs and nothing will be started. Before that no pod succeeds or fails, and then each does.
        verdict: Why it fails, when it does.
    """
    phase = containers.phase
    if not is_over and phase in ("Succeeded", "Failed"):
        phase = "Running" if containers.is_initialized else "Pending"
    elif is_over and phase != "Succeeded":
        phase = "Failed"
    said = verdict if is_over and phase == "Failed" else None
    return PodStatus(
        phase=phase,
        conditions=_conditions(containers, phase, _by_type(previous), now),
        reason=said.reason if said else "",
        message=said.message if said else "",
        start_time=start_time,
        host_ip="127.0.0.1",
        pod_ip="127.0.0.1",
        pod_ips=(PodIP("127.0.0.1"),),
        init_container_statuses=containers.init or None,
        container_statuses=containers.regular,
    )


def condition(
    kind: str, before: Mapping[str, Condition], now: datetime, reason: str = "", message: str = "", *, holds: bool
) -> Condition:
    """Keeps the transition time while the truth of the condition stays the same."""
    status = "True" if holds else "False"
    old = before.get(kind)
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(kind, status, since, reason, message)


def _by_type(status: PodStatus) -> Mapping[str, Condition]:
    return {c.type: c for c in status.conditions or ()}


def _conditions(
    containers: Containers, phase: str, before: Mapping[str, Condition], now: datetime
) -> Sequence[Condition]:
    """In the kubelet's order."""
    if phase == "Succeeded":
        initialized = condition("Initialized", before, now, "PodCompleted", holds=True)
        ready = ("PodCompleted", "")
    else:
        incomplete = "" if containers.is_initialized else " ".join(containers.incomplete_init)
        initialized = condition(
            "Initialized",
            before,
            now,
            "ContainersNotInitialized" if incomplete else "",
            f"containers with incomplete status: [{incomplete}]" if incomplete else "",
            holds=not incomplete,
        )
        unready = " ".join(
            s.name
            for s in (*containers.init, *containers.regular)
            if not s.ready and (s in containers.regular or s.name in containers.sidecars)
        )
        ready = ("ContainersNotReady", f"containers with unready status: [{unready}]") if unready else ("", "")
        if phase == "Failed":
            ready = ("PodFailed", "")
    return (
        initialized,
        condition("Ready", before, now, *ready, holds=not ready[0]),
        condition("ContainersReady", before, now, *ready, holds=not ready[0]),
        condition("PodScheduled", before, now, holds=True),
    )


def unschedulable(status: PodStatus, message: str, now: datetime) -> PodStatus:
    """What the scheduler says of a pod that it can not place."""
    scheduled = condition("PodScheduled", _by_type(status), now, "Unschedulable", message, holds=False)
    return PodStatus(phase="Pending", conditions=(scheduled,))
