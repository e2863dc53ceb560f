"""The real SDK of Flyte 2 drives propfan's connectors: in its own process, and over gRPC."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2

flyte: Any = pytest.importorskip("flyte", reason="needs the 'flyte' extra")

from flyte._internal.runtime import convert, task_serde  # noqa: E402
from flyte.models import SerializationContext  # noqa: E402

from propfan.engine.connector_service import flyte_tasks, server  # noqa: E402
from propfan.engine.connector_service.config import ConnectorServiceConfig  # noqa: E402
from propfan.pluginmachinery.connector.registry import ConnectorOffer, Offers  # noqa: E402
from tests.peers import connector_tasks  # noqa: E402
from tests.peers.connector_tasks import LocalTraining, SdkTraining, task  # noqa: E402
from tests.peers.flytekit_environment import REPOSITORY  # noqa: E402
from tests.unit.engine.connector_service.rig import Client  # noqa: E402

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Support for class-based `config`:DeprecationWarning"),  # in flyte.io
]

QUICK = {"epochs": 20}


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")


def run(made: Any) -> Any:
    return flyte.with_runcontext(mode="local").run(made, note="x").outputs()


def jobs(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Waits for what another process does."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_a_task_is_run_by_its_connector_without_a_service(tmp_path: Path) -> None:
    accuracy, model = run(task(LocalTraining, str(tmp_path), custom=QUICK))
    assert accuracy > 0.9
    assert "inner" in json.loads(Path(model.path.removeprefix("file://")).read_text())
    (job,) = jobs(tmp_path)
    assert not (job / "deleted").exists()


def test_a_task_that_takes_too_long_deletes_its_job(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"took longer than 1 s; its job was deleted"):
        run(task(LocalTraining, str(tmp_path), custom={"epochs": 10_000}, timeout=1))
    (job,) = jobs(tmp_path)
    assert (job / "deleted").exists()


def test_a_task_that_is_wrong_is_refused_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"Expected `int` >= 1 - at `\$\.epochs`"):
        run(task(LocalTraining, str(tmp_path), custom={"epochs": 0}))
    assert jobs(tmp_path) == []


def test_ctrl_c_deletes_the_job(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.peers.connector_tasks", str(tmp_path / "jobs")]
    environ = {**os.environ, "DO_NOT_TRACK": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=subprocess.PIPE, text=True) as program:
        try:
            until(lambda: any((job / "log.txt").exists() for job in jobs(tmp_path / "jobs")))
            program.send_signal(signal.SIGINT)
            _, told = program.communicate(timeout=60)
        finally:
            program.kill()
    (job,) = jobs(tmp_path / "jobs")
    assert (job / "deleted").exists(), told
    assert program.returncode == -signal.SIGINT
    assert "interrupted: the interpreter ends" in told


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The connector in the SDK's own registry; its jobs lie in the folder."""
    import training_connector

    settings = msgspec.defstruct("TrainingConfig", [("folder", str, str(tmp_path))], frozen=True)
    monkeypatch.setattr(training_connector, "TrainingConfig", settings)
    flyte_tasks.register(training_connector.TrainingConnector, override=True)
    flyte.init()  # which the SDK's mixin wants
    return tmp_path


def test_the_sdks_own_mixin_runs_a_connector_that_is_registered_with_it(registered: Path) -> None:
    accuracy, model = run(task(SdkTraining, custom=QUICK))
    assert accuracy > 0.9
    assert Path(model.path.removeprefix("file://")).parent.parent == registered


def test_a_second_registration_is_refused(registered: Path) -> None:
    import training_connector

    with pytest.raises(ValueError, match="Duplicate connector for task type: train-classifier and version: 0"):
        flyte_tasks.register(training_connector.TrainingConnector)


@pytest.mark.anyio
async def test_what_the_sdk_serialises_is_run_by_the_service(tmp_path: Path) -> None:
    """As a control plane does it: finds the connector, creates, polls, deletes; the SDK reads the outputs."""
    import training_connector

    made = task(LocalTraining, str(tmp_path), custom=QUICK)
    context = SerializationContext(version="v1", project="p", domain="d", root_dir=REPOSITORY)
    template = task_serde.translate_task_to_wire(made, context).task_template
    inputs = (await convert.convert_from_native_to_inputs(made.native_interface, note="x")).proto_inputs
    offers = Offers([ConnectorOffer(training_connector.TrainingConnector, "example", connector_tasks.MODULE)], [])
    config = ConnectorServiceConfig(port=0, metrics_port=0, connectors={"training": {"folder": str(tmp_path)}})
    async with server.opened(config, {}, offers) as service, grpc.aio.insecure_channel(service.address) as channel:
        client = Client(channel)
        listed = await client.connectors.ListConnectors(connector_pb2.ListConnectorsRequest())
        (category,) = [
            category
            for connector in listed.connectors
            for category in connector.supported_task_categories
            if (category.name, category.version) == (template.type, template.task_type_version)
        ]
        request = connector_pb2.CreateTaskRequest(
            template=template, inputs=inputs, output_prefix=f"file://{tmp_path}/out"
        )
        created = await client.connector.CreateTask(request)
        looked = connector_pb2.GetTaskRequest(resource_meta=created.resource_meta, task_category=category)
        phases = execution_pb2.TaskExecution
        while (resource := (await client.connector.GetTask(looked)).resource).phase in (
            phases.RUNNING,
            phases.INITIALIZING,
        ):
            continue
        assert resource.phase == phases.SUCCEEDED
        outputs = convert.Outputs(proto_outputs=resource.outputs)
        accuracy, model = await convert.convert_outputs_to_native(made.native_interface, outputs)
        assert accuracy > 0.9
        assert "inner" in json.loads(Path(model.path.removeprefix("file://")).read_bytes())  # noqa: ASYNC240
        logs = client.connector.GetTaskLogs(
            connector_pb2.GetTaskLogsRequest(resource_meta=created.resource_meta, task_category=category)
        )
        assert (await logs.read()).body.lines[0].message.startswith("epoch 1 loss")
        await client.connector.DeleteTask(
            connector_pb2.DeleteTaskRequest(resource_meta=created.resource_meta, task_category=category)
        )
