"""What ``docs/plugins/kubeflow.md`` shows is good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.engine import config_file
from propfan.engine.taskfiles import read_tasks
from propfan.pluginmachinery import entries, objects
from propfan.pluginmachinery.entries import LoadedKubernetesPlugin
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.plugins.kubeflow import KubeflowConfig, mpi_entry, pytorch_entry, tensorflow_entry

PAGE = (Path(__file__).parents[4] / "docs/plugins/kubeflow.md").read_text()
TASKS, SETTINGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ENTRIES = {entry.id: entry for entry in (mpi_entry, pytorch_entry, tensorflow_entry)}

pytestmark = pytest.mark.anyio


async def test_documented_tasks_become_jobs(tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(TASKS)
    specs: dict[str, dict[str, Any]] = {}
    for task in read_tasks(file):
        entry = ENTRIES[task.task_type]
        loaded = entries.load(entry, setup_context())
        assert isinstance(loaded, LoadedKubernetesPlugin)
        ctx = FakeTaskContext(tasks_pb2.TaskTemplate.FromString(task.template))
        built = objects.normalise(await loaded.plugin.build_resource(ctx), entry.watched, entry.id, "")
        specs[task.task_type] = msgspec.json.decode(built.to_json())["spec"]
    assert list(specs["pytorch"]["pytorchReplicaSpecs"]) == ["Worker"]
    assert specs["pytorch"]["elasticPolicy"]["maxRestarts"] == 3
    assert specs["tensorflow"]["tfReplicaSpecs"]["Worker"]["replicas"] == 2
    assert specs["mpi"]["slotsPerWorker"] == 4


def test_documented_settings_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(SETTINGS)
    sections = config_file.load(file, {}).plugins
    assert setup_context(sections=sections).section("kf-operator", KubeflowConfig) == KubeflowConfig()


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert set(KubeflowConfig.__struct_encode_fields__) <= documented
