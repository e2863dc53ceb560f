"""What the SDK serialises becomes what its users meant."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.verdicts import problems_of_object
from propfan.plugins.clustered import ClusteredPlugin
from tests.peers.sdk_templates.recorded import recorded

TEMPLATES = {one.name: one.message for one in recorded("clustered-task")}

pytestmark = pytest.mark.anyio


async def built(name: str) -> dict[str, Any]:
    made = await ClusteredPlugin(setup_context()).build_resource(FakeTaskContext(TEMPLATES[name]))
    job_set: dict[str, Any] = msgspec.json.decode(made.to_json())
    assert problems_of_object(job_set, 253) == ()
    return job_set


async def test_the_simplest_task() -> None:
    job_set = await built("flyte2-clustered-default")
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == 2
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"][:3] == ["clustered", "--inputs", "memory:///r1/a0/1/in/inputs.pb"]
    assert {"failurePolicy", "ttlSecondsAfterFinished"} & job_set["spec"].keys() == set()


async def test_a_task_that_asks_for_everything() -> None:
    spec = (await built("flyte2-clustered-full"))["spec"]
    assert spec["failurePolicy"] == {"maxRestarts": 3}
    assert spec["ttlSecondsAfterFinished"] == 300
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == 4
    environment = {e["name"]: e.get("value") for e in job["template"]["spec"]["containers"][0]["env"]}
    assert environment["NPROC_PER_NODE"] == "8"
    assert environment["RDZV_BACKEND"] == "c10d"
    assert environment["JOBSET_MAX_RESTARTS"] == "3"
