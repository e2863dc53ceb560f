"""``flyteidl2.project.ProjectService``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyteidl2.project import project_service_pb2
from flyteidl2.project.project_service_connect import ProjectService

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.services.context import Context
from propfan.pluginmachinery.errors import NotFoundError

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane

DOMAINS: Final = ("development", "staging", "production")
"""Of every project, as in Flyte's own deployments."""


class Projects(ProjectService):
    """Projects are names: runs may have one that nobody has created."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def create_project(
        self, request: project_service_pb2.CreateProjectRequest, ctx: Context
    ) -> project_service_pb2.CreateProjectResponse:
        if not request.project.id:
            raise InvalidRequestError("project.id", "is required")
        await self._plane.catalog.create_project(request.project)
        return project_service_pb2.CreateProjectResponse()

    async def update_project(
        self, request: project_service_pb2.UpdateProjectRequest, ctx: Context
    ) -> project_service_pb2.UpdateProjectResponse:
        await self._plane.catalog.update_project(request.project)
        return project_service_pb2.UpdateProjectResponse()

    async def get_project(
        self, request: project_service_pb2.GetProjectRequest, ctx: Context
    ) -> project_service_pb2.GetProjectResponse:
        for project in await self._plane.catalog.list_projects():
            if project.id == request.id:
                return project_service_pb2.GetProjectResponse(project=_complete(project))
        raise NotFoundError(f"project {request.id}", "there is no such project")

    async def list_projects(
        self, request: project_service_pb2.ListProjectsRequest, ctx: Context
    ) -> project_service_pb2.ListProjectsResponse:
        found = [_complete(project) for project in await self._plane.catalog.list_projects()]
        return project_service_pb2.ListProjectsResponse(projects=project_service_pb2.Projects(projects=found))


def _complete(project: project_service_pb2.Project) -> project_service_pb2.Project:
    """With the domains, when it was created without."""
    if not project.domains:
        project.domains.extend(project_service_pb2.Domain(id=name, name=name) for name in DOMAINS)
    return project
