"""What ``docs/plugins/spark.md`` shows is good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from flyteidl2.core import tasks_pb2

from propfan.engine import config_file
from propfan.engine.taskfiles import read_tasks
from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.testing import FakeTaskContext
from propfan.plugins.spark import SparkConfig
from tests.unit.plugins.spark.tasks import Crds, spark_plugin, spec_of

PAGE = (Path(__file__).parents[4] / "docs/plugins/spark.md").read_text()
TASK, SETTINGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.anyio
async def test_documented_task_runs(tmp_path: Path) -> None:
    file = tmp_path / "pi.yaml"
    file.write_text(TASK)
    [task] = read_tasks(file)
    spec = await spec_of(spark_plugin(crds=Crds()), FakeTaskContext(tasks_pb2.TaskTemplate.FromString(task.template)))
    assert spec["mainApplicationFile"].endswith("pi.py")
    assert spec["arguments"] == ["100"]
    assert spec["executor"]["instances"] == 2
    assert spec["driver"]["memory"] == "1g"


def test_documented_settings_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(SETTINGS)
    section = config_file.load(file, {}).plugins["spark"]
    config = decode_config(SparkConfig, section, "plugins.spark")
    assert config.features[0].name == "delta"
    assert yaml.safe_load(SETTINGS)["plugins"]["spark"] == section


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    keys = set(SparkConfig.__struct_encode_fields__) - {"logs"}
    assert keys <= documented
