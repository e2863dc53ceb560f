"""What the pages on SQL databases and Snowflake show is good."""

from __future__ import annotations

import pytest

from propfan.pluginmachinery.connector import Dataset, RemotePhase
from propfan.pluginmachinery.testing import connector_setup
from propfan.plugins.connectors.snowflake.accounts import SnowflakeConfig
from propfan.plugins.connectors.snowflake.statements import Submission
from propfan.plugins.connectors.sqlalchemy import SQLAlchemyConnector
from tests.unit.plugins.connectors.pages import Page
from tests.unit.plugins.connectors.sqlalchemy.rig import rows

pytestmark = pytest.mark.anyio


async def test_the_statement_of_the_page_runs() -> None:
    setup = connector_setup()
    found = await SQLAlchemyConnector(setup).do(Page("sqlalchemy").task(n=12))
    assert (found.phase, found.message) == (RemotePhase.SUCCEEDED, "1 rows")
    assert found.outputs == {"results": Dataset("memory:///r1/a0/1/results", "parquet")}
    assert rows(setup.store) == [{"n": 12, "square": 144}]


def test_the_statement_of_snowflakes_page_is_one_that_is_taken() -> None:
    taken = Submission.of(Page("snowflake").task(least=5), SnowflakeConfig())
    assert taken.body["statement"] == "select name, age from pets where age > ?"
    assert (taken.output, taken.is_v1) == ("results", False)
