"""The plugin holds the contract, and says what each state of a TrainJob means."""

from __future__ import annotations

import msgspec
import pytest
from train_job import TrainJobPlugin, entry

from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import (
    FakeTaskContext,
    KubernetesPluginContract,
    StatusSample,
    setup_context,
    task_template,
)

TASK = task_template(
    "train-job", image="train:1", args=["train", "{{.input}}"], limits={"gpu": "1"}, custom={"numNodes": 2}
)

SECTIONS = {"train-job": {"runtime": "torch-distributed"}}


def told(kind: str, reason: str = "", message: str = "") -> dict[str, object]:
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}


def nodes(**counts: int) -> dict[str, object]:
    return {"jobsStatus": [{"name": "node", **counts}]}


class TestContract(KubernetesPluginContract):
    entry = entry
    templates = (TASK, task_template("train-job", image="train:1"))
    sections = SECTIONS
    samples = (
        StatusSample("suspended", told("Suspended"), Phase.QUEUED),
        StatusSample("nodes start", nodes(active=1, ready=0), Phase.INITIALIZING),
        StatusSample("nodes train", nodes(active=1, ready=1), Phase.RUNNING),
        StatusSample("done", told("Complete", "JobsCompleted"), Phase.SUCCESS),
        StatusSample("gave up", told("Failed", "FailedJobs", "a node failed"), Phase.RETRYABLE_FAILURE, "FailedJobs"),
    )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_task_chooses_runtime_and_nodes() -> None:
    task = task_template("train-job", image="train:1", custom={"runtime": "deepspeed", "numNodes": 3})
    job = await TrainJobPlugin(setup_context()).build_resource(FakeTaskContext(task))
    spec = msgspec.json.decode(job.to_json())["spec"]
    assert spec["runtimeRef"] == {"name": "deepspeed"}
    assert (spec["trainer"]["numNodes"], spec["trainer"]["image"]) == (3, "train:1")


@pytest.mark.anyio
@pytest.mark.parametrize("custom", [{"numNodes": "two"}, {"numNodes": 0}, {"nodes": 2}])
async def test_what_the_plugin_does_not_know_is_refused(custom: dict[str, object]) -> None:
    ctx = FakeTaskContext(task_template("train-job", image="train:1", custom=custom))
    with pytest.raises(BadTaskSpecificationError, match=r"invalid TaskSpecification \[.*\], Err: \["):
        await TrainJobPlugin(setup_context()).build_resource(ctx)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.train-job\.runtime"):
        TrainJobPlugin(setup_context(sections={"train-job": {"runtime": 1}}))
