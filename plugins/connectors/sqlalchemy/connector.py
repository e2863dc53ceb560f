"""Tasks of type ``sqlalchemy``: one statement on any database that SQLAlchemy reaches.

It is synchronous: a database forgets a statement with the connection that asked for it, so there is nothing
that another replica could look at, and memory is no place for a job. A statement that takes longer than a call
may take is cancelled, and the task is told the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
from flyteidl2.core import literals_pb2, types_pb2

from propfan.pluginmachinery.connector import (
    ConnectorSetup,
    Dataset,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.sql_templates import IDEMPOTENCY_KEY, SqlTemplate
from propfan.plugins.connectors.sqlalchemy import tables
from propfan.plugins.connectors.sqlalchemy.config import DatabaseConfig
from propfan.plugins.connectors.sqlalchemy.databases import Database
from propfan.plugins.connectors.sqlalchemy.queries import Output, Query

_CANCEL_AGAIN_S = 0.2
"""A cancellation that arrives between two statements of a connection stops neither."""


class SecretReference(msgspec.Struct, frozen=True):
    """A secret as Flyte 1's SDK names one; how it would be mounted does not matter here."""

    key: str
    group: str | None = None
    group_version: str | None = None


class QuerySpec(msgspec.Struct, frozen=True):
    """``custom`` of a task."""

    query_template: str
    uri: str
    connect_args: Mapping[str, Any] | None = None
    secret_connect_args: Mapping[str, SecretReference] | None = None


class SQLAlchemyConnector(SyncConnector):
    """Runs a task's statement in a thread, in a transaction, and stores its rows as Parquet."""

    name = "SQLAlchemy Connector"
    categories = (TaskCategory("sqlalchemy"),)
    max_concurrent_calls = 32

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._config = setup.section("sqlalchemy", DatabaseConfig)

    async def do(self, task: TaskRequest) -> Resource:
        spec = task.custom(QuerySpec)
        secrets = await self._secrets(spec, task)
        database = Database.named(spec.uri, spec.connect_args or {}, secrets, self._config)
        return await executed(self.setup, task, database, spec.query_template)

    async def _secrets(self, spec: QuerySpec, task: TaskRequest) -> Mapping[str, str]:
        values = {}
        for argument, secret in (spec.secret_connect_args or {}).items():
            if secret.key in task.connection.secrets:
                values[argument] = task.connection.secrets[secret.key]
            else:
                names = (secret.key, secret.group or "", secret.group_version or "")
                values[argument] = await self.setup.secrets.get(*names)
        return values


async def executed(setup: ConnectorSetup, task: TaskRequest, database: Database, template: str) -> Resource:
    """Runs the statement to its end, or to that of the time it may take.

    When the call is cancelled so is the statement.

    Raises:
        BadTaskSpecificationError: the template, the inputs or the declared output can not be used.
        PropfanError: the database or the store can not be had.
    """
    values = {IDEMPOTENCY_KEY: task.unique_name(), **task.inputs()}
    statement = SqlTemplate.parse(template, database.syntax).filled(values)
    folder = f"{task.output_prefix.rstrip('/')}/"
    output = _output(task, folder)
    if output is not None:
        tables.check_installed()
        folder += output.name

    def store(content: bytes) -> None:
        anyio.from_thread.run(setup.store.put, f"{folder}/00000", content)

    query = Query(database, statement, output, store)
    limit_s = database.config.statement_timeout_s
    with anyio.move_on_after(limit_s):
        await _run(query)
    if query.resource is not None:
        return query.resource
    problem = f"did not end within {limit_s:g} s and was cancelled (connectors.sqlalchemy.statement-timeout-s)"
    return Resource(RemotePhase.FAILED, f"{database.shown}: the statement {problem}")


async def _run(query: Query) -> None:
    """Waits for the thread in any case; a cancellation makes it end soon."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            query.run()
        except Exception as error:  # noqa: BLE001 - raised again below, not as a group
            errors.append(error)

    async with anyio.create_task_group() as group:
        is_over = anyio.Event()
        group.start_soon(_cancel_with, query, is_over)
        try:
            await anyio.to_thread.run_sync(run)
        finally:
            is_over.set()
    if errors:
        raise errors[0]


async def _cancel_with(query: Query, is_over: anyio.Event) -> None:
    """Cancels the query when this is cancelled, until it is over."""
    try:
        await is_over.wait()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            while not is_over.is_set():
                await anyio.to_thread.run_sync(query.cancel)
                with anyio.move_on_after(_CANCEL_AGAIN_S):
                    await is_over.wait()
        raise


def _output(task: TaskRequest, folder: str) -> Output | None:
    """What the task's interface wants of the rows.

    A folder with one file is what both SDKs read as a schema and as a data set.
    """
    declared = task.template.interface.outputs.variables
    if not declared:
        return None
    if len(declared) > 1:
        names = ", ".join(entry.key for entry in declared)
        raise BadTaskSpecificationError(f"a statement has one output, its rows; the task declares {names}")
    if not task.output_prefix:
        raise BadTaskSpecificationError("the request has no output_prefix, below which the rows would be stored")
    name, kind = declared[0].key, declared[0].value.type
    uri = folder + name
    match kind.WhichOneof("type"):
        case "schema":
            schema = literals_pb2.Schema(uri=uri, type=kind.schema)
            literal = literals_pb2.Literal(scalar=literals_pb2.Scalar(schema=schema))
            return Output(name, _schema_columns(kind.schema), literal)
        case "structured_dataset_type":
            columns = {column.name: column.literal_type for column in kind.structured_dataset_type.columns}
            return Output(name, columns, Dataset(uri, "parquet"))
        case other:
            problem = f"is of type {other}, and rows are a FlyteSchema, a StructuredDataset or a DataFrame"
            raise BadTaskSpecificationError(f"output '{name}' {problem}")


def _schema_columns(schema: types_pb2.SchemaType) -> Mapping[str, types_pb2.LiteralType]:
    kinds = types_pb2.SchemaType.SchemaColumn
    simple = {
        kinds.INTEGER: types_pb2.INTEGER,
        kinds.FLOAT: types_pb2.FLOAT,
        kinds.STRING: types_pb2.STRING,
        kinds.BOOLEAN: types_pb2.BOOLEAN,
    }
    return {
        column.name: types_pb2.LiteralType(simple=simple[column.type])
        for column in schema.columns
        if column.type in simple
    }
