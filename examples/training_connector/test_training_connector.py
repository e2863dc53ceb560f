"""The connector holds the contract, and really trains."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from flyteidl2.core import types_pb2
from training_connector import TrainingConnector, TrainingMeta

from propfan.pluginmachinery.connector import (
    ConnectorSetup,
    JobContext,
    LogsQuery,
    MetricsQuery,
    RemotePhase,
    TaskRequest,
    local,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.testing import ConnectorContract, JobStory, connector_setup, connector_task, task_template


def training(**custom: Any) -> TaskRequest:
    template = task_template("train-classifier", custom=custom, outputs={"accuracy": types_pb2.FLOAT})
    model = template.interface.outputs.variables.add(key="model")
    model.value.type.blob.format = "json"
    return connector_task(template)


class Rooted:
    """Jobs in a folder of the test's own, which all have ended when the test does."""

    @pytest.fixture
    def setup_ctx(self, tmp_path: Path) -> Iterator[ConnectorSetup]:
        setup = connector_setup(sections={"training": {"folder": str(tmp_path)}})
        yield setup
        connector = TrainingConnector(setup)
        for folder in tmp_path.iterdir():
            connector.delete(TrainingMeta(folder.name), JobContext())
            anyio.run(over, folder)


async def over(folder: Path) -> None:
    """Until the job's process has let go of its lock."""
    with (folder / "lock").open() as lock:
        await anyio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)


def model_at(uri: str) -> Any:
    return json.loads(Path(uri).read_text())


class TestContract(Rooted, ConnectorContract):
    connector_class = TrainingConnector
    stories = (JobStory("learns", training(epochs=5), RemotePhase.SUCCEEDED, message="epoch 5"),)
    max_looks = 1000

    async def between_looks(self) -> None:
        await anyio.sleep(0.02)  # a real process


class TestTraining(Rooted):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.mark.anyio
    async def test_a_trained_network_tells_the_moons_apart(self, setup_ctx: ConnectorSetup) -> None:
        connector, task = TrainingConnector(setup_ctx), training()
        done = await local.run(connector, task, poll_interval_s=0.02)
        assert done.outputs is not None
        assert done.outputs["accuracy"] > 0.95
        assert len(model_at(done.outputs["model"].uri)["inner"]) == 8
        meta = TrainingMeta(task.unique_name())
        (loss,) = connector.get_metrics(meta, MetricsQuery())
        assert len(loss.data["values"]) == 40
        assert loss.data["values"][-1] < loss.data["values"][0] / 2
        pages = [page async for page in connector.get_logs(meta, LogsQuery(lines=3, token="1"))]
        assert [line.message.split()[1] for line in pages[0].lines] == ["2", "3", "4"]
        assert pages[0].next_token == "4"

    @pytest.mark.anyio
    async def test_a_cancelled_run_ends_the_process(self, setup_ctx: ConnectorSetup, tmp_path: Path) -> None:
        connector, task = TrainingConnector(setup_ctx), training(epochs=10_000)
        with pytest.raises(TimeoutError):
            await local.run(connector, task, poll_interval_s=0.02, timeout_s=0.5)
        with anyio.fail_after(30):
            await over(tmp_path / task.unique_name())
        assert connector.get(TrainingMeta(task.unique_name()), JobContext()).phase is RemotePhase.ABORTED

    def test_a_process_that_dies_is_a_failure_with_its_last_words(
        self, setup_ctx: ConnectorSetup, tmp_path: Path
    ) -> None:
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "log.txt").write_text("epoch 1\nMemoryError\n")
        resource = TrainingConnector(setup_ctx).get(TrainingMeta("job"), JobContext())
        assert (resource.phase, resource.message) == (RemotePhase.FAILED, "epoch 1\nMemoryError")

    def test_a_wrong_setting_is_refused(self, setup_ctx: ConnectorSetup) -> None:
        with pytest.raises(BadTaskSpecificationError, match=r"Expected `int` >= 1 - at `\$\.epochs`"):
            TrainingConnector(setup_ctx).create(training(epochs=0))
