"""One statement on its way, in a thread; another thread may cancel it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy
from flyteidl2.core import types_pb2
from sqlalchemy import exc

from propfan.pluginmachinery.connector import RemotePhase, Resource
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.sql_templates import Bound
from propfan.plugins.connectors.sqlalchemy import tables
from propfan.plugins.connectors.sqlalchemy.databases import Database

_READING: Final = re.compile(
    r"(?:\s|\(|--[^\n]*\n|(?>/\*.*?\*/))*+(?:select|values|table|with)\b", re.IGNORECASE | re.DOTALL
)
_CHANGING: Final = re.compile(r"\b(?:insert|update|delete|merge|into)\b", re.IGNORECASE)


class Output(msgspec.Struct, frozen=True):
    """Where the rows go.

    Attributes:
        name: Of the task's output.
        columns: Those whose types the task declares.
        value: Of the output, once the rows are stored.
    """

    name: str
    columns: Mapping[str, types_pb2.LiteralType]
    value: Any


class _CancelledError(Exception):
    """Cancelled before the statement began."""


class Query:
    """Runs once, in one transaction, which is committed when the rows are stored.

    Attributes:
        resource: How it ended; ``None`` while it has not, and when it was cancelled.
    """

    def __init__(
        self,
        database: Database,
        statement: Sequence[str | Bound],
        output: Output | None,
        store: Callable[[bytes], None],
    ) -> None:
        """Starts nothing.

        Args:
            database: Where it runs.
            statement: SQL and values.
            output: ``None`` when rows are of no interest.
            store: Keeps what the output refers to; called before the transaction is committed.
        """
        self._database: Final = database
        self._statement: Final = statement
        self._output: Final = output
        self._store: Final = store
        self._lock: Final = threading.Lock()
        self._connection: Any = None
        self._is_cancelled = False
        self.resource: Resource | None = None

    def run(self) -> None:
        """Sets ``resource``.

        Raises:
            PropfanError: the database can not be had; the message says why.
        """
        self._database.check_hosts()
        engine = self._database.engine()
        is_connected = False
        try:
            with engine.connect() as connection:
                is_connected = True
                self._limit(connection)
                with connection.begin():
                    resource = self._executed(connection)
            self.resource = resource
        except _CancelledError:
            pass
        except tables.ResultError as error:
            self.resource = Resource(RemotePhase.FAILED, f"{self._database.shown}: {error}")
        except exc.DBAPIError as error:
            if self._is_cancelled:  # whatever the driver says of it
                return
            failure = self._database.failure(error, is_connected=is_connected)
            if not isinstance(failure, str):
                raise failure from None
            self.resource = Resource(RemotePhase.FAILED, failure)
        except (TypeError, ValueError) as error:
            if is_connected:
                raise
            problem = self._database.redacted(f"{self._database.shown}: custom.connect_args: {error}")
            raise BadTaskSpecificationError(problem) from None
        except exc.SQLAlchemyError as error:
            self.resource = Resource(RemotePhase.FAILED, self._database.redacted(f"{self._database.shown}: {error}"))
        finally:
            with self._lock:
                self._connection = None
            engine.dispose()

    def cancel(self) -> None:
        """Interrupts the statement where the driver can; the end of ``run`` shows it. Any number of times."""
        with self._lock:
            self._is_cancelled = True
            interrupt = getattr(self._connection, "interrupt", None) or getattr(self._connection, "cancel", None)
            if interrupt is not None:
                interrupt()

    def _limit(self, connection: sqlalchemy.Connection) -> None:
        """What the server ends by itself, should this process die; and whom ``cancel`` interrupts."""
        limit_ms = int(self._database.config.statement_timeout_s * 1000)
        match connection.dialect.name:
            case "postgresql":
                connection.exec_driver_sql(f"SET statement_timeout = {limit_ms}")
            case "mysql" | "mariadb" if getattr(connection.dialect, "is_mariadb", False):
                connection.exec_driver_sql(f"SET SESSION max_statement_time = {limit_ms / 1000:g}")
            case "mysql":
                connection.exec_driver_sql(f"SET SESSION max_execution_time = {limit_ms}")
        connection.commit()
        with self._lock:
            self._connection = connection.connection.driver_connection
            if self._is_cancelled:
                raise _CancelledError

    def _executed(self, connection: sqlalchemy.Connection) -> Resource:
        can_stream = self._output is not None and _is_reading(self._statement)
        with closing(connection.execution_options(stream_results=can_stream).execute(self._clause())) as result:
            return self._answered(result)

    def _answered(self, result: sqlalchemy.CursorResult[Any]) -> Resource:
        if self._output is None:
            counted = result.rowcount
            known = {"rows": counted} if counted >= 0 else None
            return Resource(RemotePhase.SUCCEEDED, "executed", custom_info=known)
        if not result.returns_rows:
            raise tables.ResultError(
                f"the statement returns no rows, and the task declares the output '{self._output.name}'"
            )
        table = tables.encode(result, self._output.columns, self._database.config)
        self._store(table.content)
        return Resource(
            RemotePhase.SUCCEEDED,
            f"{table.rows} rows",
            outputs={self._output.name: self._output.value},
            custom_info={"rows": table.rows, "columns": list(table.columns)},
        )

    def _clause(self) -> sqlalchemy.TextClause:
        text: list[str] = []
        binds: list[sqlalchemy.BindParameter[Any]] = []
        for part in self._statement:
            if isinstance(part, str):
                text.append(part.replace(":", r"\:"))  # what SQLAlchemy would take for a value's place
            else:
                name = f"propfan_{len(binds)}"
                binds.append(_bind(name, part.value))
                text.append(f":{name}")
        return sqlalchemy.text("".join(text)).bindparams(*binds)


def _is_reading(statement: Sequence[str | Bound]) -> bool:
    """Whether it can be read by a cursor of the server, which takes nothing that changes rows."""
    text = "".join(part for part in statement if isinstance(part, str))
    return _READING.match(text) is not None and _CHANGING.search(text) is None


def _bind(name: str, value: Any) -> sqlalchemy.BindParameter[Any]:
    """Without a type, so that the database finds one that fits; but SQLite has none for moments."""
    if isinstance(value, datetime | timedelta):
        return sqlalchemy.bindparam(name, value)
    return sqlalchemy.bindparam(name, value, type_=sqlalchemy.types.NullType())
