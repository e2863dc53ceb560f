"""On the embedded cluster no operators run, and a task that needs one says so."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from propfan.engine import Engine, EngineConfig, Submission
from propfan.pluginmachinery.registry import Registry
from propfan.plugins import kubeflow
from tests.unit.plugins.kubeflow import jobs


@pytest.mark.anyio
async def test_task_of_an_operator_says_that_none_runs_here(tmp_path: Path) -> None:
    registry = Registry()
    registry.register(kubeflow.pytorch_entry)
    async with Engine(EngineConfig(data_dir=tmp_path), registry=registry) as engine:
        key = await engine.submit(Submission(template=jobs.PYTORCH.SerializeToString(), project="p", domain="d"))
        with anyio.fail_after(20):
            while "PyTorchJob" not in (explanation := await engine.explain(key)).object:  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.01)
    assert explanation.waiting_for.startswith(
        "an operator of PyTorchJob, and none runs here: it needs a Kubernetes cluster"
    )
