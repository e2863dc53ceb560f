"""Databases that tasks name: which ones may be opened, how, and what their errors mean."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy
from sqlalchemy import URL, event, exc
from sqlalchemy.pool import NullPool

from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, PropfanError, TransientError
from propfan.plugins.connectors.http_answers import NOT_ALLOWED
from propfan.plugins.connectors.redaction import redacted
from propfan.plugins.connectors.sql_templates import MYSQL, STANDARD, Syntax
from propfan.plugins.connectors.sqlalchemy.config import DatabaseConfig

_DRIVERS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "postgresql": (("psycopg", "psycopg[binary]"), ("psycopg2", "psycopg2-binary"), ("pg8000", "pg8000")),
    "mysql": (("pymysql", "pymysql"), ("MySQLdb", "mysqlclient")),
    "mariadb": (("pymysql", "pymysql"), ("MySQLdb", "mysqlclient")),
    "mssql": (("pymssql", "pymssql"), ("pyodbc", "pyodbc")),
    "oracle": (("oracledb", "oracledb"),),
}
"""Modules, and what installs them, for a URL that names no driver; the first that is installed."""

_OF_THIS_MACHINE: Final = frozenset(
    ("passfile", "service", "servicefile", "local_infile", "allow_local_infile", "read_default_file", "option_files")
)
"""Arguments by which a driver reads files of the machine that the connector runs on."""

_SERVERS: Final = ("host", "hostaddr", "server")
"""Arguments that lead to another server than the URL says."""
_PLACES: Final = frozenset(("dsn", "unix_socket", "odbc_connect"))
"""Arguments that hide the server; ``hosts`` could not be asked for them."""

_CONNECT_TIMEOUT_S: Final = 10
_WITH_CONNECT_TIMEOUT: Final = frozenset(("psycopg", "psycopg2", "pymysql", "mysqldb"))

_TEMPORARY: Final = ("08", "53", "57P", "40001", "40P01", "55P03")
"""SQLSTATEs of PostgreSQL that begin so pass: no connection, no resources, a shutdown, a conflict, a lock."""
_CANCELLED: Final = "57014"
_REFUSED: Final = (
    *("authentication failed", "no password supplied", "not permitted to log in", "pg_hba.conf"),
    *("access denied", "login failed"),
)
_UNKNOWN: Final = ("does not exist", "unknown database")


class Database(msgspec.Struct, frozen=True):
    """One that may be opened.

    Attributes:
        arguments: Of the driver; secrets are among them.
        hidden: Texts that no message shows.
    """

    url: URL
    arguments: Mapping[str, Any]
    hidden: Sequence[str]
    config: DatabaseConfig

    @classmethod
    def named(
        cls, uri: str, arguments: Mapping[str, Any], secrets: Mapping[str, str], config: DatabaseConfig
    ) -> Database:
        """The database behind a URL.

        Args:
            uri: SQLAlchemy's URL.
            arguments: What the task adds for the driver.
            secrets: Likewise; they go before.
            config: What may be opened.

        Raises:
            BadTaskSpecificationError: the URL is none, or may not be opened.
            PermanentError: its driver is not installed.
        """
        try:
            url = sqlalchemy.make_url(uri)
        except (exc.ArgumentError, ValueError):  # its text has the URL, with the password
            raise BadTaskSpecificationError(
                "custom.uri is no URL of SQLAlchemy's such as postgresql://user@host/database"
            ) from None
        if url.get_backend_name() == "postgres":
            url = url.set(drivername=url.drivername.replace("postgres", "postgresql", 1))
        written = {**url.query, **arguments}
        passwords = [str(value) for name, value in written.items() if "pass" in name.lower() or name == "token"]
        hidden = tuple(text for text in (*secrets.values(), url.password, *passwords) if text)
        _check(url, {*arguments, *secrets}, config)
        if url.get_backend_name() == "sqlite":
            url = url.set(database=_checked_file(url.database or "", config))
        return cls(_with_driver(url), {**arguments, **secrets}, hidden, config)

    @property
    def shown(self) -> str:
        """Without user and password, and without the query, where drivers take passwords too."""
        place = f"{self.url.host or ''}{f':{self.url.port}' if self.url.port else ''}"
        return f"{self.url.get_backend_name()}://{place}/{self.url.database or ''}"

    @property
    def syntax(self) -> Syntax:
        return MYSQL if self.url.get_backend_name() in ("mysql", "mariadb") else STANDARD

    def engine(self) -> sqlalchemy.Engine:
        """Opens nothing yet; each connection is a new one.

        Raises:
            PermanentError: the driver is not installed.
            BadTaskSpecificationError: the dialect does not take the arguments.
        """
        arguments = dict(self.arguments)
        if self.url.get_driver_name().lower() in _WITH_CONNECT_TIMEOUT:
            arguments.setdefault("connect_timeout", _CONNECT_TIMEOUT_S)
        is_sqlite = self.url.get_backend_name() == "sqlite"
        if is_sqlite:
            arguments["check_same_thread"] = False  # another thread interrupts it
        try:
            engine = sqlalchemy.create_engine(
                self.url, connect_args=arguments, poolclass=NullPool, hide_parameters=True
            )
        except ImportError as error:
            raise _no_driver(self.url.get_backend_name(), str(error.name or error)) from None
        except (exc.ArgumentError, TypeError) as error:
            raise BadTaskSpecificationError(f"{self.shown}: {self.redacted(str(error))}") from None
        event.listen(engine, "handle_error", _close_cursor)
        if is_sqlite:
            _guard(engine, self.config)
        return engine

    def check_hosts(self) -> None:
        """Asks the operator's rule for all servers that the URL and the arguments name; looks names up.

        Raises:
            BadTaskSpecificationError: one may not be asked.
            TransientError: a name has no address.
        """
        if self.url.get_backend_name() == "sqlite":
            return
        rule = self.config.hosts.rule("connectors.sqlalchemy.hosts")
        arguments = {**self.url.query, **self.arguments}
        named = [str(name) for name in (self.url.host, *map(arguments.get, _SERVERS)) if name]
        for host in ",".join(named or ["localhost"]).lower().split(","):
            name = "localhost" if host.startswith(("/", "@")) else host.strip("[]")  # a socket of this machine
            for address in _addresses(name, self.shown):
                refusal = rule(name, address)
                if refusal:
                    raise BadTaskSpecificationError(self.redacted(f"{self.shown}: {refusal}"))

    def redacted(self, text: str) -> str:
        return redacted(text, self.hidden)

    def failure(self, error: exc.DBAPIError, *, is_connected: bool) -> PropfanError | str:
        """What an error of the driver means: what to raise, or what to tell the task's user."""
        cause = error.orig if error.orig is not None else error
        text = self.redacted(str(cause).strip() or type(cause).__name__)
        state = str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")
        told = f"{self.shown}: {text}"
        if state == _CANCELLED:
            return f"{told} (the limit is connectors.sqlalchemy.statement-timeout-s)"
        if state.startswith(_TEMPORARY) or error.connection_invalidated or "database is locked" in text:
            return TransientError("", told)
        if is_connected:
            return told
        if isinstance(error, exc.ProgrammingError):  # no argument of the driver's
            return BadTaskSpecificationError(f"custom.uri, custom.connect_args: {told}")
        lower = text.lower()
        if state.startswith("28") or any(part in lower for part in _REFUSED):
            return PermanentError(NOT_ALLOWED, told)
        if state == "3D000" or any(part in lower for part in _UNKNOWN) or self.url.get_backend_name() == "sqlite":
            return PermanentError("", told)
        return TransientError("", told)


def _check(url: URL, arguments: set[str], config: DatabaseConfig) -> None:
    backend = url.get_backend_name()
    if backend not in config.dialects:
        allowed = ", ".join(config.dialects) or "none"
        raise BadTaskSpecificationError(
            f"custom.uri: databases of '{backend}' are not allowed by connectors.sqlalchemy.dialects: {allowed}"
        )
    named = {*arguments, *url.query}
    forbidden = named & (_OF_THIS_MACHINE | _PLACES | {"plugin", *(("uri", "factory") if backend == "sqlite" else ())})
    if forbidden:
        names = ", ".join(sorted(forbidden))
        raise BadTaskSpecificationError(f"custom.uri, custom.connect_args: a task may not say {names}")


def _close_cursor(failed: sqlalchemy.ExceptionContext) -> None:
    """SQLAlchemy leaves it open when the connection is lost."""
    cursor = getattr(failed.execution_context, "cursor", None)
    if cursor is not None:
        with suppress(Exception):  # of the driver, about a connection that is gone
            cursor.close()


def _addresses(host: str, shown: str) -> Sequence[IPv4Address | IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise TransientError("", f"{shown}: the server's name has no address") from None
    return [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def _with_driver(url: URL) -> URL:
    """The URL with a driver that is installed, where it names none; never one that is asynchronous."""
    backend = url.get_backend_name()
    if "+" not in url.drivername and backend in _DRIVERS:
        found = next((module for module, _ in _DRIVERS[backend] if find_spec(module) is not None), None)
        if found is None:
            raise _no_driver(backend, _DRIVERS[backend][0][0])
        url = url.set(drivername=f"{backend}+{found.lower()}")
    try:
        is_async = url.get_dialect().is_async
    except (exc.NoSuchModuleError, ImportError):
        raise _no_driver(backend, url.drivername) from None
    if is_async:
        raise BadTaskSpecificationError(
            f"custom.uri: driver '{url.get_driver_name()}' is asynchronous: name another one or write {backend}://"
        )
    return url


def _no_driver(backend: str, missing: str) -> PermanentError:
    packages = " or ".join(package for _, package in _DRIVERS.get(backend, ())) or "its driver"
    problem = f"no driver for databases of '{backend}': '{missing}' is not installed where the connector runs"
    return PermanentError("DriverNotInstalled", f"{problem}; pip install {packages}")


def _checked_file(name: str, config: DatabaseConfig) -> str:
    """The file as SQLite is to open it: without links and ``..`` that lead out of the folders."""
    if name in ("", ":memory:"):
        return name
    if name.startswith("file:"):
        raise BadTaskSpecificationError("custom.uri: write sqlite:////folder/name.db, not a URI of SQLite's own")
    if not _is_below(name, config.sqlite_folders):
        folders = ", ".join(config.sqlite_folders) or "none"
        raise BadTaskSpecificationError(
            f"custom.uri: '{name}' is below none of connectors.sqlalchemy.sqlite-folders: {folders}"
        )
    return str(Path(name).resolve())


def _is_below(name: str, folders: Sequence[str]) -> bool:
    return any(Path(name).resolve().is_relative_to(Path(folder).resolve()) for folder in folders)


def _guard(engine: sqlalchemy.Engine, config: DatabaseConfig) -> None:
    """Statements open no other files than a URL may: ``ATTACH``, and ``VACUUM INTO``, which attaches too."""

    def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_ATTACH:
            is_free = first in ("", ":memory:") or (
                first is not None and not first.startswith("file:") and _is_below(first, config.sqlite_folders)
            )
            return sqlite3.SQLITE_OK if is_free else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and (first or "").lower().endswith("store_directory"):
            return sqlite3.SQLITE_DENY  # of the whole process
        return sqlite3.SQLITE_OK

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.set_authorizer(authorize)
