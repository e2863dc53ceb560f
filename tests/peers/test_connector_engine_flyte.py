"""The engine drives ``c0``, the connector server of the real ``flyte`` SDK."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from flyteidl2.core import types_pb2
from flyteidl2.task import common_pb2

pytest.importorskip("flyte", reason="needs the 'flyte' extra")

from propfan.engine import Engine, Submission
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map, task_template
from tests.peers.connector_peers import ConnectorProcess, ended, engine_with

pytestmark = [pytest.mark.peer, pytest.mark.anyio]

REPOSITORY = Path(__file__).resolve().parents[2]
CUSTOM = {"secrets": {"token": "VENDOR_TOKEN"}, "configs": {"region": "eu"}}
OUTPUTS = {"rows": types_pb2.INTEGER, "table": types_pb2.STRING}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ConnectorProcess]:
    (tmp_path / "jobs").mkdir()
    command = [str(Path(sys.executable).parent / "c0"), "--modules", "tests.peers.programs.flyte_connector"]
    environment = {"CONNECTOR_JOBS": str(tmp_path / "jobs"), "PYTHONPATH": str(REPOSITORY)}
    with ended(ConnectorProcess(command, tmp_path, environment)) as process:
        await process.start()
        yield process


class Vendor:
    """The folder with the jobs' files."""

    def __init__(self, folder: Path) -> None:
        self._folder = anyio.Path(folder / "jobs")

    async def read(self, name: str) -> str:
        return await (self._folder / name).read_text()

    async def move(self, name: str, state: str) -> None:
        """As soon as there is such a job."""
        while not await (self._folder / name).exists():  # noqa: ASYNC110 - a file tells nobody
            await anyio.sleep(0.05)
        await (self._folder / name).write_text(state)


@pytest.fixture
def vendor(tmp_path: Path) -> Vendor:
    return Vendor(tmp_path)


async def submit(engine: Engine, run_name: str, retries: int = 0, **inputs: bool) -> TaskKey:
    declared = dict.fromkeys(inputs, types_pb2.BOOLEAN)
    template = task_template("file_job", custom=CUSTOM, inputs=declared, outputs=OUTPUTS)
    template.metadata.retries.retries = retries
    given = literal_map(**inputs).SerializeToString() if inputs else None
    return await engine.submit(Submission(template=template.SerializeToString(), inputs=given, run_name=run_name))


async def running(engine: Engine, key: TaskKey) -> None:
    async with engine.events(key=key) as events:
        async for _, event in events:
            if event.phase.name == "RUNNING":
                return


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTE_SECRET_VENDOR_TOKEN", "hunter2")


async def test_job_lives_from_creation_to_its_outputs(server: ConnectorProcess, vendor: Vendor, tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with engine_with(server.port, tmp_path / "state") as engine:
            key = await submit(engine, "r1")
            await vendor.move("r1-0", "running")
            await running(engine, key)
            await vendor.move("r1-0", "success")
            status = await engine.wait(key)
            assert status.outcome is Outcome.COMPLETED, status
            content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
            events = await engine.history(key)
    outputs = {each.name: each.value.scalar.primitive for each in common_pb2.Outputs.FromString(content).literals}
    assert (outputs["rows"].integer, outputs["table"].string_value) == (3, "sales/eu")
    assert [(link.name, link.uri) for link in events[-1].logs] == [("Vendor", "https://vendor/r1-0")]
    assert await vendor.read("r1-0.secrets") == "region=eu,token=hunter2"
    assert await vendor.read("r1-0.creations") == "1"


async def test_failure_refusal_and_retry(server: ConnectorProcess, vendor: Vendor, tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with engine_with(server.port, tmp_path / "state") as engine:
            failed = await submit(engine, "r1", retries=2)
            await vendor.move("r1-0", "failed:no such table")
            status = await engine.wait(failed)
            assert (status.outcome, status.attempts) == (Outcome.FAILED, 1)
            assert status.error is not None
            assert status.error.message == "failed to run the job: no such table"

            retried = await submit(engine, "r2", retries=1)
            await vendor.move("r2-0", "internal_error:spot loss")
            await vendor.move("r2-1", "success")
            status = await engine.wait(retried)
            assert (status.outcome, status.attempts) == (Outcome.COMPLETED, 2)

            refused = await engine.wait(await submit(engine, "r3", refuse=True))
            assert refused.error is not None
            assert "the vendor refuses this job" in refused.error.message
            assert "failed to create task from connector with INTERNAL" in refused.error.message


async def test_abort_cancels_the_job(server: ConnectorProcess, vendor: Vendor, tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with engine_with(server.port, tmp_path / "state") as engine:
            key = await submit(engine, "r1")
            await vendor.move("r1-0", "running")
            await running(engine, key)
            await engine.abort(key)
            assert (await engine.wait(key)).outcome is Outcome.ABORTED
            await engine.settled()
    assert await vendor.read("r1-0") == "cancelled"


async def test_server_and_engine_may_both_be_restarted(
    server: ConnectorProcess, vendor: Vendor, tmp_path: Path
) -> None:
    with anyio.fail_after(120):
        async with engine_with(server.port, tmp_path / "state") as engine:
            key = await submit(engine, "r1")
            await vendor.move("r1-0", "running")
            await running(engine, key)
            server.stop()
            await server.start()
        async with engine_with(server.port, tmp_path / "state", pollIntervals={"file_job": "1s"}) as engine:
            server.stop()
            await server.start()
            await vendor.move("r1-0", "success")
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert await vendor.read("r1-0.creations") == "1"
