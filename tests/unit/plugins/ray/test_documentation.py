"""What ``docs/plugins/ray.md`` shows is good."""

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
from propfan.plugins.ray import RayConfig
from tests.unit.plugins.ray.tasks import ray_plugin, spec_of

PAGE = (Path(__file__).parents[4] / "docs/plugins/ray.md").read_text()
TASK, SETTINGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
POLICY = re.search(r"^Without an SDK it is `(reusePolicy: .*?)`", PAGE, re.MULTILINE)


def documented(tmp_path: Path, text: str) -> tasks_pb2.TaskTemplate:
    file = tmp_path / "task.yaml"
    file.write_text(text)
    [task] = read_tasks(file)
    return tasks_pb2.TaskTemplate.FromString(task.template)


@pytest.mark.anyio
async def test_documented_task_runs(tmp_path: Path) -> None:
    spec = await spec_of(ray_plugin(), documented(tmp_path, TASK))
    assert spec["entrypoint"] == "python squares.py"
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"pip": ["numpy"]}
    assert [group["replicas"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]] == [2]


def test_documented_policy_shares_a_cluster(tmp_path: Path) -> None:
    assert POLICY is not None
    assert ray_plugin().get_cluster_name(FakeTaskContext(documented(tmp_path, f"{TASK}\n{POLICY[1]}\n")))


def test_documented_settings_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(SETTINGS)
    section = config_file.load(file, {}).plugins["ray"]
    config = decode_config(RayConfig, section, "plugins.ray")
    assert config.defaults.worker_node.start_parameters["num-cpus"] == "4"
    assert config.dashboard_url_template is not None


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    documented_keys = set(rows) | {"defaults"}
    assert set(RayConfig.__struct_encode_fields__) <= documented_keys
    defaults = RayConfig()
    for key, attribute in zip(RayConfig.__struct_encode_fields__, RayConfig.__struct_fields__, strict=True):
        shown = rows.get(key, "")
        if shown.startswith("`"):
            value = getattr(defaults, attribute)
            assert shown == f"`{str(value).lower() if isinstance(value, bool) else value}`", key
