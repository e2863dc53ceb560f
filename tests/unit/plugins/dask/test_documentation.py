"""What ``docs/plugins/dask.md`` shows is good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flyteidl2.core import tasks_pb2

from propfan.engine import config_file
from propfan.engine.taskfiles import read_tasks
from tests.unit.plugins.dask.tasks import containers, dask_plugin, dask_task, spec_of

PAGE = (Path(__file__).parents[4] / "docs/plugins/dask.md").read_text()
TASK, SETTINGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.anyio


async def test_documented_task_runs(tmp_path: Path) -> None:
    file = tmp_path / "sums.yaml"
    file.write_text(TASK)
    [task] = read_tasks(file)
    spec = await spec_of(dask_plugin(), tasks_pb2.TaskTemplate.FromString(task.template))
    parts = containers(spec)
    assert parts["job-runner"]["args"] == ["python", "sums.py"]
    assert parts["dask-worker"]["args"][-4:] == ["--nthreads", "2", "--memory-limit", "4Gi"]
    assert parts["scheduler"]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert spec["cluster"]["spec"]["worker"]["replicas"] == 4


async def test_documented_settings_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(SETTINGS)
    section = config_file.load(file, {}).plugins["dask"]
    spec = await spec_of(dask_plugin(**section), dask_task())
    assert containers(spec)["scheduler"]["args"][-1] == "/project-domain/r1"
