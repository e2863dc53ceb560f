"""``flyteidl2.cacheservice.CacheService``, in both its versions, for executors elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyteidl2.cacheservice import cacheservice_pb2 as v1
from flyteidl2.cacheservice.cacheservice_connect import CacheService
from flyteidl2.cacheservice.v2 import cacheservice_pb2 as v2
from flyteidl2.cacheservice.v2.cacheservice_connect import CacheService as ScopedCacheService

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.services.context import Context

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane

_MAX_KEY: Final = 512


class Cache(CacheService):
    """Keys are taken as they are."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def get(self, request: v1.GetCacheRequest, ctx: Context) -> v1.GetCacheResponse:
        return v1.GetCacheResponse(output=await self._plane.cached.get(_key(request.key)))

    async def put(self, request: v1.PutCacheRequest, ctx: Context) -> v1.PutCacheResponse:
        await self._plane.cached.put(_key(request.key), request.output, overwrite=request.overwrite.overwrite)
        return v1.PutCacheResponse()

    async def delete(self, request: v1.DeleteCacheRequest, ctx: Context) -> v1.DeleteCacheResponse:
        await self._plane.cached.forget(_key(request.key))
        return v1.DeleteCacheResponse()

    async def get_or_extend_reservation(
        self, request: v1.GetOrExtendReservationRequest, ctx: Context
    ) -> v1.GetOrExtendReservationResponse:
        heartbeat = request.heartbeat_interval.ToTimedelta()
        if not request.owner_id or heartbeat.total_seconds() <= 0:
            raise InvalidRequestError("owner_id, heartbeat_interval", "are required")
        owner, until = await self._plane.cached.reserve(_key(request.key), request.owner_id, heartbeat)
        reservation = v1.Reservation(key=request.key, owner_id=owner, heartbeat_interval=request.heartbeat_interval)
        reservation.expires_at.FromDatetime(until)
        return v1.GetOrExtendReservationResponse(reservation=reservation)

    async def release_reservation(
        self, request: v1.ReleaseReservationRequest, ctx: Context
    ) -> v1.ReleaseReservationResponse:
        await self._plane.cached.release(_key(request.key), request.owner_id)
        return v1.ReleaseReservationResponse()


class ScopedCache(ScopedCacheService):
    """Keys of one project and domain are not those of another."""

    def __init__(self, plane: ControlPlane) -> None:
        self._cache: Final = Cache(plane)

    async def get(self, request: v2.GetCacheRequest, ctx: Context) -> v1.GetCacheResponse:
        base = request.base_request
        return await self._cache.get(v1.GetCacheRequest(key=_scoped(request.identifier, base.key)), ctx)

    async def put(self, request: v2.PutCacheRequest, ctx: Context) -> v1.PutCacheResponse:
        base = request.base_request
        base.key = _scoped(request.identifier, base.key)
        return await self._cache.put(base, ctx)

    async def delete(self, request: v2.DeleteCacheRequest, ctx: Context) -> v1.DeleteCacheResponse:
        base = request.base_request
        return await self._cache.delete(v1.DeleteCacheRequest(key=_scoped(request.identifier, base.key)), ctx)

    async def get_or_extend_reservation(
        self, request: v2.GetOrExtendReservationRequest, ctx: Context
    ) -> v1.GetOrExtendReservationResponse:
        base = request.base_request
        asked, base.key = base.key, _scoped(request.identifier, base.key)
        answer = await self._cache.get_or_extend_reservation(base, ctx)
        answer.reservation.key = asked
        return answer

    async def release_reservation(
        self, request: v2.ReleaseReservationRequest, ctx: Context
    ) -> v1.ReleaseReservationResponse:
        base = request.base_request
        base.key = _scoped(request.identifier, base.key)
        return await self._cache.release_reservation(base, ctx)


def _key(key: str) -> str:
    if not key or len(key) > _MAX_KEY:
        raise InvalidRequestError("key", f"must have 1 to {_MAX_KEY} characters, has {len(key)}")
    return key


def _scoped(identifier: v2.Identifier, key: str) -> str:
    return f"{identifier.org}/{identifier.project}/{identifier.domain}/{_key(key)}"
