"""Statements on SQLite's own databases, in files and in memory."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from flyteidl2.core import literals_pb2, types_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase, Resource
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from propfan.pluginmachinery.testing.connector_contract import JobStory, SyncConnectorContract
from propfan.pluginmachinery.testing.connector_fakes import connector_setup
from propfan.pluginmachinery.testing.fakes import FakeSecrets
from propfan.plugins.connectors.sqlalchemy import SQLAlchemyConnector
from tests.unit.plugins.connectors.sqlalchemy.rig import DATASET, PREFIX, SCHEMA, query, rows, simple

pytestmark = pytest.mark.anyio

MEMORY = "sqlite://"
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) as m from n"
"""Counts until it is interrupted."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "allowed" / "fruit.db"
    found.parent.mkdir()
    with sqlite3.connect(found) as connection:
        connection.execute("create table fruit (name text primary key, weight real, count integer)")
        connection.executemany("insert into fruit values (?, ?, ?)", [("apple", 1.5, 3), ("kiwi", 0.5, 9)])
    connection.close()
    return found


@pytest.fixture
def setup_ctx(file: Path) -> ConnectorSetup:
    return connector_setup(sections={"sqlalchemy": {"sqlite-folders": [str(file.parent)]}})


def names(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    found = [name for (name,) in connection.execute("select name from fruit order by name")]
    connection.close()
    return found


async def done(setup: ConnectorSetup, task: Any) -> Resource:
    return await SQLAlchemyConnector(setup).do(task)


class TestContract(SyncConnectorContract):
    connector_class = SQLAlchemyConnector
    stories = (
        JobStory("selects", query("select 1 as n", MEMORY), RemotePhase.SUCCEEDED, message="1 rows"),
        JobStory("executes", query("create table t (n)", MEMORY, output=None), RemotePhase.SUCCEEDED),
        JobStory("has no such table", query("select * from t", MEMORY), RemotePhase.FAILED, message="no such table: t"),
        JobStory("is no SQL", query("sel", MEMORY), RemotePhase.FAILED, message="syntax error"),
        JobStory("has no rows", query("create table t (n)", MEMORY), RemotePhase.FAILED, message="returns no rows"),
    )

    @pytest.fixture
    def setup_ctx(self) -> ConnectorSetup:
        return connector_setup()


async def test_rows_are_stored_below_the_output_prefix(setup_ctx: ConnectorSetup, file: Path) -> None:
    found = await done(setup_ctx, query("select * from fruit order by name", f"sqlite:///{file}"))
    assert found.phase == RemotePhase.SUCCEEDED
    assert found.custom_info == {"rows": 2, "columns": ["name", "weight", "count"]}
    assert found.outputs is not None
    literal = found.outputs["results"]
    assert isinstance(literal, literals_pb2.Literal)
    assert literal.scalar.schema.uri == f"{PREFIX}/results"
    assert rows(setup_ctx.store) == [
        {"name": "apple", "weight": 1.5, "count": 3},
        {"name": "kiwi", "weight": 0.5, "count": 9},
    ]


async def test_a_structured_dataset_is_told_as_parquet(setup_ctx: ConnectorSetup) -> None:
    found = await done(setup_ctx, query("select 1 as n", MEMORY, output=DATASET))
    assert found.outputs is not None
    assert (found.outputs["results"].uri, found.outputs["results"].format) == (f"{PREFIX}/results", "parquet")


async def test_inputs_are_bound_and_never_read_as_sql(setup_ctx: ConnectorSetup, file: Path) -> None:
    text = "select {{.inputs.s}} as a, '<{{.inputs.s}}>' as b, {{.inputs.n}} + 1 as c, '12:30' as d where :n is null"
    attack = "'; drop table fruit; --"
    text = text.replace(" where :n is null", "")
    await done(setup_ctx, query(text, f"sqlite:///{file}", literal_map(s=attack, n=4)))
    assert rows(setup_ctx.store) == [{"a": attack, "b": f"<{attack}>", "c": 5, "d": "12:30"}]


async def test_moments_are_bound(setup_ctx: ConnectorSetup) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    text = "select {{.inputs.d}} < '2026-01-03' as before, '{{.inputs.d}}' as told"
    await done(setup_ctx, query(text, MEMORY, literal_map(d=moment)))
    assert rows(setup_ctx.store) == [{"before": 1, "told": "2026-01-02 03:04:05+00:00"}]


async def test_a_statement_without_outputs_is_committed(setup_ctx: ConnectorSetup, file: Path) -> None:
    text = "insert into fruit values ({{.inputs.s}}, 1, 1)"
    found = await done(setup_ctx, query(text, f"sqlite:///{file}", literal_map(s="pear"), output=None))
    assert (found.phase, found.custom_info) == (RemotePhase.SUCCEEDED, {"rows": 1})
    assert names(file) == ["apple", "kiwi", "pear"]


async def test_a_statement_with_the_idempotency_key_has_one_effect(setup_ctx: ConnectorSetup, file: Path) -> None:
    text = "insert into fruit values ({{.idempotency_key}}, 1, 1) on conflict do nothing"
    task = query(text, f"sqlite:///{file}", output=None)
    for _ in range(3):
        assert (await done(setup_ctx, task)).phase == RemotePhase.SUCCEEDED
    assert names(file) == ["apple", "kiwi", task.unique_name()]


async def test_nothing_is_committed_when_the_rows_can_not_be_stored(setup_ctx: ConnectorSetup, file: Path) -> None:
    class Broken(InMemoryStore):
        async def put(self, path: str, content: bytes) -> None:
            raise TransientError("", "the store is down")

    setup = msgspec.structs.replace(setup_ctx, store=Broken())
    with pytest.raises(TransientError, match="the store is down"):
        await done(setup, query("insert into fruit values ('fig', 1, 1) returning name", f"sqlite:///{file}"))
    assert names(file) == ["apple", "kiwi"]


async def test_declared_columns_decide_types(setup_ctx: ConnectorSetup) -> None:
    dataset = types_pb2.StructuredDatasetType()
    for name, kind in {"a": types_pb2.FLOAT, "b": types_pb2.STRING, "c": types_pb2.INTEGER}.items():
        dataset.columns.add(name=name, literal_type=simple(kind))
    output = types_pb2.LiteralType(structured_dataset_type=dataset)
    await done(setup_ctx, query("select 1 as a, 2 as b, null as c, x'00ff' as d", MEMORY, output=output))
    assert rows(setup_ctx.store) == [{"a": 1.0, "b": "2", "c": None, "d": b"\x00\xff"}]
    wrong = await done(setup_ctx, query("select 'x' as c", MEMORY, output=output))
    assert "column 'c' is string and declared INTEGER" in wrong.message


async def test_types_of_many_rows_are_reconciled(setup_ctx: ConnectorSetup) -> None:
    text = "with recursive n(i) as (select 0 union all select i + 1 from n where i < 4999) select "
    await done(setup_ctx, query(text + "case when i < 3000 then null else i / 2.0 end as h, i from n", MEMORY))
    found = rows(setup_ctx.store)
    assert len(found) == 5000
    assert (found[0]["h"], found[4999]["h"]) == (None, 2499.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("select 1 as n, 2 as n", "two columns are named n"),
        ("select 1 as n union all select 'x'", "column 'n' has values of several types"),
    ],
)
async def test_a_result_that_is_no_table_is_told(setup_ctx: ConnectorSetup, text: str, problem: str) -> None:
    found = await done(setup_ctx, query(text, MEMORY))
    assert found.phase == RemotePhase.FAILED
    assert problem in found.message


async def test_results_that_are_too_large_fail_with_the_setting(setup_ctx: ConnectorSetup) -> None:
    many = "with recursive n(i) as (select 0 union all select i + 1 from n) select i, randomblob(100) as b from n"
    for name, value in {"max-rows": 5000, "max-bytes": 100_000}.items():
        setup = msgspec.structs.replace(setup_ctx, sections={"sqlalchemy": {name: value}})
        found = await done(setup, query(many, MEMORY))
        assert found.phase == RemotePhase.FAILED
        assert f"connectors.sqlalchemy.{name}" in found.message


async def test_an_endless_statement_is_cancelled_and_told(setup_ctx: ConnectorSetup) -> None:
    setup = msgspec.structs.replace(setup_ctx, sections={"sqlalchemy": {"statement-timeout-s": 0.2}})
    with anyio.fail_after(20):
        found = await done(setup, query(ENDLESS, MEMORY))
    assert found.phase == RemotePhase.FAILED
    assert "statement-timeout-s" in found.message


async def test_a_call_that_is_given_up_ends_its_statement(setup_ctx: ConnectorSetup) -> None:
    with anyio.fail_after(20), anyio.move_on_after(0.2) as scope:
        await done(setup_ctx, query(ENDLESS, MEMORY))
    assert scope.cancelled_caught, "the thread has ended: anyio waits for it"


@pytest.mark.parametrize(
    "uri", ["sqlite:////etc/passwd", "sqlite:///{allowed}/../other.db", "sqlite:///{allowed}/link.db"]
)
async def test_files_outside_of_the_folders_are_refused(setup_ctx: ConnectorSetup, file: Path, uri: str) -> None:
    (file.parent / "link.db").symlink_to(file.parent.parent / "other.db")
    with pytest.raises(BadTaskSpecificationError, match=r"below none of connectors\.sqlalchemy\.sqlite-folders"):
        await done(setup_ctx, query("select 1", uri.format(allowed=file.parent)))


@pytest.mark.parametrize("text", ["attach '{other}' as o", "vacuum into '{other}'", "attach 'file:{other}' as o"])
async def test_statements_open_no_other_files(setup_ctx: ConnectorSetup, file: Path, text: str) -> None:
    other = file.parent.parent / "other.db"
    found = await done(setup_ctx, query(text.format(other=other), f"sqlite:///{file}", output=None))
    assert found.phase == RemotePhase.FAILED
    assert not other.exists()


async def test_statements_may_attach_what_a_url_may_name(setup_ctx: ConnectorSetup, file: Path) -> None:
    text = f"attach '{file.parent}/more.db' as o"
    found = await done(setup_ctx, query(text, f"sqlite:///{file}", output=None))
    assert "not authorized" not in found.message


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("nonsense", "is no URL of SQLAlchemy's"),
        ("duckdb:///x.db", r"'duckdb' are not allowed by connectors\.sqlalchemy\.dialects"),
        ("sqlite:///file:/etc/passwd", "not a URI of SQLite's own"),
        ("sqlite:///x.db?uri=true", "a task may not say uri"),
        ("sqlite://?plugin=evil", "a task may not say plugin"),
        ("sqlite+aiosqlite://", "is asynchronous"),
        ("postgresql://h/d?passfile=/etc/x", "a task may not say passfile"),
        ("mysql://h/d?local_infile=1", "a task may not say local_infile"),
    ],
)
async def test_urls_that_may_not_be_opened_are_refused(setup_ctx: ConnectorSetup, uri: str, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await done(setup_ctx, query("select 1", uri))


async def test_a_driver_that_is_missing_is_told_with_its_package(setup_ctx: ConnectorSetup) -> None:
    with pytest.raises(PermanentError, match=r"pip install oracledb"):
        await done(setup_ctx, query("select 1", "oracle://u:s3cret@h/d"))


async def test_secrets_of_urls_and_arguments_are_never_told(setup_ctx: ConnectorSetup) -> None:
    hosts = {"allow-loopback": True}
    setup = msgspec.structs.replace(
        setup_ctx, secrets=FakeSecrets({"db/pw": "hunter2"}), sections={"sqlalchemy": {"hosts": hosts}}
    )
    argument = {"password": {"group": "db", "key": "pw", "group_version": None, "mount_requirement": 2}}
    task = query(
        "select 1",
        "postgresql://u:s3cret@127.0.0.1:1/d?sslmode=hunter2&sslpassword=hunter3",
        secret_connect_args=argument,
    )
    with pytest.raises((PermanentError, TransientError)) as caught:
        await done(setup, task)
    assert "s3cret" not in str(caught.value)
    assert "hunter" not in str(caught.value)


async def test_a_secret_that_is_missing_is_named(setup_ctx: ConnectorSetup) -> None:
    task = query("select 1", "postgresql://u@h/d", secret_connect_args={"password": {"group": "db", "key": "pw"}})
    with pytest.raises(PermanentError, match="db/pw"):
        await done(setup_ctx, task)


@pytest.mark.parametrize("uri", ["postgresql://u@127.0.0.1/d", "postgresql://u@/d", "postgresql://u@/d?host=/tmp"])
async def test_the_connectors_own_machine_is_no_server_unless_it_is_allowed(
    setup_ctx: ConnectorSetup, uri: str
) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"connectors\.sqlalchemy\.hosts\.allow-loopback"):
        await done(setup_ctx, query("select 1", uri))


async def test_an_output_that_can_not_be_rows_is_refused(setup_ctx: ConnectorSetup) -> None:
    with pytest.raises(BadTaskSpecificationError, match="output 'results' is of type simple"):
        await done(setup_ctx, query("select 1", MEMORY, output=simple(types_pb2.STRING)))


async def test_without_pyarrow_the_way_out_is_told(setup_ctx: ConnectorSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    from propfan.plugins.connectors.sqlalchemy import tables

    monkeypatch.setattr(tables, "find_spec", dict[str, object]().get)
    with pytest.raises(PermanentError, match=r"pip install 'propfan\[sqlalchemy\]'"):
        await done(setup_ctx, query("select 1", MEMORY, output=SCHEMA))
    assert (await done(setup_ctx, query("select 1", MEMORY, output=None))).phase == RemotePhase.SUCCEEDED


async def test_comments_before_a_statement_are_read_once() -> None:
    """Else their number is an exponent, and the whole process waits."""
    comments = "/**/" * 1000
    setup = connector_setup()
    found = await SQLAlchemyConnector(setup).do(query(f"{comments} select 1 as one", MEMORY))
    assert found.phase is RemotePhase.SUCCEEDED
    found = await SQLAlchemyConnector(setup).do(query(f"{comments} nothing", MEMORY))
    assert found.phase is RemotePhase.FAILED
