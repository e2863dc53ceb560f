"""``flyteidl2.workflow.EventsProxyService``: what executors elsewhere have to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyteidl2.workflow import events_proxy_service_pb2
from flyteidl2.workflow.events_proxy_service_connect import EventsProxyService

from propfan.engine.control_plane.ledger import ToldEvent
from propfan.engine.control_plane.progress import TERMINAL
from propfan.engine.control_plane.records import ActionKey
from propfan.engine.control_plane.services.context import Context

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane


class EventsProxy(EventsProxyService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def record(
        self, request: events_proxy_service_pb2.RecordRequest, ctx: Context
    ) -> events_proxy_service_pb2.RecordResponse:
        """On the wire a terminal phase is the end: a failed attempt that another one follows is told as queued."""
        await self._plane.take_in(
            [
                ToldEvent(ActionKey(event.id.run.name, event.id.name), event, event.phase in TERMINAL)
                for event in request.events
            ]
        )
        return events_proxy_service_pb2.RecordResponse()
