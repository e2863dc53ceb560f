"""The database of a control plane: SQLite in a file of its own, or PostgreSQL by a URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from sqlalchemy import Column, Connection, MetaData, String, Table, event, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from propfan.engine.control_plane.store.schema import metadata
from propfan.pluginmachinery.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from alembic.config import Config

REVISION: Final = "0001"
"""Of the schema that this code reads and writes; the newest file in ``migrations/versions``."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}

_versions: Final = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""Alembic's own table."""

_MIGRATION_LOCK: Final = 0x70726F70
"""Of PostgreSQL, so that of several processes that start at once one migrates."""


class Database:
    """One database; several processes may use the same when it is PostgreSQL."""

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self._engine: Final = engine
        self._url: Final = url
        self._writing: Final = anyio.Lock()
        self.is_shared: Final = engine.dialect.name != "sqlite"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view.

        Raises:
            StorageError: the database does not answer.
        """
        try:
            async with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise StorageError(self._url, str(error.orig)) from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction; it is committed when the block ends without an error.

        Raises:
            IntegrityError: of SQLAlchemy; a key is taken.
            StorageError: the database does not answer, or refuses.
        """
        try:
            # SQLite has one writer: waiting here is fair, waiting for its lock is polling.
            async with self._writing, self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise StorageError(self._url, str(error.orig)) from error


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
    if scheme == "sqlite" and rest.startswith("/") and not await anyio.Path(rest[1:]).parent.is_dir():
        raise StorageError(shown, "its folder does not exist")  # its driver would leave a thread behind
    try:
        engine = create_async_engine(f"{_DRIVERS[scheme]}://{rest}", pool_pre_ping=scheme != "sqlite")
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError("database", f"{shown}: {error}") from error
    if scheme == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    try:
        database = Database(engine, shown)
        async with database.writing() as connection:
            await connection.run_sync(_migrate, shown)
        yield database
    except OSError as error:
        raise StorageError(shown, str(error)) from error
    finally:
        with anyio.CancelScope(shield=True):
            await engine.dispose()


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
