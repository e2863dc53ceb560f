"""What ``docs/connectors/bigquery.md`` and ``databricks.md`` show works, by ``propfan connector run`` itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import yaml

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.pluginmachinery.testing import connector_setup
from propfan.plugins.connectors.bigquery.connector import BigQueryConfig, BigQueryConnector
from propfan.plugins.connectors.databricks.connector import DatabricksConfig, DatabricksConnector
from tests.unit.engine.cli.command import propfan
from tests.unit.plugins.connectors.bigquery import fake_bigquery
from tests.unit.plugins.connectors.databricks import fake_databricks

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parents[4] / "docs/connectors"


def blocks(page: str) -> list[str]:
    found: list[str] = re.findall(r"^```yaml\n(.*?)^```", (FOLDER / page).read_text(), re.MULTILINE | re.DOTALL)
    return found


async def run(folder: Path, task: str, connectors: Mapping[str, Any], inputs: Any = None, **environment: str) -> str:
    """What the command prints."""
    (folder / "task.yaml").write_text(task)
    (folder / "inputs.json").write_text(json.dumps(inputs))
    (folder / "service.yaml").write_text(yaml.safe_dump({"connectors": connectors}))
    called_with = ["--inputs", "inputs.json"] if inputs is not None else []
    command = ["connector", "run", "task.yaml", "-c", "service.yaml", *called_with]
    done = await anyio.to_thread.run_sync(partial(propfan, *command, cwd=folder, **environment))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


async def test_documented_query_runs(tmp_path: Path) -> None:
    task, _ = blocks("bigquery.md")
    async with fake_bigquery.opened({"my-project": "EU"}) as fake:
        section = {"endpoint": fake.url, "token-endpoints": [f"{fake.url}/token"]}
        told = await run(tmp_path, task, {"bigquery": section}, {"least": 4}, GCP_KEY=fake.key(project="my-project"))
        ((uri, rows),) = fake.tables.items()
        assert rows == [("o'malley",), ("tom",)]
    assert "succeeded: DONE" in told
    assert uri in told


async def test_documented_notebook_runs(tmp_path: Path) -> None:
    task, *_ = blocks("databricks.md")
    async with fake_databricks.opened("dapi-mine") as fake:
        section = {"endpoint": fake.url}
        told = await run(tmp_path, task, {"databricks": section}, DATABRICKS_TOKEN="dapi-mine")
        (body,) = fake.submissions.values()
    assert "succeeded: run 700000001: TERMINATED SUCCESS" in told
    assert body["tasks"][0]["notebook_task"]["base_parameters"] == {"day": "2026-01-01"}


def test_documented_settings_are_those_that_there_are() -> None:
    _, settings = blocks("bigquery.md")
    sections = yaml.safe_load(settings)["connectors"]
    setup = connector_setup(sections=sections)
    assert setup.section("bigquery", BigQueryConfig) == BigQueryConfig()
    BigQueryConnector(setup)
    _, script, settings = blocks("databricks.md")
    for block in (script, settings):
        setup = connector_setup(sections=yaml.safe_load(block)["connectors"])
        DatabricksConnector(setup)
    assert set(sections["bigquery"]) == {name.replace("_", "-") for name in BigQueryConfig.__struct_fields__}
    known = {name.replace("_", "-") for name in DatabricksConfig.__struct_fields__}
    assert set(yaml.safe_load(settings)["connectors"]["databricks"]) == known - {"flyte1", "flyte2"}
    ConnectorServiceConfig(connectors=sections)
