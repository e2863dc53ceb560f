"""What the pages on SQL databases and Snowflake show is good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.connector import Dataset, RemotePhase, TaskRequest
from propfan.pluginmachinery.testing import connector_setup, connector_task, literal_map
from propfan.plugins.connectors.snowflake.accounts import SnowflakeConfig
from propfan.plugins.connectors.snowflake.statements import Submission
from propfan.plugins.connectors.sqlalchemy import SQLAlchemyConnector
from propfan.plugins.connectors.sqlalchemy.config import DatabaseConfig
from tests.unit.plugins.connectors.sqlalchemy.rig import rows

DOCS = Path(__file__).parents[4] / "docs" / "connectors"
DATABASES = (DOCS / "sqlalchemy.md").read_text()
SNOWFLAKE = (DOCS / "snowflake.md").read_text()

pytestmark = pytest.mark.anyio


def blocks(page: str) -> list[Any]:
    return [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]


def task(page: str, **inputs: Any) -> TaskRequest:
    """The first file that the page shows."""
    template = tasks_pb2.TaskTemplate()
    json_format.ParseDict(blocks(page)[0], template)
    return connector_task(template, literal_map(**inputs))


async def test_the_statement_of_the_page_runs() -> None:
    setup = connector_setup()
    found = await SQLAlchemyConnector(setup).do(task(DATABASES, n=12))
    assert (found.phase, found.message) == (RemotePhase.SUCCEEDED, "1 rows")
    assert found.outputs == {"results": Dataset("memory:///r1/a0/1/results", "parquet")}
    assert rows(setup.store) == [{"n": 12, "square": 144}]


def test_the_statement_of_snowflakes_page_is_one_that_is_taken() -> None:
    taken = Submission.of(task(SNOWFLAKE, least=5), SnowflakeConfig())
    assert taken.body["statement"] == "select name, age from pets where age > ?"
    assert (taken.output, taken.is_v1) == ("results", False)


@pytest.mark.parametrize(
    ("page", "name", "shape"), [(DATABASES, "sqlalchemy", DatabaseConfig), (SNOWFLAKE, "snowflake", SnowflakeConfig)]
)
def test_the_settings_are_all_there_with_their_defaults(page: str, name: str, shape: type[Any]) -> None:
    section = blocks(page)[1]["connectors"][name]
    assert msgspec.to_builtins(decode_config(shape, section, "")) == msgspec.to_builtins(shape())
    assert set(section) == {field.encode_name for field in msgspec.structs.fields(shape)}
