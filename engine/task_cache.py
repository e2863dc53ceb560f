"""Cached outputs of discoverable tasks, and who computes a value at the moment.

``StoreCache`` keeps one small record per key in the object store, beside the outputs that it
points at; reservations live in the process, because one engine drives all tasks of its store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, Protocol

import msgspec
import structlog
from flyteidl2.core import literals_pb2, tasks_pb2

from propfan.engine.clock import Clock
from propfan.pluginmachinery.contexts import DataStore, InputReader, IOPaths
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    DecodeError,
    ObjectNotFoundError,
    StorageError,
    TaskError,
)
from propfan.pluginmachinery.readers import DEFAULT_LIMIT_BYTES
from propfan.pluginmachinery.taskaction import TaskAction

logger = structlog.get_logger(__name__)

CACHE_POPULATED: Final = "CACHE_POPULATED"
CACHE_PUT_FAILURE: Final = "CACHE_PUT_FAILURE"
_BUSY_RETRY_S: Final = 5.0
_RECORD_LIMIT_BYTES: Final = 64 * 1024


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
        """Copies cached outputs to ``paths.output``; else reserves the key where the task wants that.

        A cache that can not be read, or a task for which there is no key, is a miss.

        Raises:
            StorageError: there is a hit, but its outputs can not be written to ``paths.output`` now.
        """
        ...

    async def store(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths
    ) -> str:
        """Offers the task's outputs to others; the resulting cache status. A cache at fault fails no task."""
        ...

    async def hold(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, *, owner: str
    ) -> None:
        """Keeps what ``owner`` has reserved before this engine began to drive it.

        Raises:
            StorageError, DecodeError, TaskError: the key is not known.
        """
        ...

    def let_go(self, *, owner: str) -> None:
        """Another engine keeps the reservations of ``owner`` from now on."""
        ...

    async def release(self, *, owner: str) -> None:
        """Gives up every reservation of ``owner``."""
        ...


class _Record(msgspec.Struct, frozen=True):
    output_uri: str
    task: str
    stored_at: Annotated[datetime, msgspec.Meta(tz=True)]


class StoreCache:
    """See the module's docstring.

    Args:
        prefix: URI below which the records are kept.
        limit_bytes: Larger outputs are no hit.
    """

    def __init__(self, store: DataStore, prefix: str, clock: Clock, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._store: Final = store
        self._prefix: Final = prefix.rstrip("/")
        self._clock: Final = clock
        self._limit_bytes: Final = limit_bytes
        self._holders: Final[dict[str, str]] = {}
        self._reserved: Final[dict[str, str]] = {}
        """Key to owner, and owner to key."""

    async def look_up(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths, *, owner: str
    ) -> CacheAnswer:
        try:
            key = await cache_key(action, template, inputs)
        except (StorageError, DecodeError, TaskError) as error:
            logger.warning("task runs without cache", task=owner, error=str(error))
            return CacheAnswer()
        # Before the look, so that nobody can store the outputs and leave between the two.
        holder = self._reserve(key, owner) if template.metadata.cache_serializable else ""
        outputs = await self._read(key, template, owner)
        if outputs is not None:
            await self.release(owner=owner)
            await self._store.put(paths.output, outputs)
            return CacheAnswer(is_hit=True)
        return CacheAnswer(owner=holder, retry_after_s=_BUSY_RETRY_S) if holder else CacheAnswer()

    def _reserve(self, key: str, owner: str) -> str:
        """Who holds the key now."""
        if self._reserved.get(owner, key) != key:
            self._give_up(owner)
        holder = self._holders.setdefault(key, owner)
        if holder == owner:
            self._reserved[owner] = key
        return holder

    async def _read(self, key: str, template: tasks_pb2.TaskTemplate, owner: str) -> bytes | None:
        """The outputs; ``None`` when there are none, or they are too old or can not be had."""
        try:
            content = await self._store.get(self._path(key), limit_bytes=_RECORD_LIMIT_BYTES)
            record = msgspec.json.decode(content, type=_Record)
            if self._is_too_old(record, template):
                return None
            return await self._store.get(record.output_uri, limit_bytes=self._limit_bytes)
        except ObjectNotFoundError:
            return None
        except (StorageError, ValueError, RecursionError) as error:  # a ValueError is a record that is none
            logger.warning("cache can not be read, task runs", task=owner, record=self._path(key), error=str(error))
            return None

    def _is_too_old(self, record: _Record, template: tasks_pb2.TaskTemplate) -> bool:
        limit = template.metadata.cache_max_age
        limit_s = limit.seconds + limit.nanos / 1e9
        return limit_s > 0 and (self._clock.now() - record.stored_at).total_seconds() > limit_s

    async def store(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths
    ) -> str:
        task = f"{action.metadata.namespace}/{action.metadata.name}"
        try:
            if await self._store.size(paths.output) is None:
                raise ObjectNotFoundError(paths.output)
            key = await cache_key(action, template, inputs)
            record = _Record(paths.output, task, self._clock.now())
            await self._store.put(self._path(key), msgspec.json.encode(record))
        except (StorageError, DecodeError, TaskError) as error:
            logger.warning("outputs are not cached", task=task, error=str(error))
            return CACHE_PUT_FAILURE
        return CACHE_POPULATED

    async def hold(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, *, owner: str
    ) -> None:
        self._reserve(await cache_key(action, template, inputs), owner)

    def let_go(self, *, owner: str) -> None:
        self._give_up(owner)

    async def release(self, *, owner: str) -> None:
        self._give_up(owner)

    def _give_up(self, owner: str) -> None:
        key = self._reserved.pop(owner, None)
        if key is not None:
            del self._holders[key]

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}.json"


async def cache_key(action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader) -> str:
    """What two executions share when one may use the other's outputs, as a hash.

    The task without its version, its interface, the cache version, and the inputs but for those to
    be ignored; an input that carries a hash counts by that alone.

    Raises:
        BadTaskSpecificationError: the template has no identifier, so nothing tells its task from others.
        StorageError, DecodeError, PermanentError: the inputs can not be read.
    """
    task = template.id
    if not task.name:
        raise BadTaskSpecificationError("discoverable task is missing identifier: set the template's id")
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
    """Kinds are told apart by their first word, so that no value can pass for another's hash."""
    if value.hash:
        return ["hash", value.hash]
    match value.WhichOneof("value"):
        case "collection":
            return ["collection", *(_hash(item) for item in value.collection.literals)]
        case "map":
            return ["map", _hashed(value.map.literals, frozenset())]
        case _:
            return ["value", value.SerializeToString(deterministic=True)]
