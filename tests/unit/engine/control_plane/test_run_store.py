"""Runs and actions in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flyteidl2.common import list_pb2
from flyteidl2.common.phase_pb2 import ACTION_PHASE_RUNNING, ACTION_PHASE_SUCCEEDED
from sqlalchemy import create_engine, text

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.records import ActionKey
from propfan.engine.control_plane.store import database, schema
from propfan.engine.control_plane.store.queries import Query
from propfan.engine.control_plane.store.run_store import RunStore
from propfan.pluginmachinery.errors import AlreadyExistsError, ConfigError, NotFoundError, StorageError
from tests.unit.engine.control_plane.messages import START, action_record, run_record, sleep_task

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def store() -> AsyncIterator[RunStore]:
    async with database.open_database("sqlite://") as opened:
        yield RunStore(opened)


def names(answer: object) -> list[str]:
    return [item.id.name for item in answer.items]  # type: ignore[attr-defined]


def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        config = database.alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()
    assert ScriptDirectory.from_config(database.alembic_config()).get_current_head() == database.REVISION


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with database.open_database(url) as opened:
        await opened.write(
            lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        )
    with pytest.raises(ConfigError, match="newer propfan"):
        async with database.open_database(url):
            pass


@pytest.mark.parametrize("url", ["mysql://u:secret@h/db", "nonsense", "sqlite:/x"])
async def test_a_url_of_no_known_kind_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="must begin with sqlite") as refused:
        async with database.open_database(url):
            pass
    assert "secret" not in str(refused.value)


async def test_a_database_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        async with database.open_database(f"sqlite:///{tmp_path}/missing/a.db"):
            pass


async def test_a_run_is_read_back_with_its_actions() -> None:
    async with store() as runs:
        run = run_record()
        await runs.add_run(run, action_record(run), sleep_task())
        await runs.add_actions([action_record(run, "a1", "a0")], {})
        assert await runs.run("r1") == run
        found = await runs.actions_of("r1")
        assert [(record.key.name, record.parent) for record in found] == [("a0", ""), ("a1", "a0")]
        assert await runs.task_spec(found[0].task_spec) == sleep_task()


async def test_a_name_is_taken_once() -> None:
    async with store() as runs:
        run = run_record()
        await runs.add_run(run, action_record(run), sleep_task())
        with pytest.raises(AlreadyExistsError, match="r1"):
            await runs.add_run(run, action_record(run), sleep_task())
        assert await runs.add_actions([action_record(run), action_record(run, "a1")], {}) == {ActionKey("r1", "a1")}
        with pytest.raises(NotFoundError, match="r2"):
            await runs.run("r2")


async def test_a_change_of_an_older_revision_is_refused_as_a_whole() -> None:
    async with store() as runs:
        run = run_record()
        await runs.add_run(run, action_record(run), sleep_task())
        await runs.add_actions([action_record(run, "a1")], {})
        mine = [record.copy() for record in await runs.actions_of("r1")]
        theirs = (await runs.actions_of("r1"))[1].copy()
        assert await runs.save([theirs])
        mine[0].details.status.phase = ACTION_PHASE_SUCCEEDED
        assert not await runs.save(mine)
        assert [record.revision for record in await runs.actions_of("r1")] == [0, 1]


async def test_what_the_engine_has_not_told_of_is_found_until_it_does() -> None:
    async with store() as runs:
        run = run_record()
        await runs.add_run(run, action_record(run), sleep_task())
        assert [record.key.name for record in await runs.unsubmitted("here")] == ["a0"]
        assert await runs.unsubmitted("elsewhere") == []
        told_of = (await runs.actions_of("r1"))[0].copy()
        told_of.is_submitted = True
        assert await runs.save([told_of])
        assert await runs.unsubmitted("here") == []


async def test_lists_are_filtered_ordered_and_paged() -> None:
    async with store() as runs:
        for number in range(5):
            run = run_record(f"r{number}", created_at=START + timedelta(minutes=number), labels={"n": str(number % 2)})
            await runs.add_run(run, action_record(run), sleep_task())
        running = (await runs.actions_of("r3"))[0].copy()
        running.details.status.phase = ACTION_PHASE_RUNNING
        await runs.save([running])

        page = await runs.list_runs(Query(list_pb2.ListRequest(limit=2)), project="demo")
        assert (names(page), page.token) == (["r4", "r3"], "2")
        page = await runs.list_runs(Query(list_pb2.ListRequest(limit=3, token="2")), project="demo")
        assert (names(page), page.token) == (["r2", "r1", "r0"], "")
        ascending = list_pb2.Sort(key="created_at", direction=list_pb2.Sort.ASCENDING)
        assert names(await runs.list_runs(Query(list_pb2.ListRequest(sort_by=ascending, limit=1)))) == ["r0"]
        for field, function, values, expected in (
            ("phase", list_pb2.Filter.EQUAL, ["4"], ["r3"]),
            ("phase", list_pb2.Filter.VALUE_IN, ["RUNNING", "ACTION_PHASE_FAILED"], ["r3"]),
            ("labels.n", list_pb2.Filter.EQUAL, ["1"], ["r3", "r1"]),
            ("labels.m", list_pb2.Filter.EXISTS, [], []),
            ("name", list_pb2.Filter.CONTAINS, ["2"], ["r2"]),
            ("created_at", list_pb2.Filter.GREATER_THAN_OR_EQUAL, ["2026-03-01T12:03:00+00:00"], ["r4", "r3"]),
        ):
            wanted = list_pb2.Filter(field=field, function=function, values=values)
            assert names(await runs.list_runs(Query(list_pb2.ListRequest(filters=[wanted])))) == expected, field
        assert await runs.list_runs(Query(list_pb2.ListRequest()), project="other") == await runs.list_runs(
            Query(list_pb2.ListRequest()), project="another"
        )


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (list_pb2.ListRequest(token="x"), "request.token"),
        (
            list_pb2.ListRequest(filters=[list_pb2.Filter(field="colour", values=["x"])]),
            r"filters\[0\].field: 'colour'",
        ),
        (list_pb2.ListRequest(filters=[list_pb2.Filter(field="phase", values=["x"])]), "no number, phase or time"),
        (list_pb2.ListRequest(filters=[list_pb2.Filter(field="name")]), "must be one value, are 0"),
        (list_pb2.ListRequest(sort_by=list_pb2.Sort(key="colour")), "sort_by.key: 'colour'"),
    ],
)
async def test_a_list_that_can_not_be_made_is_refused_by_field(request_: list_pb2.ListRequest, said: str) -> None:
    async with store() as runs:
        with pytest.raises(InvalidRequestError, match=said):
            await runs.list_runs(Query(request_))
