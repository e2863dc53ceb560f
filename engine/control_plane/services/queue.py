"""``QueueService`` and ``StateService``: how a running task starts others and learns what becomes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from flyteidl2.workflow import queue_service_pb2, state_service_pb2
from flyteidl2.workflow.queue_service_connect import QueueService
from flyteidl2.workflow.state_service_connect import StateService

from propfan.engine.control_plane.records import ActionKey
from propfan.engine.control_plane.services.actions import enqueue, updates_of
from propfan.engine.control_plane.services.context import Context
from propfan.engine.control_plane.services.requests import action_spec

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane


class Queue(QueueService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def enqueue_action(
        self, request: queue_service_pb2.EnqueueActionRequest, ctx: Context
    ) -> queue_service_pb2.EnqueueActionResponse:
        await enqueue(self._plane, action_spec(request))
        return queue_service_pb2.EnqueueActionResponse()

    async def abort_queued_run(
        self, request: queue_service_pb2.AbortQueuedRunRequest, ctx: Context
    ) -> queue_service_pb2.AbortQueuedRunResponse:
        await self._plane.abort_run(request.run_id.name, request.reason)
        return queue_service_pb2.AbortQueuedRunResponse()

    async def abort_queued_action(
        self, request: queue_service_pb2.AbortQueuedActionRequest, ctx: Context
    ) -> queue_service_pb2.AbortQueuedActionResponse:
        action = request.action_id
        await self._plane.abort(ActionKey(action.run.name, action.name), request.reason)
        return queue_service_pb2.AbortQueuedActionResponse()


class State(StateService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def watch(
        self, request: state_service_pb2.WatchRequest, ctx: Context
    ) -> AsyncIterator[state_service_pb2.WatchResponse]:
        parent = request.parent_action_id
        async for update in updates_of(self._plane, parent):
            if update is None:
                yield state_service_pb2.WatchResponse(control_message=state_service_pb2.ControlMessage(sentinel=True))
            else:
                yield state_service_pb2.WatchResponse(action_update=update)
