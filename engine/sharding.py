"""How tasks are spread over replicas: each belongs to one of a fixed number of virtual shards."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import Final

import msgspec

from propfan.engine.cluster import LabelSelector, ObservedObject
from propfan.pluginmachinery.taskaction import MANAGED_LABEL

SHARD_LABEL: Final = "propfan.org/shard"
"""On every object that a task runs as, so that a replica watches only those of its own tasks."""


def shard_of(namespace: str, run_name: str, count: int) -> int:
    """The shard of all tasks of a run: the same in every process, for ever."""
    return zlib.crc32(f"{namespace}/{run_name}".encode()) % count


def selector(shards: Collection[int] | None, count: int) -> LabelSelector:
    """Of the objects of tasks in ``shards``. Whoever has all of them sees also what has no such label."""
    if shards is None or len(shards) == count:
        return {MANAGED_LABEL: "true"}
    return {MANAGED_LABEL: "true", SHARD_LABEL: tuple(str(shard) for shard in sorted(shards))}


class _RunName(msgspec.Struct, frozen=True, rename="camel"):
    run_name: str = ""


class _Spec(msgspec.Struct, frozen=True):
    spec: _RunName = _RunName()


_decoder: Final = msgspec.json.Decoder(_Spec)


def shard_of_action(action: ObservedObject, count: int) -> int:
    """A TaskAction that says no run is its own."""
    try:
        run_name = _decoder.decode(action.raw).spec.run_name
    except (msgspec.DecodeError, RecursionError):
        run_name = ""
    meta = action.metadata
    return shard_of(meta.namespace, run_name or meta.name, count)
