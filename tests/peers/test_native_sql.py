"""Tasks that the SDKs' plugins for SQL serialise, run unchanged by propfan's connectors; the SDKs read the results.

PostgreSQL and SQLite are real. Snowflake is a fake after its published contract, and its driver in the SDKs'
environments only tells what the SDKs ask it for.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from flyteidl2.core import literals_pb2

from propfan.engine import Engine, Submission
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.snowflake.connector import SnowflakeConnector
from propfan.plugins.connectors.sqlalchemy import SQLAlchemyConnector, SQLiteConnector
from tests.peers import environments
from tests.peers.postgresql import PostgreSQL, find_programs
from tests.unit.engine.connector_service.rig import serving
from tests.unit.plugins.connector.rig import engine_at, quick_looks
from tests.unit.plugins.connectors.snowflake import fake_snowflake
from tests.unit.plugins.connectors.snowflake.fake_snowflake import FakeSnowflake, public_key, user_key
from tests.unit.plugins.connectors.snowflake.rig import USER, service_key

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.peer, pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

PROGRAMS: Final = Path(__file__).parent / "programs"
FLYTE1: Final = (
    "flytekit>=1.16.31,<2",
    "flytekitplugins-snowflake>=1.16.31,<2",
    "flytekitplugins-sqlalchemy>=1.16.31,<2",
    "kubernetes<37",
    "pandas<3",
    "pyarrow",
)
FLYTE2: Final = ("flyte>=2.12.1,<3", "flyteplugins-snowflake>=2.12.1,<3", "pandas<3", "pyarrow")
DAY: Final = datetime(2026, 1, 2, tzinfo=UTC)


class Sdk:
    """One of the SDKs, in its own environment."""

    def __init__(self, python: Path, program: str) -> None:
        self._command = [str(python), "-W", "ignore", str(PROGRAMS / program)]

    def templates(self, *arguments: str) -> Mapping[str, bytes]:
        return {each["name"]: base64.b64decode(each["template"]) for each in self._told("tasks", *arguments)}

    def read(self, folder: Path, literal: literals_pb2.Literal) -> Mapping[str, Any]:
        """What the SDK makes of an output."""
        file = folder / "literals.json"
        file.write_text(json.dumps({"it": base64.b64encode(literal.SerializeToString()).decode()}))
        (found,) = self._told("read", str(file))
        return found

    def _told(self, *arguments: str) -> list[dict[str, Any]]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            [*self._command, *arguments],
            env={**kept, "PRIVATE_KEY": service_key(), "DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def flyte1() -> Sdk:
    return Sdk(environments.folder("sql-flyte1", FLYTE1) / "bin" / "python", "sql_flyte1.py")


@pytest.fixture(scope="module")
def flyte2() -> Sdk:
    return Sdk(environments.folder("sql-flyte2", FLYTE2) / "bin" / "python", "sql_flyte2.py")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    with PostgreSQL(programs) as running:
        running.query("create table pets (name text unique, age integer)")
        running.query("insert into pets values ('tom', 9), ('ada', 3), ('o''malley', 7)")
        yield running


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sqlite")
    connection = sqlite3.connect(folder / "tracks.db")
    with connection:
        connection.execute("create table tracks (id integer, name text)")
        connection.executemany("insert into tracks values (?, ?)", [(1, "one"), (2, "two"), (3, "three")])
    connection.close()
    with zipfile.ZipFile(folder / "tracks.zip", "w") as packed:
        packed.write(folder / "tracks.db", "tracks.db")
    return folder / "tracks.zip"


@pytest.fixture(scope="module")
def tasks(flyte1: Sdk, server: PostgreSQL, archive: Path) -> Mapping[str, bytes]:
    return flyte1.templates(server.url, str(archive))


@asynccontextmanager
async def engine_with(folder: Path, fake: FakeSnowflake | None = None, **secrets: str) -> AsyncIterator[Engine]:
    """By a connector service that is really served."""
    sections: dict[str, dict[str, Any]] = {
        "sqlalchemy": {"hosts": {"allow-loopback": True}, "sqlite-folders": [str(folder.parent.parent)]},
        "snowflake": {"endpoint": fake.url if fake is not None else ""},
    }
    config = ConnectorServiceConfig(port=0, metrics_port=0, drain_s=5, connectors=sections)
    kinds = (SQLAlchemyConnector, SQLiteConnector, SnowflakeConnector)
    async with (
        serving(*kinds, config=config, **secrets) as service,
        engine_at(service.service.address, folder / "engine") as engine,
    ):
        yield engine


async def ends(engine: Engine, template: bytes, inputs: literals_pb2.LiteralMap | None = None) -> TaskStatus:
    given = inputs.SerializeToString() if inputs is not None else None
    with anyio.fail_after(60):
        return await engine.wait(await engine.submit(Submission(template=template, inputs=given)))


async def output_of(engine: Engine, status: TaskStatus) -> literals_pb2.Literal:
    assert status.outcome is Outcome.COMPLETED, status
    content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
    return literals_pb2.LiteralMap.FromString(content).literals["results"]


async def test_queries_of_flytekit_run_on_postgresql_and_it_reads_their_rows(
    tasks: Mapping[str, bytes], flyte1: Sdk, tmp_path: Path
) -> None:
    inputs = literal_map(least=5, name="o'malley", day=DAY)
    async with engine_with(tmp_path, _FSEC_DB_NAME="propfan") as engine:
        typed = await output_of(engine, await ends(engine, tasks["typed"], inputs))
        untyped = await output_of(engine, await ends(engine, tasks["untyped"], inputs))
        found = [await anyio.to_thread.run_sync(flyte1.read, tmp_path, each) for each in (typed, untyped)]
    rows = [{"name": "tom", "age": 9, "asked_by": "propfan"}]
    assert [each["rows"] for each in found] == [rows, rows]
    assert [each["types"]["age"] for each in found] == ["float64", "int64"]


async def test_statements_of_flytekit_change_the_database(
    tasks: Mapping[str, bytes], server: PostgreSQL, tmp_path: Path
) -> None:
    async with engine_with(tmp_path, _FSEC_DB_NAME="propfan") as engine:
        status = await ends(engine, tasks["insert"], literal_map(name="'); drop table pets; --"))
        assert status.outcome is Outcome.COMPLETED, status
        twice = await ends(engine, tasks["insert"], literal_map(name="'); drop table pets; --"))
    assert server.query("select name from pets where age = 1") == "'); drop table pets; --"
    assert twice.error is not None
    assert "duplicate key value violates unique constraint" in twice.error.message


async def test_a_secret_that_the_service_lacks_is_named(tasks: Mapping[str, bytes], tmp_path: Path) -> None:
    async with engine_with(tmp_path) as engine:
        status = await ends(engine, tasks["insert"], literal_map(name="x"))
    assert status.error is not None
    assert "_FSEC_DB_NAME" in status.error.message


async def test_sqlite_files_of_flytekit_are_queried(tasks: Mapping[str, bytes], flyte1: Sdk, tmp_path: Path) -> None:
    async with engine_with(tmp_path) as engine:
        tracks = await output_of(engine, await ends(engine, tasks["tracks"], literal_map(n=2)))
        found = await anyio.to_thread.run_sync(flyte1.read, tmp_path, tracks)
    assert found["rows"] == [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]


async def test_snowflake_tasks_of_flytekit_run_and_it_finds_their_result(
    tasks: Mapping[str, bytes], flyte1: Sdk, tmp_path: Path
) -> None:
    async with fake_snowflake.opened() as fake:
        fake.keys[USER] = public_key(service_key())
        async with engine_with(tmp_path, fake, _FSEC_SNOWFLAKE_PRIVATE_KEY=service_key()) as engine:
            result = await output_of(engine, await ends(engine, tasks["snowflake"], literal_map(least=5)))
            assert (await ends(engine, tasks["statement"])).outcome is Outcome.COMPLETED
            found = await anyio.to_thread.run_sync(flyte1.read, tmp_path, result)
        assert fake.rows("select name from pets where age = 1") == [("ida",)]
    first, _ = fake.statements
    assert fake.statements[first].rows == [("tom",)]
    place = {"database": "DB", "schema": "PUBLIC", "warehouse": "WH"}
    assert found["rows"] == [{"user": "me", "account": "org-acct", **place, "query": first}]


async def test_snowflake_tasks_of_flyte_2_run_with_their_own_key_and_it_finds_their_result(
    flyte2: Sdk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = user_key("open sesame")
    monkeypatch.setenv("FLYTE_SECRET_TEAM_MY_KEY", key)
    monkeypatch.setenv("FLYTE_SECRET_TEAM_PHRASE", "open sesame")
    made = await anyio.to_thread.run_sync(flyte2.templates)
    lists = literals_pb2.LiteralMap()
    columns: Mapping[str, Sequence[str | int]] = {"name": ("ida", "o'malley"), "age": (1, 2)}
    for name, items in columns.items():
        for item in items:
            lists.literals[name].collection.literals.append(literal_map(item=item).literals["item"])
    async with fake_snowflake.opened() as fake:
        fake.keys[USER] = public_key(key, "open sesame")
        async with engine_with(tmp_path, fake) as engine:
            batch = await ends(engine, made["batch"], lists)
            assert batch.outcome is Outcome.COMPLETED, batch
            inputs = literal_map(least=1, name="tom")
            result = await output_of(engine, await ends(engine, made["query"], inputs))
            found = await anyio.to_thread.run_sync(flyte2.read, tmp_path, result)
    _, second = fake.statements
    assert fake.statements[second].body["role"] == "ANALYST"
    assert sorted(fake.statements[second].rows) == [("ada", "100%"), ("o'malley", "100%")]
    place = {"database": "DB", "schema": "PUBLIC", "warehouse": "WH"}
    assert found["rows"] == [{"user": "me", "account": "org-acct", **place, "query": second}]
