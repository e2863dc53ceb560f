"""Cached outputs of discoverable tasks, and who computes a value at the moment.

``StoreCache`` keeps one small record per key in the object store, beside the outputs that it
points at; reservations live in the process, because one engine drives all tasks of its store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

import msgspec
from flyteidl2.core import literals_pb2, tasks_pb2

from propfan.engine.clock import Clock
from propfan.pluginmachinery.contexts import DataStore, InputReader, IOPaths
from propfan.pluginmachinery.errors import DecodeError, ObjectNotFoundError, StorageError
from propfan.pluginmachinery.taskaction import TaskAction

CACHE_POPULATED: Final = "CACHE_POPULATED"
CACHE_PUT_FAILURE: Final = "CACHE_PUT_FAILURE"
_BUSY_RETRY_S: Final = 5.0


class CacheAnswer(msgspec.Struct, frozen=True):
    """A hit (the outputs are where the task's own would be), or who computes the value: maybe we."""

    is_hit: bool = False
    owner: str = ""
    retry_after_s: float = 0.0


class TaskCache(Protocol):
    """The cache of task outputs. Calls may be repeated."""

    async def look_up(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths, *, owner: str
    ) -> CacheAnswer:
        """Copies cached outputs to ``paths.output``; else reserves the key where the task wants that."""
        ...

    async def store(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths
    ) -> str:
        """Offers the task's outputs to others; the resulting cache status. A cache at fault fails no task."""
        ...

    async def release(self, *, owner: str) -> None:
        """Gives up every reservation of ``owner``."""
        ...


class _Record(msgspec.Struct, frozen=True):
    output_uri: str
    task: str
    stored_at: datetime


class StoreCache:
    """See the module's docstring.

    Args:
        prefix: URI below which the records are kept.
    """

    def __init__(self, store: DataStore, prefix: str, clock: Clock) -> None:
        self._store: Final = store
        self._prefix: Final = prefix.rstrip("/")
        self._clock: Final = clock
        self._reserved: Final[dict[str, str]] = {}
        self._owned: Final[dict[str, str]] = {}

    async def look_up(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths, *, owner: str
    ) -> CacheAnswer:
        key = await cache_key(action, template, inputs)
        outputs = await self._read(key, template)
        if outputs is not None:
            await self._store.put(paths.output, outputs)
            return CacheAnswer(is_hit=True)
        if not template.metadata.cache_serializable:
            return CacheAnswer()
        holder = self._reserved.setdefault(key, owner)
        if holder == owner:
            self._owned[owner] = key
        return CacheAnswer(owner=holder, retry_after_s=_BUSY_RETRY_S)

    async def _read(self, key: str, template: tasks_pb2.TaskTemplate) -> bytes | None:
        try:
            record = msgspec.json.decode(await self._store.get(self._path(key)), type=_Record)
            age_s = (self._clock.now() - record.stored_at).total_seconds()
            limit = template.metadata.cache_max_age
            if limit.seconds and age_s > limit.seconds:
                return None
            return await self._store.get(record.output_uri)
        except (ObjectNotFoundError, msgspec.DecodeError):
            return None

    async def store(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths
    ) -> str:
        record = _Record(paths.output, f"{action.metadata.namespace}/{action.metadata.name}", self._clock.now())
        try:
            if await self._store.size(paths.output) is None:
                return ""
            key = await cache_key(action, template, inputs)
            await self._store.put(self._path(key), msgspec.json.encode(record))
        except (StorageError, DecodeError):
            return CACHE_PUT_FAILURE
        return CACHE_POPULATED

    async def release(self, *, owner: str) -> None:
        key = self._owned.pop(owner, None)
        if key is not None and self._reserved.get(key) == owner:
            del self._reserved[key]

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}.json"


async def cache_key(action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader) -> str:
    """What two executions share when one may use the other's outputs, as a hash.

    The task without its version, its interface, the cache version, and the inputs but for those to
    be ignored; an input that carries a hash counts by that alone.
    """
    task = template.id
    whole: dict[str, object] = {
        "task": [task.resource_type, task.project, task.domain, task.name, task.org],
        "version": action.spec.cache_key or template.metadata.discovery_version,
        "interface": template.interface.SerializeToString(deterministic=True),
        "inputs": {},
    }
    if template.interface.inputs.variables:
        literals = await inputs.read()
        if literals is not None:
            whole["inputs"] = _hashed(literals.literals, frozenset(template.metadata.cache_ignore_input_vars))
    return hashlib.sha256(msgspec.json.encode(whole, order="sorted")).hexdigest()


def _hashed(literals: Mapping[str, literals_pb2.Literal], ignored: frozenset[str]) -> dict[str, object]:
    return {name: _hash(value) for name, value in literals.items() if name not in ignored}


def _hash(value: literals_pb2.Literal) -> object:
    if value.hash:
        return {"hash": value.hash}
    match value.WhichOneof("value"):
        case "collection":
            return [_hash(item) for item in value.collection.literals]
        case "map":
            return _hashed(value.map.literals, frozenset())
        case _:
            return value.SerializeToString(deterministic=True)
