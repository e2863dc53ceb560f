"""The connector on a fake of Snowflake's SQL API."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from flyteidl2.core import literals_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, Dataset, JobContext, RemotePhase, Resource, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import literal_map
from propfan.pluginmachinery.testing.fakes import FakeSecrets
from propfan.plugins.connectors.snowflake.accounts import Account, SnowflakeConfig
from propfan.plugins.connectors.snowflake.connector import SnowflakeConnector, SnowflakeMeta
from tests.unit.plugins.connectors.snowflake.fake_snowflake import public_key, user_key
from tests.unit.plugins.connectors.snowflake.rig import PLACE, SECRET, USER, query, served, service_key

pytestmark = pytest.mark.anyio

NO_JOB = JobContext()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ended(setup: ConnectorSetup, task: TaskRequest) -> Resource:
    connector = SnowflakeConnector(setup)
    meta = await connector.create(task)
    while True:
        found = await connector.get(meta, JobContext(connection=task.connection))
        if RemotePhase(found.phase).is_terminal:
            return found


def lists(**values: list[Any]) -> literals_pb2.LiteralMap:
    made = literals_pb2.LiteralMap()
    for name, items in values.items():
        for key, item in literal_map(**{str(number): item for number, item in enumerate(items)}).literals.items():
            assert key.isdigit()
            made.literals[name].collection.literals.append(item)
    return made


async def test_the_result_is_told_as_each_sdk_reads_it() -> None:
    async with served() as (fake, setup):
        old = await ended(setup, query("select * from pets", is_v1=True))
        new = await ended(setup, query("select * from pets", run="r2"))
    first, second = fake.statements
    assert old.outputs == {"results": Dataset(f"snowflake://me:org-acct/WH/DB/PUBLIC/{first}")}
    assert new.outputs == {"results": Dataset(f"snowflake://me/org-acct/WH/DB/PUBLIC/{second}")}
    assert new.custom_info == {"statement_handle": second, "rows": 2}
    (link,) = new.log_links
    assert link.uri == f"https://app.snowflake.com/org/acct/#/compute/history/queries/{second}/detail"


async def test_a_statement_without_results_has_no_outputs() -> None:
    async with served() as (fake, setup):
        found = await ended(setup, query("insert into pets values ('ida', 1)", has_results=False))
        assert found.outputs is None
        assert fake.rows("select name from pets where age = 1") == [("ida",)]


async def test_where_and_as_whom_a_statement_runs() -> None:
    arguments = {
        "role": "ANALYST",
        "session_parameters": {"TIMEZONE": "UTC", "USE_CACHED_RESULT": False},
        "autocommit": 1,
    }
    async with served(statement_timeout_s=600) as (fake, setup):
        task = query("select 1", connection_kwargs=arguments)
        await ended(setup, task)
    (made,) = fake.statements.values()
    assert made.body == {
        "statement": "select 1",
        "database": "DB",
        "schema": "PUBLIC",
        "warehouse": "WH",
        "role": "ANALYST",
        "timeout": 600,
        "parameters": {"query_tag": task.unique_name(), "timezone": "UTC", "use_cached_result": "false"},
    }


async def test_inputs_are_bound_with_their_types() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    inputs = literal_map(s="it's", i=2**40, f=0.5, b=True, d=moment)
    inputs.literals["n"].scalar.none_type.SetInParent()
    text = "select %(s)s, '%%-%(s)s', %(i)s, {{ .inputs.f }}, %(b)s, %(d)s, %(n)s, '100%%'"
    async with served() as (fake, setup):
        await ended(setup, query(text, inputs))
    (made,) = fake.statements.values()
    assert made.body["statement"] == "select ?, ?, ?, ?, ?, ?, ?, '100%'"
    assert list(made.body["bindings"].values()) == [
        {"type": "TEXT", "value": "it's"},
        {"type": "TEXT", "value": "%-it's"},
        {"type": "FIXED", "value": "1099511627776"},
        {"type": "REAL", "value": "0.5"},
        {"type": "BOOLEAN", "value": "true"},
        {"type": "TIMESTAMP_TZ", "value": "1767315845000678000 1440"},
        {"type": "TEXT", "value": None},
    ]
    assert made.rows[0][:4] == ("it's", "%-it's", 2**40, 0.5)


async def test_percent_signs_of_a_statement_without_inputs_are_its_own() -> None:
    async with served() as (fake, setup):
        await ended(setup, query("select * from pets where name like 't%%' and age % 2 = 1"))
    (made,) = fake.statements.values()
    assert "like 't%%' and age % 2" in made.body["statement"]


async def test_a_batch_is_one_insert_of_many_rows() -> None:
    inputs = lists(name=["o'malley", "ida"], age=[7, 1])
    async with served() as (fake, setup):
        task = query("insert into pets (name, age) values (%(name)s, %(age)s)", inputs, batch=True, has_results=False)
        found = await ended(setup, task)
        assert found.phase == RemotePhase.SUCCEEDED, found.message
        assert fake.rows("select name from pets order by age") == [("ida",), ("ada",), ("o'malley",), ("tom",)]
    (made,) = fake.statements.values()
    assert made.body["statement"].endswith("values (?, ?), (?, ?)")


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        (lists(a=[1], b=[1, 2]), "of one length and not empty: a has 1, b has 2"),
        (literal_map(a=1), "must be lists, of them a is none"),
        (None, "must be lists, and it has none"),
    ],
)
async def test_a_batch_that_is_none_is_refused(inputs: literals_pb2.LiteralMap | None, problem: str) -> None:
    async with served() as (_, setup):
        with pytest.raises(BadTaskSpecificationError, match=problem):
            await ended(setup, query("insert into t values (%(a)s)", inputs, batch=True))


async def test_a_repeated_creation_is_one_statement_even_after_its_end() -> None:
    async with served() as (fake, setup):
        connector = SnowflakeConnector(setup)
        task = query("insert into pets values ('ida', 1)", has_results=False)
        first = await connector.create(task)
        assert (await connector.get(first, NO_JOB)).phase == RemotePhase.SUCCEEDED
        assert await SnowflakeConnector(setup).create(task) == first
        assert await connector.create(query("select 1", run="r2")) != first
        assert fake.submissions == 3
    assert len(fake.statements) == 2
    assert all(uuid.UUID(each).version == 5 for each in fake.handles)


async def test_an_answer_that_is_lost_is_asked_for_again() -> None:
    """The gateway gives up, and Snowflake has the statement already."""
    async with served() as (fake, setup):
        task = query("insert into pets values ('ida', 1)", has_results=False)
        connector = SnowflakeConnector(setup)
        await connector.create(task)
        fake.faults.append((504, b"<html>Gateway Timeout</html>", {}))
        with pytest.raises(TransientError, match="504"):
            await connector.create(task)
        await connector.create(task)
        assert fake.rows("select count(*) from pets") == [(3,)]


async def test_a_canceled_statement_is_aborted_and_can_be_canceled_again() -> None:
    async with served() as (fake, setup):
        fake.looks = 1000
        connector = SnowflakeConnector(setup)
        meta = await connector.create(query("select 1"))
        running = await connector.get(meta, NO_JOB)
        assert (running.phase, running.message) == (RemotePhase.RUNNING, "Asynchronous execution in progress.")
        for _ in range(2):
            await connector.delete(meta, NO_JOB)
        found = await connector.get(meta, NO_JOB)
    assert (found.phase, found.message) == (RemotePhase.ABORTED, "snowflake: 000604 (57014): SQL execution canceled")


async def test_a_statement_that_took_too_long_fails_with_the_setting() -> None:
    async with served() as (fake, setup):
        connector = SnowflakeConnector(setup)
        meta = await connector.create(query("select 1"))
        problem = {"code": "000630", "sqlState": "57014", "message": "Statement reached its statement timeout"}
        fake.statements[meta.handle].failure = (408, problem)
        found = await connector.get(meta, NO_JOB)
    assert found.phase == RemotePhase.FAILED
    assert "000630 (57014): Statement reached its statement timeout; the limit is connectors" in found.message


async def test_a_statement_that_is_forgotten_failed() -> None:
    async with served() as (fake, setup):
        connector = SnowflakeConnector(setup)
        meta = await connector.create(query("select 1"))
        fake.statements.clear()
        found = await connector.get(meta, NO_JOB)
        await connector.delete(meta, NO_JOB)
    assert found.phase == RemotePhase.FAILED
    assert f"knows no statement {meta.handle}" in found.message


@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
async def test_a_service_that_is_busy_is_asked_again_when_it_says(status: int) -> None:
    async with served() as (fake, setup):
        connector = SnowflakeConnector(setup)
        task = query("select 1")
        meta = await connector.create(task)
        for call in (
            lambda: connector.create(task),
            lambda: connector.get(meta, NO_JOB),
            lambda: connector.delete(meta, NO_JOB),
        ):
            fake.faults.append((status, b'{"code":"391913","message":"Too many requests"}', {"Retry-After": "7"}))
            with pytest.raises(TransientError, match="Too many requests") as caught:
                await call()
            assert caught.value.retry_after_s == 7


async def test_a_result_that_is_too_large_for_an_answer_is_a_success() -> None:
    async with served() as (fake, setup):
        connector = SnowflakeConnector(setup)
        meta = await connector.create(query("select 1"))
        body = {"code": "391908", "message": "The result set is too large", "statementHandle": meta.handle}
        fake.faults.append((200, msgspec.json.encode(body), {}))
        found = await connector.get(meta, NO_JOB)
    assert (found.phase, found.outputs) == (RemotePhase.SUCCEEDED, {"results": Dataset(meta.uri)})


async def test_a_statement_that_does_not_compile_is_refused_at_once() -> None:
    async with served() as (fake, setup):
        fake.looks = 0
        with pytest.raises(BadTaskSpecificationError, match=r"000904 \(42000\): SQL compilation error"):
            await SnowflakeConnector(setup).create(query("selekt"))


async def test_a_task_with_its_own_key_uses_it() -> None:
    own = user_key("open sesame")
    async with served() as (fake, setup):
        fake.keys[USER] = public_key(own, "open sesame")
        secrets = {SECRET: own.replace("\n", "\\n"), "snowflake_private_key_passphrase": "open sesame"}
        assert (await ended(setup, query("select 1", secrets=secrets))).phase == RemotePhase.SUCCEEDED
        with pytest.raises(PermanentError, match="set the secret 'snowflake_private_key_passphrase'"):
            await ended(setup, query("select 1", secrets={SECRET: own}))


async def test_a_token_is_used_until_it_is_nearly_over() -> None:
    now = datetime.now(UTC)
    async with served() as (_, setup):
        connector = SnowflakeConnector(msgspec.structs.replace(setup, now=lambda: now))
        account = Account.at("org-acct", "me", SnowflakeConfig())
        tokens = []
        for minutes in (0, 7, 9, 9):
            now += timedelta(minutes=minutes)
            tokens.append(await connector._tokens.of(account, service_key(), "", now))
    assert [token == tokens[0] for token in tokens] == [True, True, False, False]
    assert len(set(tokens)) == 3


async def test_a_key_without_its_frame_is_read() -> None:
    async with served() as (_, setup):
        body = "".join(service_key().splitlines()[1:-1])
        assert (await ended(setup, query("select 1", secrets={SECRET: body}))).phase == RemotePhase.SUCCEEDED


async def test_a_key_that_snowflake_does_not_know_is_no_use_to_try_again() -> None:
    async with served() as (_, setup):
        with pytest.raises(PermanentError, match="390144: JWT token is invalid") as caught:
            await ended(setup, query("select 1", secrets={SECRET: user_key()}))
    assert caught.value.code == "ServiceNotAllowed"


async def test_a_key_that_is_none_is_named_and_never_told() -> None:
    async with served() as (_, setup):
        with pytest.raises(PermanentError, match="secret 'snowflake_private_key' is no private key") as caught:
            await ended(setup, query("select 1", secrets={SECRET: "hunter2"}))
        assert "hunter2" not in str(caught.value)
        none = msgspec.structs.replace(setup, secrets=FakeSecrets({}))
        with pytest.raises(PermanentError, match="snowflake_private_key"):
            await ended(none, query("select 1"))


async def test_a_task_may_name_a_server_that_is_allowed() -> None:
    async with served(endpoint="", hosts=["127.0.0.1"]) as (fake, setup):
        port = int(fake.url.rpartition(":")[2])
        place = {"host": "127.0.0.1", "port": port, "protocol": "http"}
        assert (await ended(setup, query("select 1", connection_kwargs=place))).phase == RemotePhase.SUCCEEDED


@pytest.mark.parametrize(
    ("custom", "problem"),
    [
        ({"connection_kwargs": {"host": "evil.example.com"}}, r"'evil.example.com' is not among connectors\.snowflake"),
        ({"connection_kwargs": {"host": "x.snowflakecomputing.com", "protocol": "http"}}, "must be https"),
        ({"connection_kwargs": {"password": "hunter2"}}, "only key pairs are taken"),
        ({"connection_kwargs": {"authenticator": "oauth"}}, "only key pairs are taken"),
        ({"account": "evil.com/#"}, "is no account identifier"),
        ({"account": ""}, "is no account identifier"),
        ({"warehouse": None}, r"warehouse"),
    ],
)
async def test_what_can_not_work_is_refused_by_its_field(custom: dict[str, Any], problem: str) -> None:
    async with served() as (fake, setup):
        with pytest.raises(BadTaskSpecificationError, match=problem) as caught:
            await ended(setup, query("select 1", **custom))
    assert "hunter2" not in str(caught.value)
    assert fake.submissions == 0


async def test_a_field_that_is_missing_in_flyte_1_is_named() -> None:
    async with served() as (_, setup):
        task = query("select 1", is_v1=True)
        del task.template.config["warehouse"]
        with pytest.raises(BadTaskSpecificationError, match=r"config: .*warehouse"):
            await ended(setup, task)


async def test_a_meta_from_outside_leads_to_no_other_server() -> None:
    async with served(endpoint="") as (_, setup):
        meta = SnowflakeMeta("org-acct", "me", "01b2", host="evil.example.com")
        with pytest.raises(BadTaskSpecificationError, match="evil"):
            await SnowflakeConnector(setup).get(meta, NO_JOB)


@pytest.mark.parametrize(
    ("name", "server", "issuer", "page"),
    [
        ("org-acct", "https://org-acct.snowflakecomputing.com", "ORG-ACCT.ME", "org/acct"),
        ("org-my_acct", "https://org-my-acct.snowflakecomputing.com", "ORG-MY_ACCT.ME", "org/my_acct"),
        ("xy12345", "https://xy12345.snowflakecomputing.com", "XY12345.ME", "us-west-2/xy12345"),
        (
            "xy12345.eu-west-1",
            "https://xy12345.eu-west-1.snowflakecomputing.com",
            "XY12345.ME",
            "eu-west-1/xy12345",
        ),
        ("acme-x1.global", "https://acme-x1.global.snowflakecomputing.com", "ACME.ME", "global/acme-x1"),
    ],
)
def test_accounts_of_every_form_have_their_server_issuer_and_page(
    name: str, server: str, issuer: str, page: str
) -> None:
    account = Account.at(name, PLACE["user"], SnowflakeConfig())
    assert (account.server, account.issuer) == (server, issuer)
    assert account.query_page("q") == f"https://app.snowflake.com/{page}/#/compute/history/queries/q/detail"
