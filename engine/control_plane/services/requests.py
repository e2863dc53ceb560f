"""What requests to several services have in common."""

from __future__ import annotations

from flyteidl2.actions import actions_service_pb2
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.task import task_definition_pb2
from flyteidl2.workflow import queue_service_pb2, run_definition_pb2, run_service_pb2

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.store.catalog import Catalog


async def task_of(
    catalog: Catalog, request: run_service_pb2.CreateRunRequest | dataproxy_service_pb2.UploadInputsRequest
) -> task_definition_pb2.TaskSpec:
    """The task that a request brings along or names.

    Raises:
        InvalidRequestError: it does neither.
        NotFoundError: nobody has deployed the one it names.
    """
    match request.WhichOneof("task"):
        case "task_spec":
            return request.task_spec
        case "task_id":
            _, spec = await catalog.task(request.task_id)
            return spec
        case "trigger_name":
            raise InvalidRequestError("trigger_name", "triggers are not offered: name a task")
        case _:
            raise InvalidRequestError("task", "one of task_spec and task_id is required")


def action_spec(
    message: actions_service_pb2.Action | queue_service_pb2.EnqueueActionRequest,
) -> run_definition_pb2.ActionSpec:
    """Of a child, from either message that asks for one."""
    spec = run_definition_pb2.ActionSpec(
        action_id=message.action_id,
        parent_action_name=message.parent_action_name,
        input_uri=message.input_uri,
        run_output_base=message.run_output_base,
        group=message.group,
    )
    kind = message.WhichOneof("spec")
    if kind:
        getattr(spec, kind).CopyFrom(getattr(message, kind))
    return spec
