"""``flyteidl2.task.TaskService``: deployed tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flyteidl2.task import task_definition_pb2, task_service_pb2
from flyteidl2.task.task_service_connect import TaskService

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.services.context import Context
from propfan.engine.control_plane.services.identity import user_name
from propfan.engine.control_plane.store.queries import Query

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane


class Tasks(TaskService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def deploy_task(
        self, request: task_service_pb2.DeployTaskRequest, ctx: Context
    ) -> task_service_pb2.DeployTaskResponse:
        named, spec = request.task_id, request.spec
        for field in ("project", "domain", "name", "version"):
            if not getattr(named, field):
                raise InvalidRequestError(f"task_id.{field}", "is required")
        if request.triggers:
            raise InvalidRequestError("triggers", "are not offered: deploy the task without them")
        now = datetime.now(UTC)
        metadata = task_definition_pb2.TaskMetadata(
            short_name=spec.short_name,
            environment_name=spec.environment.name,
            short_description=spec.documentation.short_description,
        )
        metadata.deployed_by.user.id.subject = user_name()
        metadata.deployed_at.FromDatetime(now)
        await self._plane.catalog.deploy(task_definition_pb2.Task(task_id=named, metadata=metadata), spec, now)
        return task_service_pb2.DeployTaskResponse()

    async def get_task_details(
        self, request: task_service_pb2.GetTaskDetailsRequest, ctx: Context
    ) -> task_service_pb2.GetTaskDetailsResponse:
        task, spec = await self._plane.catalog.task(request.task_id)
        details = task_definition_pb2.TaskDetails(task_id=task.task_id, metadata=task.metadata, spec=spec)
        return task_service_pb2.GetTaskDetailsResponse(details=details)

    async def list_tasks(
        self, request: task_service_pb2.ListTasksRequest, ctx: Context
    ) -> task_service_pb2.ListTasksResponse:
        where = request.project_id
        page = await self._plane.catalog.list_tasks(Query(request.request), where.name, where.domain)
        latest = await self._plane.ledger.store.latest_runs(
            where.name, where.domain, [task.task_id.name for task in page.items]
        )
        for task in page.items:
            run = latest.get(task.task_id.name)
            if run is not None:
                task.task_summary.latest_run.run_id.CopyFrom(run.id)
                task.task_summary.latest_run.run_time.FromDatetime(run.created_at)
        return task_service_pb2.ListTasksResponse(tasks=page.items, token=page.token)

    async def list_versions(
        self, request: task_service_pb2.ListVersionsRequest, ctx: Context
    ) -> task_service_pb2.ListVersionsResponse:
        page = await self._plane.catalog.list_versions(Query(request.request), request.task_name)
        answer = task_service_pb2.ListVersionsResponse(token=page.token)
        for task in page.items:
            answer.versions.add(
                version=task.task_id.version,
                deployed_at=task.metadata.deployed_at,
                deployed_by=task.metadata.deployed_by,
            )
        return answer
