"""What real SDK plugins serialise becomes what their users meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery import entries, objects
from propfan.pluginmachinery.entries import LoadedKubernetesPlugin
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.verdicts import problems_of_object
from propfan.plugins.kubeflow import mpi, pytorch, tensorflow
from tests.peers.sdk_templates.recorded import Recorded, recorded

ENTRIES = {plugin.entry.id: plugin.entry for plugin in (mpi, pytorch, tensorflow)}
TEMPLATES = {one.name: one for one in recorded(*ENTRIES)}

pytestmark = pytest.mark.anyio

SMALL = {"cpu": "1", "memory": "500Mi"}
LARGE = {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "1"}


async def built(one: Recorded) -> dict[str, Any]:
    template = one.message
    entry = ENTRIES[template.type]
    loaded = entries.load(entry, setup_context())
    assert isinstance(loaded, LoadedKubernetesPlugin)
    made = await loaded.plugin.build_resource(FakeTaskContext(template))
    job: dict[str, Any] = msgspec.json.decode(objects.normalise(made, entry.watched, entry.id, "").to_json())
    return job


def roles(job: Mapping[str, Any]) -> Mapping[str, Any]:
    (found,) = (value for name, value in job["spec"].items() if name.endswith("ReplicaSpecs"))
    assert isinstance(found, dict)
    return found


def trainer(role: Mapping[str, Any], task_type: str) -> Mapping[str, Any]:
    (found,) = (c for c in role["template"]["spec"]["containers"] if c["name"] == task_type)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", TEMPLATES)
async def test_every_role_has_the_container_of_its_operator_and_knows_its_inputs(name: str) -> None:
    one = TEMPLATES[name]
    job = await built(one)
    assert problems_of_object(job, 253) == ()
    assert roles(job)
    for role in roles(job).values():
        container = trainer(role, one.message.type)
        assert container["image"]
        if "--inputs" in (arguments := container.get("args", ())):
            assert arguments[arguments.index("--inputs") + 1] == "memory:///r1/a0/1/in/inputs.pb"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flyte1-pytorch-default", {"Master": (1, "img:1", SMALL), "Worker": (2, "img:1", SMALL)}),
        ("flyte1-pytorch-elastic", {"Worker": (2, "img:1", SMALL)}),
        ("flyte1-pytorch-full", {"Master": (1, "master:1", SMALL), "Worker": (3, "worker:1", LARGE)}),
        ("flyte2-pytorch-elastic", {"Worker": (2, "img:1", SMALL)}),
        ("flyte2-pytorch-range", {"Worker": (4, "img:1", SMALL)}),
        ("flyte1-mpi-full", {"Launcher": (1, "img:1", SMALL), "Worker": (2, "worker:1", LARGE)}),
        ("flyte1-mpi-horovod", {"Launcher": (1, "img:1", SMALL), "Worker": (2, "img:1", SMALL)}),
        (
            "flyte1-tensorflow-full",
            {
                "Chief": (1, "img:1", SMALL),
                "Worker": (2, "worker:1", LARGE),
                "PS": (1, "img:1", SMALL),
                "Evaluator": (1, "img:1", SMALL),
            },
        ),
    ],
)
async def test_roles_have_the_replicas_images_and_resources_that_their_task_asks_for(
    name: str, expected: dict[str, tuple[int, str, dict[str, str]]]
) -> None:
    one = TEMPLATES[name]
    found = {}
    for role, spec in roles(await built(one)).items():
        container = trainer(spec, one.message.type)
        found[role] = (spec["replicas"], container["image"], container["resources"]["limits"])
    assert found == expected


async def test_mpi_processes_fit_into_the_slots_of_the_workers() -> None:
    job = await built(TEMPLATES["flyte1-mpi-full"])
    arguments = trainer(roles(job)["Launcher"], "mpi")["args"]
    processes = int(arguments[arguments.index("-np") + 1])
    assert processes == roles(job)["Worker"]["replicas"] * job["spec"]["slotsPerWorker"]


async def test_elastic_tasks_say_how_their_nodes_meet() -> None:
    job = await built(TEMPLATES["flyte2-pytorch-range"])
    assert job["spec"]["elasticPolicy"] == {
        "rdzvBackend": "c10d",
        "minReplicas": 1,
        "maxReplicas": 4,
        "nProcPerNode": 1,
        "maxRestarts": 1,
    }
