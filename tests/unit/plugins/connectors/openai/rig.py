"""Tasks as the SDK serialises them, and connectors that talk to the server of the tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any, Final

import anyio
import msgspec
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connector,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    TaskRequest,
    local,
)
from propfan.pluginmachinery.contexts import DataStore
from propfan.pluginmachinery.literals import MSGPACK_TAG
from propfan.pluginmachinery.testing import InMemoryStore, connector_setup, connector_task, literal_map, task_template
from propfan.pluginmachinery.testing.connector_contract import _Contract
from propfan.plugins.connectors.openai.account import KEY
from tests.unit.plugins.connectors.openai import api_server
from tests.unit.plugins.connectors.openai.api_server import ORGANIZATION, ApiServer

STRING, STRUCT = types_pb2.STRING, types_pb2.STRUCT
REQUESTS_URI: Final = "memory:///in/requests.jsonl"
SECRET_ARG: Final = {"key": "openai-api-key", "group": "openai", "group_version": None, "mount_requirement": 0.0}


def setup_for(
    api: ApiServer,
    *,
    store: DataStore | None = None,
    secrets: Mapping[str, str] | None = None,
    section: Mapping[str, Any] | None = None,
) -> ConnectorSetup:
    """Reaches the server through the variable that the vendor's library has for it."""
    return connector_setup(
        secrets={KEY: api_server.KEY} if secrets is None else secrets,
        store=store or InMemoryStore(),
        environment={"OPENAI_BASE_URL": api.url},
        sections={"openai": section or {}},
    )


def chat_template(**config: Any) -> tasks_pb2.TaskTemplate:
    custom = {"openai_organization": ORGANIZATION, "chatgpt_config": {"model": "echo", **config}}
    return task_template("chatgpt", custom=custom, inputs={"message": STRING}, outputs={"o0": STRING}, name="chat")


def chat_task(message: str = "hello", *, secrets: Mapping[str, str] | None = None, **config: Any) -> TaskRequest:
    return connector_task(chat_template(**config), literal_map(message=message), secrets=secrets)


def batch_template(**config: Any) -> tasks_pb2.TaskTemplate:
    custom = {"openai_organization": ORGANIZATION, "config": config}
    return task_template(
        "openai-batch", custom=custom, inputs={"input_file_id": STRING}, outputs={"result": STRUCT}, name="batch"
    )


def batch_task(file_id: str = "file-0001", *, run: str = "r1", attempt: int = 0, **config: Any) -> TaskRequest:
    return connector_task(batch_template(**config), literal_map(input_file_id=file_id), run=run, attempt=attempt)


def shim_template(task_type: str, **custom: Any) -> tasks_pb2.TaskTemplate:
    """With the container in which the SDK's own shim would run."""
    custom = {"openai_organization": ORGANIZATION, "secret_arg": SECRET_ARG, **custom}
    return task_template(task_type, custom=custom, image="flytekit-openai", args=["pyflyte-execute"], name="files")


def upload_template(**custom: Any) -> tasks_pb2.TaskTemplate:
    made = shim_template("openai-batch-upload-file", **custom)
    made.interface.inputs.variables.add(key="jsonl_in").value.type.blob.format = "jsonl"
    made.interface.outputs.variables.add(key="result").value.type.simple = STRING
    return made


def download_template(**custom: Any) -> tasks_pb2.TaskTemplate:
    made = shim_template("openai-batch-download-files", **custom)
    made.interface.inputs.variables.add(key="batch_endpoint_result").value.type.simple = STRUCT
    made.interface.outputs.variables.add(key="result").value.type.simple = STRUCT
    return made


def blob(uri: str) -> literals_pb2.Literal:
    made = literals_pb2.Literal()
    made.scalar.blob.uri = uri
    made.scalar.blob.metadata.type.format = "jsonl"
    return made


def packed(value: Any) -> literals_pb2.Literal:
    binary = literals_pb2.Binary(value=msgspec.msgpack.encode(value), tag=MSGPACK_TAG)
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=binary))


def upload_task(uri: str = REQUESTS_URI, *, run: str = "r1", **custom: Any) -> TaskRequest:
    inputs = literals_pb2.LiteralMap(literals={"jsonl_in": blob(uri)})
    return connector_task(upload_template(**custom), inputs, run=run)


def download_task(batch: Any, *, output_prefix: str = "memory:///r1/a0/1", **custom: Any) -> TaskRequest:
    inputs = literals_pb2.LiteralMap(literals={"batch_endpoint_result": packed(batch)})
    return connector_task(download_template(**custom), inputs, output_prefix=output_prefix)


def request_lines(models: Iterable[str]) -> bytes:
    """A file of requests, one for each model."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": f"question {number}"}]},
            }
        ).encode()
        + b"\n"
        for number, model in enumerate(models)
    )


class Closed(_Contract):
    """Closes the connectors that a contract makes, and gives the service time between looks."""

    @pytest.fixture(autouse=True)
    async def closing(self, anyio_backend: Any) -> AsyncIterator[None]:
        self.made: list[Connector] = []
        yield
        for connector in self.made:
            await connector.close()

    def _make(self, setup_ctx: ConnectorSetup) -> Connector:
        connector = super()._make(setup_ctx)
        self.made.append(connector)
        return connector

    async def between_looks(self) -> None:
        await anyio.sleep(0.002)  # transfers run in the background


async def finished(connector: AsyncConnector[Any], meta: Any) -> Resource:
    """Looks until the job is over."""
    with anyio.fail_after(30):
        while True:
            resource = await local.call(partial(connector.get, meta, JobContext()))
            assert isinstance(resource, Resource)
            if RemotePhase(resource.phase).is_terminal:
                return resource
            await anyio.sleep(0.002)  # transfers run in the background
