"""Runs and their actions in the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from flyteidl2.common import identifier_pb2
from flyteidl2.task import run_pb2, task_definition_pb2
from flyteidl2.workflow import run_definition_pb2, state_service_pb2
from sqlalchemy import Connection, Row, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from propfan.engine.control_plane.progress import TERMINAL
from propfan.engine.control_plane.records import ROOT, ActionKey, ActionRecord, RunRecord, micros, of_micros
from propfan.engine.control_plane.store.database import Database
from propfan.engine.control_plane.store.queries import Page, Query
from propfan.engine.control_plane.store.schema import actions, runs, task_specs
from propfan.pluginmachinery.errors import AlreadyExistsError, NotFoundError

_RUN_COLUMNS: Final = {
    "name": runs.c.name,
    "run_name": runs.c.name,
    "task_name": runs.c.task_name,
    "task_version": runs.c.task_version,
    "phase": runs.c.phase,
    "created_at": runs.c.created_at,
    "start_time": runs.c.created_at,
    "updated_at": runs.c.created_at,
    "end_time": runs.c.ended_at,
    "project": runs.c.project,
    "domain": runs.c.domain,
    "org": runs.c.org,
    "source": runs.c.source,
    "created_by": runs.c.created_by,
    "labels": runs.c.labels,
}

_ACTION_COLUMNS: Final = {
    "name": actions.c.name,
    "parent_name": actions.c.parent,
    "phase": actions.c.phase,
    "action_type": actions.c.action_type,
    "task_name": actions.c.task_name,
    "created_at": actions.c.position,
    "start_time": actions.c.position,
}


class _Inserts(NamedTuple):
    """What is there stays as it is. Made once: to make a statement takes longer than to run it."""

    task_spec: Any
    action: Any

    @classmethod
    def of(cls, dialect: Any) -> _Inserts:
        action = dialect.insert(actions).on_conflict_do_nothing().returning(actions.c.run, actions.c.name)
        return cls(dialect.insert(task_specs).on_conflict_do_nothing(), action)


_INSERTS: Final = {"sqlite": _Inserts.of(sqlite), "postgresql": _Inserts.of(postgresql)}

_UPDATE_ACTION: Final = (
    update(actions)
    .where(
        actions.c.run == bindparam("of_run"),
        actions.c.name == bindparam("named"),
        actions.c.revision == bindparam("before"),
    )
    .values({name: bindparam(name) for name in ("phase", "details", "update", "revision", "is_submitted")})
)
"""All that changes in an action's life, if nobody else has changed it."""


class RunStore:
    """Reads and writes whole records."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def add_run(self, run: RunRecord, root: ActionRecord, spec: task_definition_pb2.TaskSpec) -> None:
        """Stores a run with its root action.

        Raises:
            AlreadyExistsError: there is a run by that name.
        """
        row = {
            "name": run.id.name,
            "org": run.id.org,
            "project": run.id.project,
            "domain": run.id.domain,
            "task_name": run.task_name,
            "task_version": run.task_version,
            "spec": run.spec.SerializeToString(),
            "source": run.source,
            "labels": dict(run.spec.labels.values),
            "created_by": run.created_by,
            "driver": run.driver,
            "created_at": micros(run.created_at),
            "phase": root.phase,
        }

        def add(connection: Connection) -> None:
            connection.execute(runs.insert().values(row))
            _insert(connection, [root], {root.task_spec: spec})

        try:
            await self._database.write(add)
        except IntegrityError:
            raise AlreadyExistsError(f"run {run.id.name}", "there is a run by that name: choose another") from None

    async def add_actions(
        self, records: Sequence[ActionRecord], specs: dict[str, task_definition_pb2.TaskSpec]
    ) -> Collection[ActionKey]:
        """Stores those that are new, and says which they are."""
        return await self._database.write(lambda connection: _insert(connection, records, specs))

    async def save(self, changed: Sequence[ActionRecord]) -> bool:
        """Writes new revisions over the ones before, all or none; the runs of root actions follow.

        Whether it did: somebody else may have written one of them meanwhile.
        """
        return await self._database.write(lambda connection: _save(connection, changed))

    async def run(self, name: str) -> RunRecord:
        """Raises ``NotFoundError`` when there is none."""
        row = await self._database.row(select(runs).where(runs.c.name == name))
        if row is None:
            raise NotFoundError(f"run {name}", "there is no such run")
        return _run(row)

    async def actions_of(self, run: str) -> Sequence[ActionRecord]:
        """All actions of a run, oldest first."""
        query = select(actions).where(actions.c.run == run).order_by(actions.c.position, actions.c.name)
        return await self._read(query)

    async def unsubmitted(self, driver: str) -> Sequence[ActionRecord]:
        """Actions of a process that go on and of which its engine has told nothing yet."""
        query = select(actions).join(runs, actions.c.run == runs.c.name).where(runs.c.driver == driver)
        return await self._read(query.where(actions.c.is_submitted == 0, actions.c.phase.not_in(TERMINAL)))

    async def parents_at_work(self, driver: str) -> Sequence[tuple[str, str]]:
        """Run and name of a process' actions whose children go on."""
        query = select(actions.c.run, actions.c.parent).distinct().join(runs, actions.c.run == runs.c.name)
        query = query.where(runs.c.driver == driver, actions.c.parent != "", actions.c.phase.not_in(TERMINAL))
        return [(run, parent) for run, parent in await self._database.rows(query)]

    async def task_spec(self, digest: str) -> task_definition_pb2.TaskSpec:
        query = select(task_specs.c.content).where(task_specs.c.digest == digest)
        row = await self._database.row(query)
        if row is None:
            raise NotFoundError(f"task spec {digest}", "is not in the database")
        return task_definition_pb2.TaskSpec.FromString(row.content)

    async def list_runs(self, query: Query, **scope: str) -> Page[RunRecord]:
        """A page of runs, newest first unless asked otherwise; ``scope`` are columns that must be equal.

        Raises:
            InvalidQueryError: an unknown field, or a token that is none.
        """
        base = select(runs)
        for name, value in scope.items():
            base = base.where(runs.c[name] == value)
        statement = query.apply(base, _RUN_COLUMNS, runs.c.created_at.desc(), runs.c.name)
        return query.page([_run(row) for row in await self._database.rows(statement)])

    async def list_actions(self, query: Query, run: str) -> Page[ActionRecord]:
        """Raises as ``list_runs``."""
        statement = query.apply(
            select(actions).where(actions.c.run == run), _ACTION_COLUMNS, actions.c.position, actions.c.name
        )
        return query.page(await self._read(statement))

    async def roots(self, names: Sequence[str]) -> dict[str, ActionRecord]:
        """The root actions of runs, by the run's name."""
        found = await self._read(select(actions).where(actions.c.name == ROOT, actions.c.run.in_(names)))
        return {record.key.run: record for record in found}

    async def latest_runs(self, project: str, domain: str, tasks: Sequence[str]) -> dict[str, RunRecord]:
        """The newest run of each task, by the task's name."""
        newest = (
            select(runs.c.task_name, func.max(runs.c.created_at).label("created_at"))
            .where(runs.c.project == project, runs.c.domain == domain, runs.c.task_name.in_(tasks))
            .group_by(runs.c.task_name)
            .subquery()
        )
        query = select(runs).join(
            newest, (runs.c.task_name == newest.c.task_name) & (runs.c.created_at == newest.c.created_at)
        )
        return {row.task_name: _run(row) for row in await self._database.rows(query)}

    async def _read(self, query: Any) -> Sequence[ActionRecord]:
        return [_action(row) for row in await self._database.rows(query)]


def _insert(
    connection: Connection, records: Sequence[ActionRecord], specs: dict[str, task_definition_pb2.TaskSpec]
) -> Collection[ActionKey]:
    inserts = _INSERTS[connection.dialect.name]
    if specs:
        contents = [
            {"digest": digest, "content": spec.SerializeToString(deterministic=True)} for digest, spec in specs.items()
        ]
        connection.execute(inserts.task_spec, contents)
    done = connection.execute(inserts.action, [_action_row(record) for record in records])
    return {ActionKey(run, name) for run, name in done}


def _save(connection: Connection, changed: Sequence[ActionRecord]) -> bool:
    rows = [_changed_row(record) for record in changed]
    if connection.dialect.supports_sane_multi_rowcount:
        written = connection.execute(_UPDATE_ACTION, rows).rowcount
    else:
        written = sum(connection.execute(_UPDATE_ACTION, row).rowcount for row in rows)
    if written != len(rows):
        connection.rollback()
        return False
    for record in changed:
        if record.key.name == ROOT:
            ended = record.details.status.end_time.ToMicroseconds() if record.is_over else None
            values = {"phase": record.phase, "ended_at": ended}
            connection.execute(update(runs).where(runs.c.name == record.key.run).values(values))
    return True


def _run(row: Row[Any]) -> RunRecord:
    return RunRecord(
        id=identifier_pb2.RunIdentifier(org=row.org, project=row.project, domain=row.domain, name=row.name),
        task_name=row.task_name,
        task_version=row.task_version,
        spec=run_pb2.RunSpec.FromString(row.spec),
        source=row.source,
        created_by=row.created_by,
        driver=row.driver,
        created_at=of_micros(row.created_at),
    )


def _action(row: Row[Any]) -> ActionRecord:
    return ActionRecord(
        key=ActionKey(row.run, row.name),
        parent=row.parent,
        position=row.position,
        task_spec=row.task_spec,
        spec=run_definition_pb2.ActionSpec.FromString(row.spec),
        details=run_definition_pb2.ActionDetails.FromString(row.details),
        update=state_service_pb2.ActionUpdate.FromString(row.update),
        revision=row.revision,
        is_submitted=bool(row.is_submitted),
    )


def _action_row(record: ActionRecord) -> dict[str, Any]:
    return {
        "run": record.key.run,
        "name": record.key.name,
        "parent": record.parent,
        "action_type": record.details.metadata.action_type,
        "task_name": record.details.metadata.task.id.name,
        "position": record.position,
        "task_spec": record.task_spec,
        "spec": record.spec.SerializeToString(),
        **_state_columns(record),
    }


def _changed_row(record: ActionRecord) -> dict[str, Any]:
    key = record.key
    return {"of_run": key.run, "named": key.name, "before": record.revision - 1, **_state_columns(record)}


def _state_columns(record: ActionRecord) -> dict[str, Any]:
    return {
        "phase": record.phase,
        "details": record.details.SerializeToString(),
        "update": record.update.SerializeToString(),
        "revision": record.revision,
        "is_submitted": int(record.is_submitted),
    }
