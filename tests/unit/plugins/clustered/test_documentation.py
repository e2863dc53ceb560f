"""What ``docs/plugins/clustered.md`` shows is good."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.engine import config_file
from propfan.engine.taskfiles import read_tasks
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.plugins.clustered import ClusteredConfig, ClusteredPlugin

PAGE = (Path(__file__).parents[4] / "docs/plugins/clustered.md").read_text()
TASK, SETTINGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.anyio
async def test_documented_task_becomes_a_job_set(tmp_path: Path) -> None:
    file = tmp_path / "pretrain.yaml"
    file.write_text(TASK)
    [task] = read_tasks(file)
    ctx = FakeTaskContext(tasks_pb2.TaskTemplate.FromString(task.template))
    built = await ClusteredPlugin(setup_context()).build_resource(ctx)
    spec = msgspec.json.decode(built.to_json())["spec"]
    assert (spec["failurePolicy"], spec["ttlSecondsAfterFinished"]) == ({"maxRestarts": 3}, 3600)
    container = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    told = {variable["name"] for variable in container["env"]}
    assert set(re.findall(r"\$([A-Z_]+)", container["args"][2])) <= told
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|", PAGE, re.MULTILINE)
    documented = {name for row in rows for name in re.findall("[A-Z_]+", row)}
    assert {"NNODES", "MASTER_PORT", "JOBSET_NAME"} <= documented <= told


def test_documented_settings_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(SETTINGS)
    sections = config_file.load(file, {}).plugins
    assert setup_context(sections=sections).section("clustered-task", ClusteredConfig) == ClusteredConfig()


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert set(ClusteredConfig.__struct_encode_fields__) <= documented


def test_the_documented_program_is_one_for_the_sdk() -> None:
    pytest.importorskip("flyte")
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "documented"}
    exec(compile(program, "clustered.md", "exec"), names)
    assert getattr(names["pretrain"], "task_type", None) == "clustered-task"
