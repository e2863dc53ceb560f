"""Leases (``coordination.k8s.io/v1``) of a group of replicas: one for each member, one for each shard.

Only a member's lease is renewed. A shard's says which member has it, and holds for as long as that
member's own: so a replica costs one write per renewal, however many shards it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan.engine.cluster import Kind, ObservedObject

LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")

GROUP_LABEL: Final = "propfan.org/group"
SHARDS_ANNOTATION: Final = "propfan.org/shards"
"""Into how many shards a member divides the tasks."""
LEAVING_ANNOTATION: Final = "propfan.org/leaving"
"""On a member that is about to go: others take over what it gives up."""


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


_decoder: Final = msgspec.json.Decoder(_Lease)


class SeenLease(msgspec.Struct, frozen=True):
    """A lease as it was seen.

    Attributes:
        since_s: When this very version was first seen, on the local clock.
    """

    name: str
    version: str
    uid: str
    holder: str
    transitions: int
    shards: int
    is_leaving: bool
    since_s: float

    @property
    def gist(self) -> tuple[str, int, bool]:
        """What matters to others; a renewal does not change it."""
        return self.holder, self.shards, self.is_leaving


def seen_at(now_s: float, lease: ObservedObject) -> SeenLease:
    """A lease that can not be read has no holder."""
    try:
        spec = _decoder.decode(lease.raw).spec
    except msgspec.DecodeError:
        spec = _Spec()
    meta = lease.metadata
    shards = meta.annotations.get(SHARDS_ANNOTATION, "")
    return SeenLease(
        name=meta.name,
        version=meta.resource_version,
        uid=meta.uid,
        holder=spec.holder_identity or "",
        transitions=spec.lease_transitions or 0,
        shards=int(shards) if shards.isdecimal() else 0,
        is_leaving=LEAVING_ANNOTATION in meta.annotations,
        since_s=now_s,
    )


class LeaseNames:
    """How the leases of a group are called."""

    def __init__(self, group: str) -> None:
        self.group: Final = group

    def member(self, identity: str) -> str:
        return f"{self.group}-member-{identity}"

    def shard(self, shard: int) -> str:
        return f"{self.group}-shard-{shard}"

    def identity_of(self, name: str) -> str:
        """Of a member's lease; empty for any other."""
        prefix = f"{self.group}-member-"
        return name.removeprefix(prefix) if name.startswith(prefix) else ""

    def shard_of(self, name: str) -> int | None:
        number = name.removeprefix(f"{self.group}-shard-")
        return int(number) if number != name and number.isdecimal() else None


def held_by(identity: str, duration_s: float, now: datetime, transitions: int = 0) -> dict[str, Any]:
    """The spec of a lease that is taken now."""
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, round(duration_s)),
        "acquireTime": micro_time(now),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions,
    }


def new_lease(
    names: LeaseNames, namespace: str, name: str, spec: Mapping[str, Any], annotations: Mapping[str, str]
) -> bytes:
    return msgspec.json.encode(
        {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {GROUP_LABEL: names.group},
                "annotations": annotations,
            },
            "spec": spec,
        }
    )


def micro_time(time: datetime) -> str:
    """``metav1.MicroTime``, which wants all six digits."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
