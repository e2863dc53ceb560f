"""Upload, batch and download, as an engine runs them on a connector service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import anyio
import msgspec
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2

from propfan.engine import Engine, Submission
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.openai import connectors
from tests.unit.engine.connector_service.rig import Serving, serving
from tests.unit.plugins.connector.rig import engine_at, quick_looks
from tests.unit.plugins.connectors.openai import api_server
from tests.unit.plugins.connectors.openai.api_server import ApiServer, Fault
from tests.unit.plugins.connectors.openai.rig import (
    batch_template,
    blob,
    chat_template,
    download_template,
    request_lines,
    upload_template,
)

__all__ = ["quick_looks"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

CONFIG = ConnectorServiceConfig(port=0, metrics_port=0)


def services(api: ApiServer, config: ConnectorServiceConfig = CONFIG) -> AbstractAsyncContextManager[Serving]:
    environment = {"OPENAI_BASE_URL": api.url, "_FSEC_FLYTE_OPENAI_API_KEY": api_server.KEY}
    return serving(*connectors, config=config, **environment)


@pytest.fixture
async def service(api: ApiServer) -> AsyncIterator[Serving]:
    async with services(api) as running:
        yield running


@pytest.fixture
async def engine(service: Serving, tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine_at(service.service.address, tmp_path / "state") as running:
        yield running


async def run(engine: Engine, template: tasks_pb2.TaskTemplate, inputs: literals_pb2.LiteralMap) -> TaskStatus:
    submission = Submission(template=template.SerializeToString(), inputs=inputs.SerializeToString())
    with anyio.fail_after(60):
        return await engine.wait(await engine.submit(submission))


async def outputs_of(engine: Engine, status: TaskStatus) -> Mapping[str, literals_pb2.Literal]:
    assert status.outcome is Outcome.COMPLETED, status
    content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
    return literals_pb2.LiteralMap.FromString(content).literals


async def test_requests_in_a_file_become_answers_and_errors_in_files(
    engine: Engine, api: ApiServer, tmp_path: Path
) -> None:
    requests = anyio.Path(tmp_path / "requests.jsonl")
    await requests.write_bytes(request_lines(["echo", "gpt-0", "echo"]))

    inputs = literals_pb2.LiteralMap(literals={"jsonl_in": blob(requests.as_uri())})
    uploaded = await outputs_of(engine, await run(engine, upload_template(), inputs))

    file_id = uploaded["result"].scalar.primitive.string_value
    batch = await outputs_of(engine, await run(engine, batch_template(), literal_map(input_file_id=file_id)))

    inputs = literals_pb2.LiteralMap(literals={"batch_endpoint_result": batch["result"]})
    status = await run(engine, download_template(), inputs)
    files = await outputs_of(engine, status)

    answers = await engine.store.get(f"{status.output_prefix}/output_file.jsonl")
    assert answers.count(b"echo: question") == 2
    assert b"The model 'gpt-0' does not exist" in await engine.store.get(f"{status.output_prefix}/error_file.jsonl")
    paths = msgspec.msgpack.decode(files["result"].scalar.binary.value)
    assert paths["error_file"] == {"path": f"{status.output_prefix}/error_file.jsonl".removeprefix("file://")}
    assert (api.count("POST /v1/files"), len(api.batches)) == (1, 1)


async def test_an_upload_outlives_the_service_that_began_it(api: ApiServer, tmp_path: Path) -> None:
    requests = anyio.Path(tmp_path / "requests.jsonl")
    await requests.write_bytes(request_lines(["echo"]))
    inputs = literals_pb2.LiteralMap(literals={"jsonl_in": blob(requests.as_uri())}).SerializeToString()
    submission = Submission(template=upload_template().SerializeToString(), inputs=inputs)
    api.takes_uploads = anyio.Event()
    async with AsyncExitStack() as stack:
        async with services(api) as first:
            engine = await stack.enter_async_context(engine_at(first.service.address, tmp_path / "state"))
            key = await engine.submit(submission)
            async with engine.events(key=key) as events:
                async for _, event in events:
                    if event.phase.name == "RUNNING":
                        break
        api.takes_uploads.set()
        config = msgspec.structs.replace(CONFIG, port=int(first.service.address.rpartition(":")[2]))
        await stack.enter_async_context(services(api, config))
        with anyio.fail_after(60):
            await outputs_of(engine, await engine.wait(key))


async def test_a_chat_is_answered(engine: Engine) -> None:
    outputs = await outputs_of(engine, await run(engine, chat_template(), literal_map(message="hi")))
    assert outputs["o0"].scalar.primitive.string_value == "echo: hi"


async def test_a_batch_that_is_not_taken_fails_its_task_with_the_lines_at_fault(engine: Engine, api: ApiServer) -> None:
    file_id = api.add_file("bad.jsonl", b"no request\n")
    status = await run(engine, batch_template(), literal_map(input_file_id=file_id))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert "line 1: This line is not parseable as valid JSON." in status.error.message


async def test_an_aborted_task_cancels_its_batch(engine: Engine, api: ApiServer) -> None:
    file_id, api.is_held = api.add_file("requests.jsonl", request_lines(["echo"])), True
    inputs = literal_map(input_file_id=file_id).SerializeToString()
    key = await engine.submit(Submission(template=batch_template().SerializeToString(), inputs=inputs))
    with anyio.fail_after(60):
        async with engine.events(key=key) as events:
            async for _, event in events:
                if api.batches and event.phase.name in ("INITIALIZING", "RUNNING"):
                    break
        await engine.abort(key)
        assert (await engine.wait(key)).outcome is Outcome.ABORTED
        await engine.settled()
    (batch,) = api.batches.values()
    assert batch["status"] == "cancelling"


async def test_a_creation_whose_answer_is_lost_makes_one_batch(engine: Engine, api: ApiServer) -> None:
    file_id = api.add_file("requests.jsonl", request_lines(["echo"]))
    api.faults.append(Fault("POST /v1/batches", 502, is_done=True))
    status = await run(engine, batch_template(), literal_map(input_file_id=file_id))
    assert status.outcome is Outcome.COMPLETED, status
    assert len(api.batches) == 1
