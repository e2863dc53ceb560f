"""Tasks of type ``sqlite``: one query of a database file that is fetched for it."""

from __future__ import annotations

import io
import lzma
import tempfile
import zipfile
import zlib
from pathlib import Path

import anyio.to_thread
import msgspec
from sqlalchemy import URL

from propfan.pluginmachinery.connector import ConnectorSetup, Resource, SyncConnector, TaskCategory, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ObjectNotFoundError, ObjectTooLargeError
from propfan.plugins.connectors.http_answers import checked
from propfan.plugins.connectors.sqlalchemy.config import DatabaseConfig
from propfan.plugins.connectors.sqlalchemy.connector import executed
from propfan.plugins.connectors.sqlalchemy.databases import Database

_STORES = ("s3", "gs", "az", "abfs", "memory")
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading an archive raises that is broken, encrypted, or packed in a way that is not known."""


class FileSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task.

    Attributes:
        compressed: Whether the file is a ZIP archive with the database in it.
    """

    query_template: str
    uri: str
    compressed: bool = False


class SQLiteConnector(SyncConnector):
    """Fetches a copy of the database for each task; what a statement changes in it is lost, as in Flyte's SDK."""

    name = "SQLite Connector"
    categories = (TaskCategory("sqlite"),)
    max_concurrent_calls = 8

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._config = setup.section("sqlalchemy", DatabaseConfig)
        self._http = setup.http.restricted(self._config.hosts.rule("connectors.sqlalchemy.hosts"))

    async def do(self, task: TaskRequest) -> Resource:
        spec = task.custom(FileSpec)
        content = await self._fetched(spec.uri)
        with tempfile.TemporaryDirectory(prefix="propfan-sqlite-") as folder:
            file = Path(folder) / "database"
            await anyio.to_thread.run_sync(self._write, file, content, spec.compressed)
            nowhere = msgspec.structs.replace(self._config, sqlite_folders=())
            database = Database(URL.create("sqlite", database=str(file)), {}, (), nowhere)
            return await executed(self.setup, task, database, spec.query_template)

    async def _fetched(self, uri: str) -> bytes:
        scheme, has_scheme, _ = uri.partition("://")
        if has_scheme and scheme in ("http", "https"):
            response = await self._http.request("GET", uri, timeout_s=self._config.statement_timeout_s)
            return checked(response, "sqlite: fetch custom.uri", self.setup).body
        if has_scheme and scheme in _STORES:
            try:
                return await self.setup.store.get(uri, limit_bytes=self._config.max_bytes)
            except ObjectTooLargeError as error:
                raise BadTaskSpecificationError(f"custom.uri: {error} (connectors.sqlalchemy.max-bytes)") from None
            except ObjectNotFoundError as error:
                raise BadTaskSpecificationError(f"custom.uri: {error}") from None
        return await anyio.to_thread.run_sync(self._read, uri)

    def _read(self, uri: str) -> bytes:
        path = Database.named(f"sqlite:///{uri.removeprefix('file://')}", {}, {}, self._config).url.database
        if not path or not Path(path).is_file():
            raise BadTaskSpecificationError(f"custom.uri: there is no file '{uri}'")
        size_bytes = Path(path).stat().st_size
        if size_bytes > self._config.max_bytes:
            limit = f"the limit is {self._config.max_bytes} (connectors.sqlalchemy.max-bytes)"
            raise BadTaskSpecificationError(f"custom.uri: '{uri}' has {size_bytes} bytes, {limit}")
        return Path(path).read_bytes()

    def _write(self, file: Path, content: bytes, is_archive: bool) -> None:  # noqa: FBT001 - of a thread's call
        file.write_bytes(self._unpacked(content) if is_archive else content)

    def _unpacked(self, content: bytes) -> bytes:
        """The first file of the archive."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                if not members:
                    raise BadTaskSpecificationError("custom.uri: the archive is empty")
                if members[0].file_size > self._config.max_bytes:
                    limit = f"the limit is {self._config.max_bytes} (connectors.sqlalchemy.max-bytes)"
                    raise BadTaskSpecificationError(
                        f"custom.uri: unpacked it has {members[0].file_size} bytes, {limit}"
                    )
                return archive.read(members[0])
        except _UNREADABLE as error:
            problem = f"custom.compressed is set, and the file is no ZIP archive that can be read: {error}"
            raise BadTaskSpecificationError(problem) from None
