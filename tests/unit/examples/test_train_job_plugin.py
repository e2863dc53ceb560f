"""The example of a plugin for an operator's objects: tested and installed as its author would, and run by an engine.

Kubeflow Trainer itself needs a cluster of its own; the statuses that it would write are written here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine import Engine, EngineConfig, Submission
from propfan.engine.task_events import ActionPhase
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObservedObject
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import InMemoryStore, setup_context, task_template
from tests.unit.examples.commands import ROOT, run

pytestmark = pytest.mark.anyio

EXAMPLE = ROOT / "examples" / "train_job_plugin"

TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "TrainJob", "trainjobs")
TASK = task_template(
    "train-job", image="train:1", args=["train"], requests={"cpu": "1"}, custom={"runtime": "jax", "numNodes": 2}
)


def copied_to(directory: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, directory / "example", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example is installed in."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(folder, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(copied_to(folder)))
    return folder / "site"


@pytest.fixture
def installed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(target)
    monkeypatch.delitem(sys.modules, "train_job", raising=False)


def test_an_operators_plugin_is_short() -> None:
    assert len((EXAMPLE / "train_job.py").read_text().splitlines()) < 100


def test_example_passes_its_own_tests_and_the_contract(tmp_path: Path) -> None:
    report = run(copied_to(tmp_path), "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in report
    assert "failed" not in report


@pytest.mark.usefixtures("installed")
def test_example_is_found_once_it_is_installed() -> None:
    registry = Registry()
    registry.discover()
    registry.load(setup_context(sections={"train-job": {"runtime": "jax-distributed"}}))
    found = [plugin for plugin in registry.describe() if plugin.id == "train-job"]
    assert [(p.watched, p.origin, p.error) for p in found] == [
        ("trainjobs.trainer.kubeflow.org", "propfan-train-job 1.0", "")
    ]


async def made_by(engine: Engine) -> ObservedObject:
    async with engine.cluster.watch(TRAIN_JOB, resource_version="") as batches:
        async for batch in batches:
            return batch[0].object
    raise AssertionError("the watch ended")


async def tell(engine: Engine, job: ObservedObject, status: Mapping[str, Any]) -> None:
    """Trainer's part."""
    await engine.cluster.patch(
        TRAIN_JOB, job.metadata.namespace, job.metadata.name, {"status": status}, subresource="status"
    )


def condition(kind: str, **texts: str) -> dict[str, Any]:
    told = {"type": kind, "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z", "reason": kind, "message": ""}
    return {"conditions": [told | texts]}


@pytest.mark.usefixtures("installed")
async def test_an_engine_runs_tasks_with_the_installed_plugin() -> None:
    with anyio.fail_after(30):
        async with Engine(EngineConfig(), store=InMemoryStore()) as engine:
            key = await engine.submit(Submission(template=TASK.SerializeToString()))
            job = await made_by(engine)
            spec = msgspec.json.decode(job.raw)["spec"]
            assert spec["runtimeRef"] == {"name": "jax"}
            assert spec["trainer"]["numNodes"] == 2
            async with engine.events(key=key) as events:
                await tell(engine, job, {"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]})
                async for _, event in events:
                    if event.phase is ActionPhase.RUNNING:
                        break
            await tell(engine, job, condition("Complete"))
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED


@pytest.mark.usefixtures("installed")
async def test_a_failed_train_job_fails_its_task_in_its_own_words() -> None:
    with anyio.fail_after(30):
        async with Engine(EngineConfig(), store=InMemoryStore()) as engine:
            key = await engine.submit(Submission(template=TASK.SerializeToString()))
            await tell(
                engine, await made_by(engine), condition("Failed", reason="FailedJobs", message="node 1 crashed")
            )
            status = await engine.wait(key)
            assert status.error is not None
            assert (status.outcome, status.error.code) == (Outcome.FAILED, "FailedJobs")
            assert status.error.message == "node 1 crashed"


@pytest.mark.parametrize("name", ["pyproject.toml", "train_job.py", "test_train_job.py"])
def test_documentation_shows_the_example_as_it_is(name: str) -> None:
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    assert f"```{'toml' if name.endswith('toml') else 'python'}\n{(EXAMPLE / name).read_text()}```" in page
