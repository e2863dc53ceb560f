"""Flyte 2's services in this process: the generated servers of ``flyteidl2``, with simple stores behind them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import uvicorn
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from flyteidl2.cacheservice import cacheservice_connect
from flyteidl2.cacheservice import cacheservice_pb2 as v1
from flyteidl2.cacheservice.v2 import cacheservice_connect as v2_connect
from flyteidl2.cacheservice.v2 import cacheservice_pb2 as v2
from flyteidl2.workflow import events_proxy_service_connect, events_proxy_service_pb2, run_definition_pb2

Context = RequestContext[Any, Any]


@contextlib.contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """Serves an ASGI application from a thread; its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
    taken = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{taken}"
    finally:
        server.should_exit = True
        thread.join()


class EventsService:
    """Refuses requests that hold an event of a run in ``refused``, and all while ``refusal`` is set."""

    def __init__(self) -> None:
        self.refusal: ConnectError | None = None
        self.refused: Final[dict[str, Code]] = {}
        self.requests: Final[list[list[run_definition_pb2.ActionEvent]]] = []
        self._lock: Final = threading.Lock()

    async def record(
        self, request: events_proxy_service_pb2.RecordRequest, ctx: Context
    ) -> events_proxy_service_pb2.RecordResponse:
        if self.refusal is not None:
            raise self.refusal
        for event in request.events:
            if event.id.run.name in self.refused:
                raise ConnectError(self.refused[event.id.run.name], f"no {event.id.run.name}")
        with self._lock:
            self.requests.append(list(request.events))
        return events_proxy_service_pb2.RecordResponse()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.refusal = ConnectError(Code.UNAVAILABLE, "down for a test")
        try:
            yield
        finally:
            self.refusal = None

    @property
    def events(self) -> list[run_definition_pb2.ActionEvent]:
        with self._lock:
            return [event for request in self.requests for event in request]

    @property
    def app(self) -> Any:
        return events_proxy_service_connect.EventsProxyServiceASGIApplication(self)


class CacheService:
    """Keeps entries and reservations as the protocol says; a reservation lasts until ``expire``.

    While ``refusal`` is set all calls get it, or only those named in ``refused``.
    """

    def __init__(self) -> None:
        self.entries: Final[dict[str, v1.CachedOutput]] = {}
        self.reservations: Final[dict[str, str]] = {}
        self.extended: Final[list[str]] = []
        """Owners, each time that one had or got a reservation."""
        self.refused: frozenset[str] = frozenset({"get", "put", "delete", "reserve", "release"})
        self.scopes: Final[list[v2.Identifier]] = []
        self.refusal: ConnectError | None = None

    def _begin(self, name: str) -> None:
        if self.refusal is not None and name in self.refused:
            raise self.refusal

    async def get(self, request: v1.GetCacheRequest, ctx: Context) -> v1.GetCacheResponse:
        self._begin("get")
        found = self.entries.get(request.key)
        if found is None:
            raise ConnectError(Code.NOT_FOUND, "no such entry")
        return v1.GetCacheResponse(output=found)

    async def put(self, request: v1.PutCacheRequest, ctx: Context) -> v1.PutCacheResponse:
        self._begin("put")
        if request.key in self.entries and not request.overwrite.overwrite:
            raise ConnectError(Code.ALREADY_EXISTS, "there is an entry")
        stored = v1.CachedOutput()
        stored.CopyFrom(request.output)
        stored.metadata.last_updated_at.FromDatetime(datetime.now(UTC))
        self.entries[request.key] = stored
        return v1.PutCacheResponse()

    async def delete(self, request: v1.DeleteCacheRequest, ctx: Context) -> v1.DeleteCacheResponse:
        self._begin("delete")
        self.entries.pop(request.key, None)
        return v1.DeleteCacheResponse()

    async def get_or_extend_reservation(
        self, request: v1.GetOrExtendReservationRequest, ctx: Context
    ) -> v1.GetOrExtendReservationResponse:
        self._begin("reserve")
        assert request.heartbeat_interval.ToTimedelta()
        holder = self.reservations.setdefault(request.key, request.owner_id)
        if holder == request.owner_id:
            self.extended.append(holder)
        return v1.GetOrExtendReservationResponse(reservation=v1.Reservation(key=request.key, owner_id=holder))

    async def release_reservation(
        self, request: v1.ReleaseReservationRequest, ctx: Context
    ) -> v1.ReleaseReservationResponse:
        self._begin("release")
        if self.reservations.get(request.key) != request.owner_id:
            raise ConnectError(Code.NOT_FOUND, "no such reservation")
        del self.reservations[request.key]
        return v1.ReleaseReservationResponse()

    @property
    def first_version(self) -> Any:
        return cacheservice_connect.CacheServiceASGIApplication(self)

    @property
    def second_version(self) -> Any:
        return v2_connect.CacheServiceASGIApplication(_SecondVersion(self))


class _SecondVersion:
    def __init__(self, first: CacheService) -> None:
        self._first: Final = first

    def _open(self, request: Any) -> Any:
        self._first.scopes.append(request.identifier)
        return request.base_request

    async def get(self, request: v2.GetCacheRequest, ctx: Context) -> v1.GetCacheResponse:
        return await self._first.get(self._open(request), ctx)

    async def put(self, request: v2.PutCacheRequest, ctx: Context) -> v1.PutCacheResponse:
        return await self._first.put(self._open(request), ctx)

    async def delete(self, request: v2.DeleteCacheRequest, ctx: Context) -> v1.DeleteCacheResponse:
        return await self._first.delete(self._open(request), ctx)

    async def get_or_extend_reservation(
        self, request: v2.GetOrExtendReservationRequest, ctx: Context
    ) -> v1.GetOrExtendReservationResponse:
        return await self._first.get_or_extend_reservation(self._open(request), ctx)

    async def release_reservation(
        self, request: v2.ReleaseReservationRequest, ctx: Context
    ) -> v1.ReleaseReservationResponse:
        return await self._first.release_reservation(self._open(request), ctx)
