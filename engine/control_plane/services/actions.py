"""``flyteidl2.actions.ActionsService``: queue and state in one service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.actions import actions_service_pb2
from flyteidl2.actions.actions_service_connect import ActionsService
from flyteidl2.common import identifier_pb2
from flyteidl2.workflow import run_definition_pb2, state_service_pb2

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.launching import check_action_name
from propfan.engine.control_plane.records import ActionKey
from propfan.engine.control_plane.services.context import Context
from propfan.engine.control_plane.services.identity import user_name
from propfan.engine.control_plane.services.requests import action_spec

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane


class Actions(ActionsService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def enqueue(
        self, request: actions_service_pb2.EnqueueRequest, ctx: Context
    ) -> actions_service_pb2.EnqueueResponse:
        await enqueue(self._plane, action_spec(request.action))
        return actions_service_pb2.EnqueueResponse()

    async def watch_for_updates(
        self, request: actions_service_pb2.WatchForUpdatesRequest, ctx: Context
    ) -> AsyncIterator[actions_service_pb2.WatchForUpdatesResponse]:
        async for update in updates_of(self._plane, request.parent_action_id):
            if update is None:
                control = state_service_pb2.ControlMessage(sentinel=True)
                yield actions_service_pb2.WatchForUpdatesResponse(control_message=control)
            else:
                yield actions_service_pb2.WatchForUpdatesResponse(action_update=update)

    async def abort(self, request: actions_service_pb2.AbortRequest, ctx: Context) -> actions_service_pb2.AbortResponse:
        action = request.action_id
        await self._plane.abort(ActionKey(action.run.name, action.name), request.reason)
        return actions_service_pb2.AbortResponse()

    async def signal(
        self, request: actions_service_pb2.SignalRequest, ctx: Context
    ) -> actions_service_pb2.SignalResponse:
        action = request.action_id
        by = request.signalled_by.user.id.subject or user_name()
        await self._plane.signal(ActionKey(action.run.name, action.name), request.value, by=by)
        return actions_service_pb2.SignalResponse()


async def enqueue(plane: ControlPlane, spec: run_definition_pb2.ActionSpec) -> None:
    """Adds a child to a run.

    Raises:
        ConnectError: ``ALREADY_EXISTS``, which clients take for done.
        InvalidRequestError: it can not be one.
    """
    check_action_name(spec.action_id.name)
    kind = spec.WhichOneof("spec")
    if kind is None:
        raise InvalidRequestError("spec", "one of task, trace and condition is required")
    task = spec.task.spec if kind == "task" else None
    if task is not None and not spec.task.HasField("spec"):
        _, task = await plane.catalog.task(spec.task.id)
    if not await plane.enqueue(spec, task):
        raise ConnectError(Code.ALREADY_EXISTS, f"action {spec.action_id.run.name}/{spec.action_id.name} exists")


async def updates_of(
    plane: ControlPlane, parent: identifier_pb2.ActionIdentifier
) -> AsyncIterator[state_service_pb2.ActionUpdate | None]:
    """Of the children of an action: as they are, then ``None``, then each change."""
    view = await plane.ledger.view(parent.run.name)
    is_first = True
    async with aclosing(view.follow(lambda record: record.parent == parent.name)) as changes:  # type: ignore[type-var]
        async for records in changes:
            for record in records:
                yield record.update
            if is_first:
                yield None
                is_first = False
