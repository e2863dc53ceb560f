"""The plugin holds the contract, and says what each state of a Job means."""

from __future__ import annotations

import pytest
from batch_job import BatchJobPlugin, entry

from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import (
    FakeTaskContext,
    KubernetesPluginContract,
    StatusSample,
    literal_map,
    setup_context,
    task_template,
)

TEMPLATE = task_template("batch-job", image="busybox", command=["sh", "-c"], args=["cat {{.input}}"], env={"A": "b"})

SECTIONS = {"batch-job": {"backoff-limit": 0}}


def condition(kind: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


class TestContract(KubernetesPluginContract):
    entry = entry
    templates = (TEMPLATE, task_template("batch-job", image="busybox"))
    sections = SECTIONS
    samples = (
        StatusSample("no pod yet", {"active": 0}, Phase.QUEUED),
        StatusSample("suspended", {"conditions": [condition("Suspended")]}, Phase.QUEUED),
        StatusSample("pod runs", {"active": 1, "startTime": "2026-01-02T03:04:05Z"}, Phase.RUNNING),
        StatusSample(
            "done",
            {"conditions": [condition("Complete")], "completionTime": "2026-01-02T03:05:05Z", "succeeded": 1},
            Phase.SUCCESS,
        ),
        StatusSample(
            "gave up",
            {"conditions": [condition("Failed", "BackoffLimitExceeded", "too many")], "failed": 3},
            Phase.RETRYABLE_FAILURE,
            "BackoffLimitExceeded",
        ),
    )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_command_is_rendered() -> None:
    template = task_template("batch-job", image="busybox", command=["echo"], args=["{{.Inputs.n}}"])
    job = await BatchJobPlugin(setup_context()).build_resource(FakeTaskContext(template, inputs=literal_map(n=3)))
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["3"]


@pytest.mark.anyio
async def test_task_without_a_container_is_refused() -> None:
    with pytest.raises(BadTaskSpecificationError, match="unable to determine Pod"):
        await BatchJobPlugin(setup_context()).build_resource(FakeTaskContext(task_template("batch-job")))


def test_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.batch-job\.backoff-limit"):
        BatchJobPlugin(setup_context(sections={"batch-job": {"backoff-limit": -1}}))
