"""The engine drives ``pyflyte serve connector``, the server of the real ``flytekit`` SDK, with its real connectors."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from flyteidl2.core import literals_pb2

from propfan.engine import Engine, Submission
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map
from tests.peers import environments
from tests.peers.connector_peers import ConnectorProcess, ended, engine_with
from tests.unit.engine.s3_server import s3_server

pytestmark = [pytest.mark.peer, pytest.mark.anyio]

REQUIREMENTS = (
    "flytekit>=1.16.31,<2",
    "flytekitplugins-awssagemaker>=1.16.31,<2",
    "flytekitplugins-openai>=1.16.31,<2",
    "grpcio-health-checking",
    "httpx",
    "prometheus-client",
)
PROGRAM = Path(__file__).parent / "programs" / "flytekit_connector_tasks.py"
BATCH = {
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-1",
    "completion_window": "24h",
    "created_at": 1,
}


class Vendors:
    """The services behind the connectors: a webhook, and what the OpenAI client needs of its API.

    Attributes:
        calls: Method and path of each call.
        batch_status: Of every batch.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.batch_status = "in_progress"
        self.hook_status = 200
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, request: web.Request) -> web.Response:
        self.calls.append(f"{request.method} {request.path}")
        match request.method, request.path:
            case "POST", "/hook":
                return web.json_response({"got": (await request.json())["answer"]}, status=self.hook_status)
            case "POST", "/v1/chat/completions":
                message = {"role": "assistant", "content": "hello"}
                choices = [{"index": 0, "finish_reason": "stop", "message": message}]
                kind = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-test"}
                return web.json_response({**kind, "choices": choices})
            case "POST", "/v1/batches/batch-1/cancel":
                self.batch_status = "cancelled"
                return web.json_response({"id": "batch-1", "status": "cancelling", **BATCH})
            case _, "/v1/batches" | "/v1/batches/batch-1":
                return web.json_response({"id": "batch-1", "status": self.batch_status, **BATCH})
        return web.json_response({"error": "no such path"}, status=404)

    async def start(self) -> web.AppRunner:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    made = Vendors()
    runner = await made.start()
    yield made
    await runner.cleanup()


@pytest.fixture
async def server(tmp_path: Path, vendors: Vendors) -> AsyncIterator[ConnectorProcess]:
    folder = environments.folder("flytekit-connectors", REQUIREMENTS)
    with s3_server() as aws:
        environment = {
            "OPENAI_BASE_URL": f"{vendors.url}/v1",
            "_FSEC_FLYTE_OPENAI_API_KEY": "none",
            "AWS_ENDPOINT_URL": aws,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        command = [str(folder / "bin" / "pyflyte"), "serve", "connector"]
        with ended(ConnectorProcess(command, tmp_path, environment)) as process:
            await process.start()
            yield process


@pytest.fixture
def templates(tmp_path: Path, vendors: Vendors) -> Mapping[str, bytes]:
    """By the tasks' names, made by the SDK."""
    python = environments.folder("flytekit-connectors", REQUIREMENTS) / "bin" / "python"
    file = tmp_path / "templates.json"
    subprocess.run([str(python), str(PROGRAM), vendors.url, str(file)], check=True, capture_output=True, timeout=120)
    made: Mapping[str, str] = msgspec.json.decode(file.read_bytes())
    return {name: base64.b64decode(template) for name, template in made.items()}


@pytest.fixture
async def engine(server: ConnectorProcess, tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine_with(server.port, tmp_path / "state") as running:
        yield running


async def submit(engine: Engine, template: bytes, **inputs: Any) -> TaskKey:
    given = literal_map(**inputs).SerializeToString() if inputs else None
    return await engine.submit(Submission(template=template, inputs=given))


async def ends(engine: Engine, template: bytes, **inputs: Any) -> TaskStatus:
    with anyio.fail_after(90):
        return await engine.wait(await submit(engine, template, **inputs))


async def outputs_of(engine: Engine, status: TaskStatus) -> Mapping[str, literals_pb2.Literal]:
    assert status.outcome is Outcome.COMPLETED, status
    content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
    return literals_pb2.LiteralMap.FromString(content).literals


async def begun(engine: Engine, key: TaskKey) -> None:
    with anyio.fail_after(60):
        async with engine.events(key=key) as events:
            async for _, event in events:
                if event.phase.name == "RUNNING":
                    return


async def test_webhook_is_called_in_one_synchronous_call(
    engine: Engine, templates: Mapping[str, bytes], vendors: Vendors
) -> None:
    outputs = await outputs_of(engine, await ends(engine, templates["webhook"]))
    assert vendors.calls == ["POST /hook"]
    assert b"got" in outputs["info"].SerializeToString()


async def test_webhook_that_is_refused_fails_its_task(
    engine: Engine, templates: Mapping[str, bytes], vendors: Vendors
) -> None:
    vendors.hook_status = 500
    status = await ends(engine, templates["webhook"])
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert "500" in status.error.message


async def test_sensor_runs_until_its_file_is_there_also_over_a_restart_of_the_server(
    engine: Engine, server: ConnectorProcess, templates: Mapping[str, bytes], tmp_path: Path
) -> None:
    awaited = anyio.Path(tmp_path / "awaited")
    key = await submit(engine, templates["sensor"], path=str(awaited))
    await begun(engine, key)
    server.stop()
    await server.start()
    await awaited.write_text("here")
    with anyio.fail_after(90):
        assert (await engine.wait(key)).outcome is Outcome.COMPLETED


async def test_chat_answers_in_one_synchronous_call(engine: Engine, templates: Mapping[str, bytes]) -> None:
    outputs = await outputs_of(engine, await ends(engine, templates["chat"], message="hi"))
    assert outputs["o0"].scalar.primitive.string_value == "hello"


async def test_batch_is_polled_to_its_end(engine: Engine, templates: Mapping[str, bytes], vendors: Vendors) -> None:
    key = await submit(engine, templates["batch"], input_file_id="file-1")
    await begun(engine, key)
    vendors.batch_status = "completed"
    with anyio.fail_after(60):
        outputs = await outputs_of(engine, await engine.wait(key))
    assert b"batch-1" in outputs["result"].SerializeToString()
    assert vendors.calls.count("POST /v1/batches") == 1


async def test_failed_batch_fails_its_task(engine: Engine, templates: Mapping[str, bytes], vendors: Vendors) -> None:
    vendors.batch_status = "expired"
    status = await ends(engine, templates["batch"], input_file_id="file-1")
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "TaskFailedWithError"


async def test_abort_cancels_the_batch(engine: Engine, templates: Mapping[str, bytes], vendors: Vendors) -> None:
    key = await submit(engine, templates["batch"], input_file_id="file-1")
    await begun(engine, key)
    await engine.abort(key)
    with anyio.fail_after(60):
        assert (await engine.wait(key)).outcome is Outcome.ABORTED
        await engine.settled()
    assert vendors.calls.count("POST /v1/batches/batch-1/cancel") == 1


async def test_boto_call_answers_with_its_result_and_token(engine: Engine, templates: Mapping[str, bytes]) -> None:
    outputs = await outputs_of(engine, await ends(engine, templates["boto"], model="sample"))
    assert b"arn:aws:sagemaker" in outputs["result"].SerializeToString()
    assert outputs["idempotence_token"].scalar.primitive.string_value
