"""Tasks of the real flytekitplugins-openai, unchanged, by propfan's connectors: pipeline, chats, and as flytekit alone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from flyteidl2.core import literals_pb2

from propfan.engine import Engine, Submission
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.openai import connectors
from tests.peers import environments
from tests.peers.test_connector_engine_flytekit import REQUIREMENTS
from tests.unit.engine.connector_service.rig import serving
from tests.unit.plugins.connector.rig import engine_at, quick_looks
from tests.unit.plugins.connectors.openai import api_server
from tests.unit.plugins.connectors.openai.api_server import ApiServer
from tests.unit.plugins.connectors.openai.conftest import api
from tests.unit.plugins.connectors.openai.rig import request_lines

__all__ = ["api", "quick_looks"]
pytestmark = [pytest.mark.peer, pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

PROGRAM = Path(__file__).parent / "programs" / "flytekit_openai_tasks.py"
MODELS = ("echo", "gpt-0", "echo")


class Flytekit:
    """The SDK, in an environment of its own; its programs run in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._python = environments.folder("flytekit-connectors", REQUIREMENTS) / "bin" / "python"
        self._folder = folder

    async def told(self, what: str, *arguments: str, **environment: str) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(self._told, what, arguments, environment)

    def _told(self, what: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, Any]:
        output = self._folder / f"{what}.out"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            [str(self._python), "-W", "ignore", str(PROGRAM), what, *arguments, str(output)],
            cwd=self._folder,
            env=kept | {"TMPDIR": str(self._folder)} | dict(environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(output.read_text())
        return found

    async def decoded(self, **outputs: bytes) -> dict[str, Any]:
        """What downstream tasks of the SDK are given."""
        given = self._folder / "outputs.json"
        encoded = {name: base64.b64encode(content).decode() for name, content in outputs.items()}
        await anyio.Path(given).write_text(json.dumps(encoded))
        return await self.told("decode", str(given))


@pytest.fixture
def flytekit(tmp_path: Path) -> Flytekit:
    return Flytekit(tmp_path)


@pytest.fixture
async def engine(api: ApiServer, tmp_path: Path) -> AsyncIterator[Engine]:
    environment = {"OPENAI_BASE_URL": api.url, "_FSEC_FLYTE_OPENAI_API_KEY": api_server.KEY}
    config = ConnectorServiceConfig(port=0, metrics_port=0)
    async with (
        serving(*connectors, config=config, **environment) as running,
        engine_at(running.service.address, tmp_path / "state") as engine,
    ):
        yield engine


@pytest.fixture
async def requests(tmp_path: Path) -> Path:
    file = tmp_path / "requests.jsonl"
    await anyio.Path(file).write_bytes(request_lines(MODELS))
    return file


async def outputs_of(engine: Engine, template: str, inputs: literals_pb2.LiteralMap) -> bytes:
    submission = Submission(template=base64.b64decode(template), inputs=inputs.SerializeToString())
    with anyio.fail_after(60):
        status = await engine.wait(await engine.submit(submission))
    assert status.outcome is Outcome.COMPLETED, status
    return await engine.store.get(f"{status.output_prefix}/outputs.pb")


@pytest.mark.parametrize(("name", "kind"), [("files", "file"), ("lines", "iterator")])
async def test_the_sdks_pipeline_runs_from_its_file_to_its_result(
    engine: Engine, flytekit: Flytekit, api: ApiServer, requests: Path, name: str, kind: str
) -> None:
    tasks = await flytekit.told("serialise")
    given = await flytekit.told("inputs", str(requests))

    literal = literals_pb2.Literal.FromString(base64.b64decode(given[kind]))
    upload = await outputs_of(
        engine, tasks[f"openai-file-upload-{name}"], literals_pb2.LiteralMap(literals={"jsonl_in": literal})
    )
    file_id = literals_pb2.LiteralMap.FromString(upload).literals["result"]
    batch = await outputs_of(
        engine, tasks[f"openai-batch-{name}"], literals_pb2.LiteralMap(literals={"input_file_id": file_id})
    )
    result = literals_pb2.LiteralMap.FromString(batch).literals["result"]
    download = await outputs_of(
        engine,
        tasks[f"openai-download-files-{name}"],
        literals_pb2.LiteralMap(literals={"batch_endpoint_result": result}),
    )

    found = await flytekit.decoded(upload=upload, batch=batch, download=download)
    assert found["upload"] == file_id.scalar.primitive.string_value
    assert found["batch"]["status"] == "completed"
    assert found["batch"]["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert type(found["batch"]["request_counts"]["total"]) is int
    assert found["download"] == {
        "output_file": [["request-0", 200], ["request-2", 200]],
        "error_file": [["request-1", 404]],
    }
    (made,) = api.batches.values()
    assert made["metadata"].get("team") == ("a" if name == "files" else None)


@pytest.mark.parametrize("name", ["chat", "bare"])
async def test_the_sdks_chats_are_answered(engine: Engine, flytekit: Flytekit, name: str) -> None:
    tasks = await flytekit.told("serialise")
    answer = await outputs_of(engine, tasks[name], literal_map(message="hi"))
    assert await flytekit.decoded(chat=answer) == {"chat": "echo: hi"}


async def test_flytekit_alone_has_the_same_results_of_the_same_service(
    flytekit: Flytekit, api: ApiServer, requests: Path
) -> None:
    """So the server of the tests is one that the vendor's and the SDK's own code take for OpenAI."""
    key = api_server.KEY
    secrets = {"_FSEC_FLYTE_OPENAI_API_KEY": key, "_FSEC_OPENAI_OPENAI-API-KEY": key, "FLYTE_OPENAI_API_KEY": key}
    found = await flytekit.told("alone", str(requests), OPENAI_BASE_URL=api.url, **secrets)
    assert found["chat"] == "echo: hi"
    assert found["download"] == {
        "output_file": [["request-0", 200], ["request-2", 200]],
        "error_file": [["request-1", 404]],
    }
