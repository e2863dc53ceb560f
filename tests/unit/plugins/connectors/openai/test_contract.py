"""The connectors hold the contract, against a server that speaks OpenAI's API."""

from __future__ import annotations

import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase
from propfan.pluginmachinery.testing import ConnectorContract, InMemoryStore, JobStory, SyncConnectorContract
from propfan.plugins.connectors.openai import BatchConnector, ChatConnector, DownloadConnector, UploadConnector
from tests.unit.plugins.connectors.openai.api_server import ApiServer
from tests.unit.plugins.connectors.openai.rig import (
    REQUESTS_URI,
    Closed,
    batch_task,
    chat_task,
    download_task,
    request_lines,
    setup_for,
    upload_task,
)

FOLDER = "memory:///r1/a0/1"


class WithFiles:
    @pytest.fixture
    def setup_ctx(self, api: ApiServer) -> ConnectorSetup:
        assert api.add_file("good.jsonl", request_lines(["echo", "echo"])) == "file-0001"
        assert api.add_file("bad.jsonl", b"no request\n") == "file-0002"
        return setup_for(api, store=InMemoryStore({REQUESTS_URI: request_lines(["echo"])}))


class TestChatContract(WithFiles, Closed, SyncConnectorContract):
    connector_class = ChatConnector
    stories = (
        JobStory("answers", chat_task("hi"), RemotePhase.SUCCEEDED, {"o0": "echo: hi"}),
        JobStory("refuses", chat_task(model="refuses"), RemotePhase.FAILED, message="I can not do that."),
    )


class TestBatchContract(WithFiles, Closed, ConnectorContract):
    connector_class = BatchConnector
    stories = (
        JobStory("is worked off", batch_task(), RemotePhase.SUCCEEDED, message="2 of 2 requests are done"),
        JobStory("is not taken", batch_task("file-0002"), RemotePhase.FAILED, message="line 1: This line is not"),
    )


class TestUploadContract(WithFiles, Closed, ConnectorContract):
    connector_class = UploadConnector
    stories = (
        JobStory("uploads", upload_task(), RemotePhase.SUCCEEDED),
        JobStory("has no file", upload_task("memory:///none", run="r2"), RemotePhase.FAILED, message="no such object"),
    )


class TestDownloadContract(WithFiles, Closed, ConnectorContract):
    connector_class = DownloadConnector
    stories = (
        JobStory(
            "downloads both",
            download_task({"output_file_id": "file-0001", "error_file_id": "file-0002"}),
            RemotePhase.SUCCEEDED,
            {"result": {kind: {"path": f"{FOLDER}/{kind}.jsonl"} for kind in ("output_file", "error_file")}},
        ),
        JobStory(
            "has none",
            download_task({"output_file_id": None, "error_file_id": None}, output_prefix="memory:///r1/a0/2"),
            RemotePhase.SUCCEEDED,
            {"result": {"output_file": None, "error_file": None}},
        ),
        JobStory(
            "is gone",
            download_task({"output_file_id": "file-0009"}, output_prefix="memory:///r1/a0/3"),
            RemotePhase.FAILED,
            message="No such File object",
        ),
    )
