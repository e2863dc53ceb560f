"""When a deleted object goes: the rules of finalizers and of a pod's grace period.

As in kube-apiserver: a pod that no node has, or that has ended, goes at once; any other is marked
and stays until its node's kubelet deletes it with a grace period of 0.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from propfan.engine.cluster import POD, ObjectMeta
from propfan.engine.embedded.objects import StoredObject, seconds

DEFAULT_POD_GRACE_PERIOD_S: Final = 30
"""Kubernetes' default of ``spec.terminationGracePeriodSeconds``."""


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    termination_grace_period_seconds: int | None = None


class _PodStatus(msgspec.Struct):
    phase: str | None = None


class _Pod(msgspec.Struct):
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


_decode_pod: Final = msgspec.json.Decoder(_Pod).decode


def is_due(metadata: ObjectMeta) -> bool:
    """Nothing holds a deleted object any more."""
    return (
        metadata.deletion_timestamp is not None
        and not metadata.finalizers
        and not metadata.deletion_grace_period_seconds
    )


def marked(stored: StoredObject, grace_period_s: int | None, now: datetime) -> ObjectMeta:
    """The metadata after a delete call; the very same when it changes nothing."""
    metadata = stored.metadata
    grace_s = _grace_period_s(stored, grace_period_s)
    if metadata.deletion_timestamp is None:
        return msgspec.structs.replace(
            metadata,
            deletion_timestamp=seconds(now) + timedelta(seconds=grace_s),
            deletion_grace_period_seconds=grace_s,
            generation=metadata.generation + 1,
        )
    left_s = metadata.deletion_grace_period_seconds or 0
    if grace_s >= left_s:
        return metadata
    return msgspec.structs.replace(
        metadata,
        deletion_timestamp=metadata.deletion_timestamp - timedelta(seconds=left_s - grace_s),
        deletion_grace_period_seconds=grace_s,
    )


def _grace_period_s(stored: StoredObject, asked_s: int | None) -> int:
    if stored.kind != POD:
        return 0
    try:
        pod = _decode_pod(stored.raw)
    except msgspec.DecodeError:
        return 0  # no kubelet can run it
    spec, status = pod.spec or _PodSpec(), pod.status or _PodStatus()
    if not spec.node_name or status.phase in ("Succeeded", "Failed"):
        return 0
    if asked_s is None:
        asked_s = spec.termination_grace_period_seconds
    if asked_s is None:
        asked_s = DEFAULT_POD_GRACE_PERIOD_S
    return asked_s if asked_s >= 0 else 1
