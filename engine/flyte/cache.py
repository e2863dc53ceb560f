"""The cache of a Flyte 2 control plane: ``flyteidl2.cacheservice``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, Self, TypeVar

import anyio
import structlog
from flyteidl2.cacheservice import cacheservice_pb2 as v1
from flyteidl2.cacheservice.v2 import cacheservice_pb2 as v2
from flyteidl2.core import tasks_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from propfan.engine.clock import Clock
from propfan.engine.flyte.cache_key import cache_key
from propfan.engine.flyte.connect import CallError, ConnectClient
from propfan.engine.task_cache import CACHE_POPULATED, CACHE_PUT_FAILURE, CacheAnswer
from propfan.pluginmachinery.contexts import DataStore, InputReader, IOPaths
from propfan.pluginmachinery.errors import DecodeError, ObjectNotFoundError, StorageError, TaskError, TransientError
from propfan.pluginmachinery.taskaction import CACHE_OVERWRITE_ANNOTATION, TaskAction

logger = structlog.get_logger(__name__)

_SERVICE: Final = "flyteidl2.cacheservice.CacheService"
_SERVICE_V2: Final = "flyteidl2.cacheservice.v2.CacheService"

_AT_ONCE: Final = 16
"""Reservations that are extended at one time."""
_RETRY: Final = 0.5
"""Of the time between two heartbeats: when to ask again for what somebody else computes."""

_Answer = TypeVar("_Answer", bound=Message)


class FlyteCache:
    """A ``TaskCache``. Reservations are kept by heartbeats for as long as the task goes on.

    Asks the service's second version, and goes on with the first where that is all there is.

    Args:
        heartbeat_s: The service may allow less; a reservation ends three heartbeats after the last one.
        limit_bytes: Larger outputs are no hit.
    """

    def __init__(
        self,
        client: ConnectClient,
        store: DataStore,
        clock: Clock,
        *,
        organization: str,
        heartbeat_s: float,
        limit_bytes: int,
    ) -> None:
        self._client: Final = client
        self._store: Final = store
        self._clock: Final = clock
        self._organization: Final = organization
        self._heartbeat_s: Final = heartbeat_s
        self._limit_bytes: Final = limit_bytes
        self._has_v2 = True
        self._held: Final[dict[str, tuple[str, v2.Identifier]]] = {}
        """By owner: the key that it has reserved, and in whose name."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        client: ConnectClient,
        store: DataStore,
        clock: Clock,
        *,
        organization: str,
        heartbeat_s: float,
        limit_bytes: int,
    ) -> AsyncIterator[Self]:
        """Keeps reservations while the block runs. See the class for the arguments."""
        cache = cls(client, store, clock, organization=organization, heartbeat_s=heartbeat_s, limit_bytes=limit_bytes)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache._keep)
            yield cache
            tasks.cancel_scope.cancel()

    # -- What a task asks --------------------------------------------------------------------------

    async def look_up(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths, *, owner: str
    ) -> CacheAnswer:
        try:
            key = await cache_key(action, template, inputs)
            found = await self._get(key, action)
        except (StorageError, DecodeError, TaskError, CallError) as error:
            logger.warning("task runs without cache", task=owner, error=str(error))
            return CacheAnswer()
        outputs = await self._outputs(found, template, owner) if found is not None else None
        if outputs is not None:
            await self.release(owner=owner)
            await self._store.put(paths.output, outputs)
            return CacheAnswer(is_hit=True)
        if not template.metadata.cache_serializable:
            return CacheAnswer()
        scope = self._identifier(action)
        try:
            holder = await self._reserve(key, scope, owner)
        except CallError as error:
            raise TransientError("", f"acquiring cache reservation: {error}") from error
        if holder == owner:
            self._held[owner] = (key, scope)
        return CacheAnswer(owner=holder, retry_after_s=self._heartbeat_s * _RETRY)

    async def store(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, paths: IOPaths
    ) -> str:
        task = f"{action.metadata.namespace}/{action.metadata.name}"
        try:
            if await self._store.size(paths.output) is None:
                raise ObjectNotFoundError(paths.output)
            key = await cache_key(action, template, inputs)
            output = v1.CachedOutput(output_uri=paths.output, metadata=_source(action, template))
            is_fresh_wanted = action.metadata.annotations.get(CACHE_OVERWRITE_ANNOTATION) == "true"
            try:
                await self._put(key, action, output, overwrite=is_fresh_wanted)
            except CallError as error:
                if error.code != "already_exists":
                    raise
                present = await self._get(key, action)
                if present is None or await self._outputs(present, template, task) is None:
                    await self._put(key, action, output, overwrite=True)  # what is there serves nobody
        except (StorageError, DecodeError, TaskError, CallError) as error:
            logger.warning("outputs are not cached", task=task, error=str(error))
            return CACHE_PUT_FAILURE
        return CACHE_POPULATED

    async def hold(
        self, action: TaskAction, template: tasks_pb2.TaskTemplate, inputs: InputReader, *, owner: str
    ) -> None:
        self._held[owner] = (await cache_key(action, template, inputs), self._identifier(action))

    def let_go(self, *, owner: str) -> None:
        self._held.pop(owner, None)

    async def release(self, *, owner: str) -> None:
        held = self._held.pop(owner, None)
        if held is None:
            return
        key, scope = held
        try:
            request = v1.ReleaseReservationRequest(key=key, owner_id=owner)
            wrapped = v2.ReleaseReservationRequest(base_request=request, identifier=scope)
            await self._call("ReleaseReservation", request, wrapped, v1.ReleaseReservationResponse)
        except CallError as error:
            if error.code != "not_found":
                logger.warning("cache reservation is left to expire", task=owner, error=str(error))

    # -- Reservations ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            await anyio.sleep(self._heartbeat_s)
            at_once = anyio.CapacityLimiter(_AT_ONCE)
            async with anyio.create_task_group() as tasks:
                for owner in list(self._held):
                    tasks.start_soon(self._extend, owner, at_once)

    async def _extend(self, owner: str, at_once: anyio.CapacityLimiter) -> None:
        async with at_once:
            held = self._held.get(owner)
            if held is None:
                return
            try:
                holder = await self._reserve(*held, owner)
            except CallError as error:
                logger.warning("cache reservation is not extended", task=owner, error=str(error))
                return
            if self._held.get(owner) != held:  # given up meanwhile: what was just extended must not stay
                self._held.setdefault(owner, held)
                await self.release(owner=owner)
            elif holder != owner:
                logger.warning("cache reservation was lost", task=owner, holder=holder)
                self._held.pop(owner, None)

    async def _reserve(self, key: str, scope: v2.Identifier, owner: str) -> str:
        """Who holds the key now."""
        heartbeat = Duration()
        heartbeat.FromTimedelta(timedelta(seconds=self._heartbeat_s))
        request = v1.GetOrExtendReservationRequest(key=key, owner_id=owner, heartbeat_interval=heartbeat)
        wrapped = v2.GetOrExtendReservationRequest(base_request=request, identifier=scope)
        answer = await self._call("GetOrExtendReservation", request, wrapped, v1.GetOrExtendReservationResponse)
        return str(answer.reservation.owner_id)

    # -- Entries -----------------------------------------------------------------------------------

    async def _get(self, key: str, action: TaskAction) -> v1.CachedOutput | None:
        request = v1.GetCacheRequest(key=key)
        wrapped = v2.GetCacheRequest(base_request=request, identifier=self._identifier(action))
        try:
            return (await self._call("Get", request, wrapped, v1.GetCacheResponse)).output
        except CallError as error:
            if error.code == "not_found":
                return None
            raise

    async def _put(self, key: str, action: TaskAction, output: v1.CachedOutput, *, overwrite: bool) -> None:
        request = v1.PutCacheRequest(key=key, output=output, overwrite=v1.OverwriteOutput(overwrite=overwrite))
        wrapped = v2.PutCacheRequest(base_request=request, identifier=self._identifier(action))
        await self._call("Put", request, wrapped, v1.PutCacheResponse)

    async def _outputs(self, found: v1.CachedOutput, template: tasks_pb2.TaskTemplate, task: str) -> bytes | None:
        """What was cached; ``None`` when it is too old or can not be had."""
        if self._is_too_old(found, template):
            return None
        if not found.output_uri:
            return found.output_literals.SerializeToString()  # an Outputs message reads the same
        try:
            return await self._store.get(found.output_uri, limit_bytes=self._limit_bytes)
        except StorageError as error:
            logger.warning("cached outputs can not be read, task runs", task=task, error=str(error))
            return None

    def _is_too_old(self, found: v1.CachedOutput, template: tasks_pb2.TaskTemplate) -> bool:
        limit = template.metadata.cache_max_age
        limit_s = limit.seconds + limit.nanos / 1e9
        return limit_s > 0 and self._clock.now().timestamp() - found.metadata.last_updated_at.seconds > limit_s

    def _identifier(self, action: TaskAction) -> v2.Identifier:
        spec = action.spec
        return v2.Identifier(org=self._organization, project=spec.project, domain=spec.domain)

    async def _call(self, method: str, request: Message, wrapped: Message, answer: type[_Answer]) -> _Answer:
        if self._has_v2:
            try:
                return await self._client.call(f"{_SERVICE_V2}/{method}", wrapped, answer)
            except CallError as error:
                if error.code != "unimplemented":
                    raise
            logger.info("the cache service has its first version only", url=self._client.url)
            self._has_v2 = False
        return await self._client.call(f"{_SERVICE}/{method}", request, answer)


def _source(action: TaskAction, template: tasks_pb2.TaskTemplate) -> v1.Metadata:
    """Whose outputs these are, in the words that Flyte's readers look for."""
    spec, task = action.spec, template.id
    attempt = max(action.status.attempts, 1) - 1
    values = {
        "task-version": task.version,
        "execution-name": spec.run_name,
        "exec-domain": spec.domain,
        "exec-project": spec.project,
        "exec-node": spec.action_name,
        "exec-attempt": str(attempt),
        "exec-org": task.org,
    }
    return v1.Metadata(source_identifier=task, key_map=v1.KeyMapMetadata(values=values))
