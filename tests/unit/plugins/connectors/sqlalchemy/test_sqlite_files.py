"""Queries of database files that are fetched."""

from __future__ import annotations

import io
import sqlite3
import threading
import zipfile
from pathlib import Path, PosixPath
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, HttpResponse, RemotePhase, Resource, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from propfan.pluginmachinery.testing.connector_contract import JobStory, SyncConnectorContract
from propfan.pluginmachinery.testing.connector_fakes import (
    FakeHttp,
    HttpCall,
    connector_setup,
    connector_task,
    http_answer,
)
from propfan.plugins.connectors.sqlalchemy import SQLiteConnector, sqlite_files
from tests.unit.plugins.connectors.sqlalchemy.rig import rows, template

pytestmark = pytest.mark.anyio

URL = "https://example.com/chinook.zip"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def database(folder: Path) -> bytes:
    file = folder / "tracks.db"
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("create table tracks (id integer, name text)")
        connection.executemany("insert into tracks values (?, ?)", [(1, "one"), (2, "two")])
    connection.close()
    return file.read_bytes()


def zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        archive.writestr("folder/tracks.db", content)
    return packed.getvalue()


def broken(archive: bytes) -> bytes:
    """With other bytes where the packed ones begin."""
    begin = archive.index(b"tracks.db") + len(b"tracks.db")
    return archive[:begin] + b"\xff" * 8 + archive[begin + 8 :]


def task(
    uri: str = URL, query: str = "select * from tracks limit {{.inputs.n}}", *, is_zip: bool = True
) -> TaskRequest:
    return connector_task(template(query, uri, task_type="sqlite", compressed=is_zip), literal_map(n=1))


@pytest.fixture
def setup_ctx(tmp_path: Path) -> ConnectorSetup:
    content = database(tmp_path)

    def answer(call: HttpCall) -> HttpResponse:
        return http_answer(body=zipped(content)) if call.url == URL else http_answer(404)

    store = InMemoryStore({"s3://bucket/tracks.db": content, "s3://bucket/broken.zip": broken(zipped(content))})
    sections = {"sqlalchemy": {"sqlite-folders": [str(tmp_path)]}}
    return connector_setup(http=FakeHttp(answer), store=store, sections=sections)


async def done(setup: ConnectorSetup, asked: TaskRequest) -> Resource:
    return await SQLiteConnector(setup).do(asked)


class TestContract(SyncConnectorContract):
    connector_class = SQLiteConnector
    stories = (
        JobStory("selects", task(), RemotePhase.SUCCEEDED, message="1 rows"),
        JobStory("has no such table", task(query="select * from nowhere"), RemotePhase.FAILED, message="no such table"),
    )

    @pytest.fixture
    def setup_ctx(self, tmp_path: Path) -> ConnectorSetup:
        content = zipped(database(tmp_path))
        return connector_setup(http=FakeHttp(lambda _: http_answer(body=content)))


@pytest.mark.parametrize("uri", ["s3://bucket/tracks.db", "{folder}/tracks.db", "file://{folder}/tracks.db"])
async def test_files_come_from_stores_and_allowed_folders(setup_ctx: ConnectorSetup, tmp_path: Path, uri: str) -> None:
    await done(setup_ctx, task(uri.format(folder=tmp_path), is_zip=False))
    assert rows(setup_ctx.store) == [{"id": 1, "name": "one"}]


async def test_what_a_statement_changes_is_changed_in_a_copy(setup_ctx: ConnectorSetup, tmp_path: Path) -> None:
    asked = task(f"{tmp_path}/tracks.db", "delete from tracks returning name", is_zip=False)
    await done(setup_ctx, asked)
    await done(setup_ctx, asked)
    assert rows(setup_ctx.store) == [{"name": "one"}, {"name": "two"}]


@pytest.mark.parametrize(
    ("uri", "is_zip", "problem"),
    [
        ("/etc/passwd", False, "sqlite-folders"),
        ("{folder}/absent.db", False, "there is no file"),
        ("https://example.com/absent.zip", True, "status 404"),
        ("s3://bucket/tracks.db", True, "is no ZIP archive"),
        ("s3://bucket/broken.zip", True, "is no ZIP archive"),
        ("s3://bucket/absent.db", False, r"custom\.uri: .*absent\.db"),
    ],
)
async def test_what_can_not_be_read_is_told(
    setup_ctx: ConnectorSetup,
    tmp_path: Path,
    uri: str,
    *,
    is_zip: bool,
    problem: str,
) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await done(setup_ctx, task(uri.format(folder=tmp_path), is_zip=is_zip))


async def test_what_is_unpacked_is_bounded(setup_ctx: ConnectorSetup) -> None:
    bomb = zipped(bytes(10_000_000))
    http = FakeHttp(lambda _: http_answer(body=bomb))
    setup = msgspec.structs.replace(setup_ctx, http=http, sections={"sqlalchemy": {"max-bytes": 100_000}})
    with pytest.raises(BadTaskSpecificationError, match=r"connectors\.sqlalchemy\.max-bytes"):
        await done(setup, task())


@pytest.mark.parametrize("uri", ["s3://bucket/tracks.db", "{folder}/tracks.db"])
async def test_what_is_fetched_is_bounded(setup_ctx: ConnectorSetup, tmp_path: Path, uri: str) -> None:
    folders = setup_ctx.sections["sqlalchemy"]
    setup = msgspec.structs.replace(setup_ctx, sections={"sqlalchemy": {**folders, "max-bytes": 1024}})
    with pytest.raises(BadTaskSpecificationError, match=r"connectors\.sqlalchemy\.max-bytes"):
        await done(setup, task(uri.format(folder=tmp_path), is_zip=False))


async def test_the_event_loop_neither_unpacks_nor_reads(
    setup_ctx: ConnectorSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    class Archive(zipfile.ZipFile):
        def read(self, *arguments: Any) -> bytes:
            threads.append(threading.get_ident())
            return super().read(*arguments)

    class File(PosixPath):
        def read_bytes(self) -> bytes:
            threads.append(threading.get_ident())
            return super().read_bytes()

    monkeypatch.setattr(zipfile, "ZipFile", Archive)
    monkeypatch.setattr(sqlite_files, "Path", File)
    await done(setup_ctx, task())
    await done(setup_ctx, task(f"{tmp_path}/tracks.db", is_zip=False))
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_hosts_that_are_not_allowed_are_not_asked(setup_ctx: ConnectorSetup) -> None:
    with pytest.raises(PermanentError, match=r"connectors\.sqlalchemy\.hosts"):
        await done(setup_ctx, task("http://169.254.169.254/latest"))


async def test_a_server_that_is_busy_is_worth_another_try(setup_ctx: ConnectorSetup) -> None:
    busy = FakeHttp(lambda _: http_answer(503, headers={"retry-after": "7"}))
    with pytest.raises(TransientError) as caught:
        await done(msgspec.structs.replace(setup_ctx, http=busy), task())
    assert caught.value.retry_after_s == 7
