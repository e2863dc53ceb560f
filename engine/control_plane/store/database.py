"""The database of a control plane: SQLite in a file of its own, or PostgreSQL by a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    Row,
    Select,
    String,
    Table,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from propfan.engine.control_plane.store.schema import metadata
from propfan.pluginmachinery.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

REVISION: Final = "0001"
"""Of the schema that this code reads and writes; the newest file in ``migrations/versions``."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}

_READERS: Final = 2
"""Threads that read SQLite, beside the one that writes."""

_versions: Final = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""Alembic's own table."""

_MIGRATION_LOCK: Final = 0x70726F70
"""Of PostgreSQL, so that of several processes that start at once one migrates."""


def dialect_of(connection: Connection) -> Any:
    """The module of SQLAlchemy with the ``insert`` that knows of conflicts."""
    return sqlite if connection.dialect.name == "sqlite" else postgresql


class _Runner(Protocol):
    """How functions of a plain connection are run."""

    async def run(self, how: Callable[[Connection], T], *, is_writing: bool) -> T: ...

    async def close(self) -> None: ...


class Database:
    """One database; several processes may use the same when it is PostgreSQL.

    What reads and writes is a function of a plain connection, which is one transaction. It must not wait for
    anything else.
    """

    def __init__(self, runner: _Runner, url: str, *, is_shared: bool) -> None:
        self._runner: Final = runner
        self._url: Final = url
        self.is_shared: Final = is_shared

    async def read(self, how: Callable[[Connection], T]) -> T:
        """What the function makes of what is there.

        Raises:
            StorageError: the database does not answer.
        """
        try:
            return await self._runner.run(how, is_writing=False)
        except DBAPIError as error:
            raise StorageError(self._url, str(error.orig)) from error

    async def rows(self, query: Select[Any]) -> Sequence[Row[*tuple[Any, ...]]]:
        """Raises as ``read``."""
        return await self.read(lambda connection: connection.execute(query).all())

    async def row(self, query: Select[Any]) -> Row[*tuple[Any, ...]] | None:
        """The only row, or ``None``. Raises as ``read``."""
        return await self.read(lambda connection: connection.execute(query).one_or_none())

    async def write(self, how: Callable[[Connection], T]) -> T:
        """Commits what the function did, unless it raises. Cancelled, it may be committed all the same.

        Raises:
            IntegrityError: of SQLAlchemy; a key is taken.
            StorageError: the database does not answer, or refuses.
        """
        try:
            return await self._runner.run(how, is_writing=True)
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise StorageError(self._url, str(error.orig)) from error


class _Threads:
    """SQLite: whole transactions go to a thread, since each hop costs more than most statements.

    One thread writes, for SQLite has one writer: waiting here is fair, waiting for its lock is polling.
    """

    def __init__(self, url: str) -> None:
        is_file = url.partition("://")[2].strip("/") not in ("", ":memory:")
        if is_file:
            self._engine = create_engine(url)
        else:
            self._engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
        event.listen(self._engine, "connect", _prepare_sqlite)
        self._writer: Final = ThreadPoolExecutor(1, "database-writer")
        self._readers: Final = ThreadPoolExecutor(_READERS, "database-reader") if is_file else self._writer

    async def run(self, how: Callable[[Connection], T], *, is_writing: bool) -> T:
        def transact() -> T:
            with self._engine.begin() if is_writing else self._engine.connect() as connection:
                return how(connection)

        executor = self._writer if is_writing else self._readers
        return await asyncio.get_running_loop().run_in_executor(executor, transact)

    async def close(self) -> None:
        for executor in (self._readers, self._writer):
            await anyio.to_thread.run_sync(executor.shutdown)
        self._engine.dispose()


class _Asynchronous:
    """A server, by a driver that does not block."""

    def __init__(self, url: str) -> None:
        self._engine: Final = create_async_engine(url, pool_pre_ping=True)

    async def run(self, how: Callable[[Connection], T], *, is_writing: bool) -> T:
        async with self._engine.begin() if is_writing else self._engine.connect() as connection:
            return await connection.run_sync(how)

    async def close(self) -> None:
        await self._engine.dispose()


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Connects, and brings the schema up to date.

    Args:
        url: ``sqlite:///path`` (``sqlite://`` is in memory) or ``postgresql://user:password@host/name``.

    Raises:
        ConfigError: no such kind of database, or its schema is newer than this code.
        StorageError: it does not answer.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _DRIVERS:
        raise ConfigError("database", f"must begin with sqlite:// or postgresql://, is {_without_password(url)!r}")
    shown = _without_password(url)
    is_sqlite = scheme == "sqlite"
    try:
        runner: _Runner = (_Threads if is_sqlite else _Asynchronous)(f"{_DRIVERS[scheme]}://{rest}")
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError("database", f"{shown}: {error}") from error
    try:
        database = Database(runner, shown, is_shared=not is_sqlite)
        await database.write(lambda connection: _migrate(connection, shown))
        yield database
    except OSError as error:
        raise StorageError(shown, str(error)) from error
    finally:
        with anyio.CancelScope(shield=True):
            await runner.close()


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL a power cut loses the last commits, never the database
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()


def _migrate(connection: Connection, shown: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    if connection.dialect.has_table(connection, _versions.name):
        found = connection.execute(select(_versions.c.version_num)).scalar()
        if found == REVISION:
            return
        if found is not None and found > REVISION:
            raise ConfigError(
                "database", f"{shown} was written by a newer propfan (schema {found}, this is {REVISION})"
            )
    else:  # a new one, without importing alembic, which takes longer than all the rest
        metadata.create_all(connection)
        _versions.create(connection)
        connection.execute(_versions.insert().values(version_num=REVISION))
        return
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)


def alembic_config() -> Config:
    """Where alembic finds the migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}{at}{place}"
