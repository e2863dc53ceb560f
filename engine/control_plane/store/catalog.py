"""Deployed tasks, and projects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from flyteidl2.project import project_service_pb2
from flyteidl2.task import task_definition_pb2
from sqlalchemy import Connection, func, select, union

from propfan.engine.control_plane.launching import digest_of
from propfan.engine.control_plane.records import micros
from propfan.engine.control_plane.store.database import Database, dialect_of
from propfan.engine.control_plane.store.queries import Page, Query
from propfan.engine.control_plane.store.schema import projects, runs, task_specs, tasks
from propfan.pluginmachinery.errors import AlreadyExistsError, NotFoundError

_TASK_COLUMNS: Final = {
    "name": tasks.c.name,
    "version": tasks.c.version,
    "project": tasks.c.project,
    "domain": tasks.c.domain,
    "created_at": tasks.c.deployed_at,
    "deployed_at": tasks.c.deployed_at,
}


class Catalog:
    """Reads and writes both."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def deploy(self, task: task_definition_pb2.Task, spec: task_definition_pb2.TaskSpec, now: datetime) -> None:
        """Stores a version of a task; the same again is no change.

        Raises:
            AlreadyExistsError: that version is another task.
        """
        named, digest = task.task_id, digest_of(spec)
        row = {
            "project": named.project,
            "domain": named.domain,
            "name": named.name,
            "version": named.version,
            "deployed_at": micros(now),
            "task_spec": digest,
            "content": task.SerializeToString(),
        }

        def deploy(connection: Connection) -> str:
            """The digest of that version."""
            insert = dialect_of(connection).insert
            content = {"digest": digest, "content": spec.SerializeToString(deterministic=True)}
            connection.execute(insert(task_specs).values(content).on_conflict_do_nothing())
            done = connection.execute(insert(tasks).values(row).on_conflict_do_nothing().returning(tasks.c.name))
            if done.one_or_none() is not None:
                return digest
            where = [tasks.c[name] == row[name] for name in ("project", "domain", "name", "version")]
            return str(connection.execute(select(tasks.c.task_spec).where(*where)).scalar_one())

        if await self._database.write(deploy) != digest:
            raise AlreadyExistsError(
                f"task {named.name} version {named.version}",
                "is deployed with another content: use a new version",
            )

    async def task(
        self, named: task_definition_pb2.TaskIdentifier
    ) -> tuple[task_definition_pb2.Task, task_definition_pb2.TaskSpec]:
        """A deployed task; the latest version when none is named.

        Raises:
            NotFoundError: there is none.
        """
        query = (
            select(tasks.c.content, task_specs.c.content)
            .join(task_specs, tasks.c.task_spec == task_specs.c.digest)
            .where(tasks.c.project == named.project, tasks.c.domain == named.domain, tasks.c.name == named.name)
            .order_by(tasks.c.deployed_at.desc(), tasks.c.version.desc())
            .limit(1)
        )
        if named.version:
            query = query.where(tasks.c.version == named.version)
        row = await self._database.row(query)
        if row is None:
            shown = f"task {named.project}/{named.domain}/{named.name} {named.version}".rstrip()
            raise NotFoundError(shown, "is not deployed: deploy it, or name one of 'flyte get task'")
        return task_definition_pb2.Task.FromString(row[0]), task_definition_pb2.TaskSpec.FromString(row[1])

    async def list_tasks(self, query: Query, project: str, domain: str) -> Page[task_definition_pb2.Task]:
        """The latest version of each task, newest first.

        Raises:
            InvalidRequestError: as ``Query.apply``.
        """
        latest = (
            select(tasks.c.project, tasks.c.domain, tasks.c.name, func.max(tasks.c.deployed_at).label("deployed_at"))
            .group_by(tasks.c.project, tasks.c.domain, tasks.c.name)
            .subquery()
        )
        base = select(tasks.c.content).join(
            latest,
            (tasks.c.project == latest.c.project)
            & (tasks.c.domain == latest.c.domain)
            & (tasks.c.name == latest.c.name)
            & (tasks.c.deployed_at == latest.c.deployed_at),
        )
        if project:
            base = base.where(tasks.c.project == project, tasks.c.domain == domain)
        return await self._tasks(query, base)

    async def list_versions(self, query: Query, named: task_definition_pb2.TaskName) -> Page[task_definition_pb2.Task]:
        """All versions of a task, newest first."""
        base = select(tasks.c.content).where(
            tasks.c.project == named.project, tasks.c.domain == named.domain, tasks.c.name == named.name
        )
        return await self._tasks(query, base)

    async def _tasks(self, query: Query, base: object) -> Page[task_definition_pb2.Task]:
        statement = query.apply(base, _TASK_COLUMNS, tasks.c.deployed_at.desc(), tasks.c.name)  # type: ignore[arg-type]
        rows = await self._database.rows(statement)
        return query.page([task_definition_pb2.Task.FromString(row[0]) for row in rows])

    async def create_project(self, project: project_service_pb2.Project) -> None:
        """Raises ``AlreadyExistsError``."""

        def create(connection: Connection) -> bool:
            row = {"id": project.id, "content": project.SerializeToString()}
            insert = dialect_of(connection).insert(projects).values(row).on_conflict_do_nothing()
            return connection.execute(insert.returning(projects.c.id)).one_or_none() is not None

        if not await self._database.write(create):
            raise AlreadyExistsError(f"project {project.id}", "exists")

    async def update_project(self, project: project_service_pb2.Project) -> None:
        """Raises ``NotFoundError``."""
        statement = projects.update().where(projects.c.id == project.id).values(content=project.SerializeToString())
        if await self._database.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise NotFoundError(f"project {project.id}", "there is no such project")

    async def list_projects(self) -> Sequence[project_service_pb2.Project]:
        """Those that were created, and those that only runs or tasks name."""
        named = union(select(runs.c.project), select(tasks.c.project))

        def read(connection: Connection) -> tuple[Sequence[bytes], set[str]]:
            contents = connection.execute(select(projects.c.content)).scalars().all()
            return contents, set(connection.execute(named).scalars())

        contents, names = await self._database.read(read)
        created = [project_service_pb2.Project.FromString(content) for content in contents]
        found = {project.id: project for project in created}
        found.update((name, project_service_pb2.Project(id=name, name=name)) for name in names - found.keys())
        return [found[name] for name in sorted(found)]
