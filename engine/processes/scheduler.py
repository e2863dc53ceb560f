"""Which waiting pod is placed on this machine next, by requests and capacity. Pure: no I/O, no clock."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from propfan._speedups import quantities
from propfan.engine.processes.copilots import is_copilot
from propfan.engine.processes.pods import Pod
from propfan.pluginmachinery.config import QUANTITY
from propfan.pluginmachinery.errors import ConfigError

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
EPHEMERAL_STORAGE: Final = "ephemeral-storage"

DEFAULT_PODS: Final = 110
"""As a kubelet's ``maxPods``."""

Requests = Mapping[str, int]
"""Resource name to nanos (10^-9), the unit of ``propfan._speedups.quantities``."""

_NANOS: Final = 10**9


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the pods may request together. A cpu or memory that is not given is the machine's.

    Attributes:
        resources: Others by name, e.g. ``{"nvidia.com/gpu": "1"}``; what is not named is not there.
    """

    cpu: Annotated[str, QUANTITY] | None = None
    memory: Annotated[str, QUANTITY] | None = None
    pods: int = DEFAULT_PODS
    resources: Mapping[str, Annotated[str, QUANTITY]] = {}

    def in_nanos(self, data_dir: Path) -> Requests:
        """All of it.

        Args:
            data_dir: Its file system is the ephemeral storage.

        Raises:
            ConfigError: a value is no quantity, or is negative.
        """
        texts = {
            CPU: str(len(os.sched_getaffinity(0))) if self.cpu is None else self.cpu,
            MEMORY: str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
            if self.memory is None
            else self.memory,
            EPHEMERAL_STORAGE: str(os.statvfs(data_dir).f_blocks * os.statvfs(data_dir).f_frsize),
            **self.resources,
            PODS: str(self.pods),
        }
        found = {}
        for name, text in texts.items():
            try:
                found[name] = quantities.nanos(text)
            except ValueError as error:
                raise ConfigError(f"capacity.{name}", f"{text!r}: {error}") from error
            if found[name] < 0:
                raise ConfigError(f"capacity.{name}", f"{text!r} is negative")
        return found


def effective_requests(pod: Pod) -> Requests:
    """What the scheduler counts: the larger of what the containers need together and of what any init step needs.

    A sidecar runs from its place among the init containers to the end, so it counts with the
    containers and with every init container after it.

    Raises:
        ValueError: a request is no quantity, or is negative.
    """
    sidecars: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in pod.init_containers:
        if is_copilot(container):  # it moves files before and after, and waits in between
            continue
        own = _nanos(container.resources.effective_requests)
        if container.is_sidecar:
            sidecars.update(own)
            peak |= sidecars
        else:
            peak |= sidecars + own
    together = Counter(sidecars)
    for container in pod.spec.containers:
        together.update(_nanos(container.resources.effective_requests))
    total = together | peak
    total.update(_nanos({name: str(value) for name, value in (pod.spec.overhead or {}).items()}))
    total[PODS] = _NANOS
    return total


def _nanos(texts: Mapping[str, str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, text in texts.items():
        try:
            found[name] = quantities.nanos(text)
        except ValueError as error:
            raise ValueError(f"resources: {name}: {text!r}: {error}") from error
        if found[name] < 0:
            raise ValueError(f"resources: {name}: {text!r} is negative")
    return found


class Placed(msgspec.Struct, frozen=True):
    uid: str


class Unschedulable(msgspec.Struct, frozen=True):
    uid: str
    message: str


class Scheduler:
    """First come, first served on one node.

    A pod that has to wait for a resource is not overtaken by later ones that want of the same
    resource, so a large pod is not starved by small ones; pods that want none of it pass. A pod
    that could never fit holds up nobody. One that only waits for others lends them what it holds,
    or parents would wait for ever for children that wait for room.
    """

    def __init__(self, capacity: Requests) -> None:
        self._capacity = capacity
        self._used: Counter[str] = Counter()
        self._placed: dict[str, Requests] = {}
        self._waiting: dict[str, Requests] = {}
        self._lent: set[str] = set()

    def allocatable(self, resource: str) -> int:
        """In nanos; 0 for a resource that is not there."""
        return self._capacity.get(resource, 0)

    def __contains__(self, uid: str) -> bool:
        """Whether a pod waits or is placed."""
        return uid in self._placed or uid in self._waiting

    def add(self, uid: str, requests: Requests) -> None:
        """Last in the queue; a pod that is known already keeps its place."""
        if uid not in self:
            self._waiting[uid] = requests

    def assume(self, uid: str, requests: Requests) -> None:
        """A pod that is placed already, however full that makes the node. One that waited wants what it wanted."""
        requests = self._waiting.pop(uid, requests)
        if uid not in self._placed:
            self._placed[uid] = requests
            self._used.update(requests)

    def give_back(self, uid: str) -> None:
        """A pod that could not be placed after all is the first to be tried again."""
        requests = self._placed.get(uid)
        if requests is not None:
            self.remove(uid)
            self._waiting = {uid: requests, **self._waiting}

    def remove(self, uid: str) -> bool:
        """Whether that may have made room for another pod."""
        waited = self._waiting.pop(uid, None) is not None
        requests = self._placed.pop(uid, None)
        if requests is not None and uid not in self._lent:
            self._used.subtract(requests)
        self._lent.discard(uid)
        return waited or requests is not None

    def lend(self, uid: str) -> bool:
        """A placed pod waits for others: what it holds is free for them. Whether that is news."""
        requests = self._placed.get(uid)
        if requests is None or uid in self._lent:
            return False
        self._lent.add(uid)
        self._used.subtract(requests)
        return True

    def reclaim(self, uid: str) -> None:
        """It goes on, however full that makes the node."""
        if uid in self._lent:
            self._lent.discard(uid)
            self._used.update(self._placed[uid])

    def place(self) -> list[Placed | Unschedulable]:
        """What is to be done for each waiting pod; a placed one is counted from now on."""
        decisions: list[Placed | Unschedulable] = []
        awaited: set[str] = set()
        refused: dict[tuple[tuple[str, int], ...], str] = {}
        """Requests that did not fit in this round, so that a thousand equal pods are looked at once."""
        for uid, requests in list(self._waiting.items()):
            signature = tuple(requests.items())
            if (message := refused.get(signature)) is not None:
                decisions.append(Unschedulable(uid, message))
                continue
            wanted = {name: amount for name, amount in requests.items() if amount > 0}
            never = [name for name, amount in wanted.items() if amount > self._capacity.get(name, 0)]
            short = [
                name
                for name, amount in wanted.items()
                if name in awaited or self._used[name] + amount > self._capacity.get(name, 0)
            ]
            if not short:
                self.assume(uid, requests)
                decisions.append(Placed(uid))
                continue
            if not never:
                awaited.update(short)
            refused[signature] = _words(short, never)
            decisions.append(Unschedulable(uid, refused[signature]))
        return decisions


def _words(short: Iterable[str], never: Iterable[str]) -> str:
    """In the words of kube-scheduler's ``NodeResourcesFit``."""
    reasons = sorted("Too many pods" if name == PODS else f"Insufficient {name}" for name in short)
    text = f"0/1 nodes are available: {', '.join(f'1 {reason}' for reason in reasons)}."
    if lacking := ", ".join(sorted(never)):
        text += f" The whole node has less {lacking} than the pod requests: it can never be placed here."
    return text
