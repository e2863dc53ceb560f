"""What ``docs/connectors/bigquery.md`` and ``databricks.md`` show works, by ``propfan connector run`` itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import yaml

from propfan.pluginmachinery.testing import connector_setup
from propfan.plugins.connectors.databricks.connector import DatabricksConnector
from tests.unit.engine.cli.command import propfan
from tests.unit.plugins.connectors.bigquery import fake_bigquery
from tests.unit.plugins.connectors.databricks import fake_databricks
from tests.unit.plugins.connectors.pages import Page

pytestmark = pytest.mark.anyio


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
    task, _ = Page("bigquery").blocks()
    async with fake_bigquery.opened({"my-project": "EU"}) as fake:
        section = {"endpoint": fake.url, "token-endpoints": [f"{fake.url}/token"]}
        told = await run(tmp_path, task, {"bigquery": section}, {"least": 4}, GCP_KEY=fake.key(project="my-project"))
        ((uri, rows),) = fake.tables.items()
        assert rows == [("o'malley",), ("tom",)]
    assert "succeeded: DONE" in told
    assert uri in told


async def test_documented_notebook_runs(tmp_path: Path) -> None:
    task, *_ = Page("databricks").blocks()
    async with fake_databricks.opened("dapi-mine") as fake:
        section = {"endpoint": fake.url}
        told = await run(tmp_path, task, {"databricks": section}, DATABRICKS_TOKEN="dapi-mine")
        (body,) = fake.submissions.values()
    assert "succeeded: run 700000001: TERMINATED SUCCESS" in told
    assert body["tasks"][0]["notebook_task"]["base_parameters"] == {"day": "2026-01-01"}


def test_documented_scripts_are_settings() -> None:
    sections = yaml.safe_load(Page("databricks").blocks()[1])["connectors"]
    DatabricksConnector(connector_setup(sections=sections))
