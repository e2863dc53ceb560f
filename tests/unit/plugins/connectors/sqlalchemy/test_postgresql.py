"""Statements on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase, Resource
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import literal_map
from propfan.pluginmachinery.testing.connector_fakes import connector_setup
from propfan.plugins.connectors.sqlalchemy import SQLAlchemyConnector
from tests.peers.postgresql import PostgreSQL, find_programs
from tests.unit.plugins.connectors.sqlalchemy.rig import query, rows

pytestmark = pytest.mark.anyio

SLEEP = "select pg_sleep(600)"
SLEEPING = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    with PostgreSQL(programs) as running:
        yield running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def setup_ctx() -> ConnectorSetup:
    return with_settings(connector_setup())


def with_settings(setup: ConnectorSetup, **settings: Any) -> ConnectorSetup:
    section = {"hosts": {"allow-loopback": True}, **settings}
    return msgspec.structs.replace(setup, sections={"sqlalchemy": section})


async def done(setup: ConnectorSetup, task: Any) -> Resource:
    return await SQLAlchemyConnector(setup).do(task)


async def until_asleep(server: PostgreSQL, count: str) -> None:
    """Waits for the server's own account of who sleeps."""
    with anyio.fail_after(20):
        while await anyio.to_thread.run_sync(server.query, SLEEPING) != count:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.05)


async def test_types_of_the_database_are_kept(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    text = """
        select 5::bigint as i, 1.5::double precision as f, 2.50::numeric as d, 'a:b'::text as s, true as b, null::int as n,
          '2026-01-02 03:04:05+00'::timestamptz as t, '{"a": [1]}'::jsonb as j, '{1,2}'::int[] as l, 'x'::bytea as x,
          'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid as u, 10 % 4 as m -- it's fine
    """
    found = await done(setup_ctx, query(text, server.url))
    assert found.phase == RemotePhase.SUCCEEDED, found.message
    (row,) = rows(setup_ctx.store)
    assert row["d"].as_tuple() == (0, (2, 5, 0), -2)
    assert {name: value for name, value in row.items() if name != "d"} == {
        "i": 5,
        "f": 1.5,
        "s": "a:b",
        "b": True,
        "n": None,
        "t": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "j": '{"a":[1]}',
        "l": [1, 2],
        "x": b"x",
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "m": 2,
    }


async def test_inputs_of_every_type_are_bound(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    inputs = literal_map(i=3, f=0.5, s="it's %s :x", b=True, d=moment)
    text = (
        "select {{.inputs.i}} + 1 as i, {{.inputs.f}} * 2 as f, '{{.inputs.s}}' as s, not {{.inputs.b}} as b,"
        " {{.inputs.d}} as d, date '2026-01-02' <= '{{.inputs.d}}' as e, 5 in {{.inputs.l}} as l"
    )
    for number in range(2):
        item = inputs.literals["l"].collection.literals.add()
        item.scalar.primitive.integer = 4 + number
    found = await done(setup_ctx, query(text, server.url, inputs))
    assert found.phase == RemotePhase.SUCCEEDED, found.message
    assert rows(setup_ctx.store) == [
        {"i": 4, "f": 1.0, "s": "it's %s :x", "b": False, "d": moment, "e": True, "l": True}
    ]


async def test_many_rows_come_through_a_cursor_of_the_server(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    setup = with_settings(setup_ctx, **{"max-rows": 10_000})
    found = await done(setup, query("select i from generate_series(1, 10000) as i", server.url))
    assert found.custom_info == {"rows": 10_000, "columns": ["i"]}
    assert sum(row["i"] for row in rows(setup.store)) == 50_005_000
    found = await done(setup, query("select i, repeat('x', 1000) from generate_series(1, 20000) as i", server.url))
    assert "connectors.sqlalchemy.max-rows" in found.message


async def test_changes_are_committed_with_their_rows(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    server.query("create table fruit (name text primary key, key text unique)")
    text = "insert into fruit values ('{{.inputs.s}}', {{.idempotency_key}}) on conflict (key) do nothing"
    task = query(text, server.url, literal_map(s="fig"), output=None)
    for expected in (1, 0):
        found = await done(setup_ctx, task)
        assert (found.phase, found.custom_info) == (RemotePhase.SUCCEEDED, {"rows": expected})
    found = await done(setup_ctx, query("insert into fruit values ('kiwi', 'k') returning name", server.url))
    assert rows(setup_ctx.store) == [{"name": "kiwi"}]
    assert server.query("select count(*) from fruit") == "2"


async def test_what_the_database_says_is_told(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    found = await done(setup_ctx, query("select * from nowhere", server.url))
    assert found.phase == RemotePhase.FAILED
    assert 'relation "nowhere" does not exist' in found.message
    found = await done(setup_ctx, query("select 1 / {{.inputs.x}}", server.url, literal_map(x=0)))
    assert "division by zero" in found.message


async def test_a_statement_that_takes_too_long_ends_on_the_server(
    setup_ctx: ConnectorSetup, server: PostgreSQL
) -> None:
    setup = with_settings(setup_ctx, **{"statement-timeout-s": 0.5})
    with anyio.fail_after(20):
        found = await done(setup, query(SLEEP, server.url))
    assert found.phase == RemotePhase.FAILED
    assert "connectors.sqlalchemy.statement-timeout-s" in found.message
    await until_asleep(server, "0")


async def test_a_call_that_is_given_up_ends_its_statement_on_the_server(
    setup_ctx: ConnectorSetup, server: PostgreSQL
) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(done, setup_ctx, query(SLEEP, server.url))
            await until_asleep(server, "1")
            group.cancel_scope.cancel()
    await until_asleep(server, "0")


async def test_a_connection_that_breaks_is_worth_another_try(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    async def end() -> None:
        await until_asleep(server, "1")
        ended = SLEEPING.replace("count(*)", "count(pg_terminate_backend(pid))")
        await anyio.to_thread.run_sync(server.query, ended)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(end)
            with pytest.raises(TransientError, match="terminating connection"):
                await done(setup_ctx, query(SLEEP, server.url))


async def test_a_server_that_is_down_is_worth_another_try(setup_ctx: ConnectorSetup) -> None:
    with pytest.raises(TransientError, match=r"postgresql://127\.0\.0\.1:1/d"):
        await done(setup_ctx, query("select 1", "postgresql://u:s3cret@127.0.0.1:1/d"))


async def test_a_database_that_is_not_there_is_not(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    with pytest.raises(PermanentError, match='database "absent" does not exist'):
        await done(setup_ctx, query("select 1", server.url.removesuffix("postgres") + "absent"))


async def test_a_password_that_is_wrong_is_not(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    server.query("create role nobody")  # without the right to log in
    with pytest.raises(PermanentError) as caught:
        await done(setup_ctx, query("select 1", server.url.replace("postgres@", "nobody:s3cret@")))
    assert "s3cret" not in str(caught.value)


async def test_arguments_and_secrets_reach_the_driver(setup_ctx: ConnectorSetup, server: PostgreSQL) -> None:
    secret = {"application_name": {"key": "name", "group": None}}
    text = "select current_setting('application_name') as name, current_setting('work_mem') as memory"
    task = query(text, server.url, secret_connect_args=secret, secrets={"name": "of the task"})
    task.template.custom["connect_args"] = {"options": "-c work_mem=8MB", "connect_timeout": 3.0}
    await done(setup_ctx, task)
    assert rows(setup_ctx.store) == [{"name": "of the task", "memory": "8MB"}]
    task.template.custom["connect_args"] = {"no_such_argument": 1}
    with pytest.raises(BadTaskSpecificationError, match="no_such_argument"):
        await done(setup_ctx, task)
