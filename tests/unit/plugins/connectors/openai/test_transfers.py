from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from flyteidl2.core import literals_pb2, types_pb2

from propfan.engine.storage import ObjectStore
from propfan.pluginmachinery.connector import JobContext, RemotePhase
from propfan.pluginmachinery.errors import BadTaskSpecificationError, TransientError
from propfan.pluginmachinery.testing import InMemoryStore, connector_task, literal_map
from propfan.plugins.connectors.openai import DownloadConnector, UploadConnector
from tests.unit.plugins.connectors.openai.api_server import KEY, ApiServer, Fault
from tests.unit.plugins.connectors.openai.rig import (
    REQUESTS_URI,
    blob,
    download_task,
    download_template,
    finished,
    request_lines,
    setup_for,
    upload_task,
    upload_template,
)

pytestmark = pytest.mark.anyio
JOB = JobContext()
REQUESTS = request_lines(["echo", "echo"])
LARGE_BYTES = 48 * 1024 * 1024
FOLDER = "memory:///r1/a0/1"


@pytest.fixture
def store() -> InMemoryStore:
    return InMemoryStore({REQUESTS_URI: REQUESTS})


@pytest.fixture
async def upload(api: ApiServer, store: InMemoryStore) -> AsyncIterator[UploadConnector]:
    connector = UploadConnector(setup_for(api, store=store))
    yield connector
    await connector.close()


@pytest.fixture
async def download(api: ApiServer, store: InMemoryStore) -> AsyncIterator[DownloadConnector]:
    connector = DownloadConnector(setup_for(api, store=store))
    yield connector
    await connector.close()


async def until_uploading(api: ApiServer) -> None:
    with anyio.fail_after(30):
        while not api.count("POST /v1/files"):  # noqa: ASYNC110 - the server tells nobody
            await anyio.sleep(0.002)


class TestUpload:
    async def test_the_file_arrives_as_it_is_and_named_by_the_attempt(
        self, api: ApiServer, upload: UploadConnector
    ) -> None:
        task = upload_task()
        resource = await finished(upload, await upload.create(task))
        assert resource.outputs is not None
        (file,) = api.files.values()
        assert resource.outputs == {"result": file["id"]}
        assert (file["filename"], file["purpose"]) == (f"{task.unique_name()}.jsonl", "batch")
        assert api.path(file["id"]).read_bytes() == REQUESTS

    async def test_a_call_does_not_wait_for_the_file(self, api: ApiServer, upload: UploadConnector) -> None:
        api.takes_uploads = anyio.Event()
        meta = await upload.create(upload_task())
        await until_uploading(api)
        assert (await upload.get(meta, JOB)).phase is RemotePhase.RUNNING
        api.takes_uploads.set()
        assert (await finished(upload, meta)).phase is RemotePhase.SUCCEEDED

    async def test_another_process_finds_the_file_that_is_there(
        self, api: ApiServer, upload: UploadConnector, store: InMemoryStore
    ) -> None:
        meta = await upload.create(upload_task())
        first = await finished(upload, meta)
        replica = UploadConnector(setup_for(api, store=store))
        second = await replica.get(meta, JOB)
        assert (second.phase, second.outputs) == (RemotePhase.SUCCEEDED, first.outputs)
        await replica.create(upload_task())
        assert (await finished(replica, meta)).outputs == first.outputs
        assert api.count("POST /v1/files") == 1
        await replica.close()

    async def test_another_process_begins_anew_where_the_first_one_died(
        self, api: ApiServer, upload: UploadConnector, store: InMemoryStore
    ) -> None:
        api.takes_uploads = anyio.Event()
        meta = await upload.create(upload_task())
        await until_uploading(api)
        await upload.close()
        api.files.clear()
        api.takes_uploads.set()
        replica = UploadConnector(setup_for(api, store=store))
        assert (await replica.get(meta, JOB)).phase is RemotePhase.RUNNING
        assert (await finished(replica, meta)).phase is RemotePhase.SUCCEEDED
        await replica.close()

    async def test_a_deleted_upload_is_ended_and_stays_deleted_for_every_process(
        self, api: ApiServer, upload: UploadConnector, store: InMemoryStore
    ) -> None:
        api.takes_uploads = anyio.Event()
        meta = await upload.create(upload_task())
        await until_uploading(api)
        await upload.delete(meta, JOB)
        replica = UploadConnector(setup_for(api, store=store))
        for connector in (upload, replica):
            assert (await connector.get(meta, JOB)).phase is RemotePhase.ABORTED
        assert api.count("POST /v1/files") == 1
        await replica.close()

    async def test_a_fault_on_the_way_is_told_and_the_next_look_begins_anew(
        self, api: ApiServer, upload: UploadConnector
    ) -> None:
        api.faults.append(Fault("POST /v1/files", 503, headers={"Retry-After": "7"}))
        meta = await upload.create(upload_task())
        with pytest.raises(TransientError, match=f"upload {REQUESTS_URI}") as caught:
            await finished(upload, meta)
        assert caught.value.retry_after_s == 7
        assert (await finished(upload, meta)).phase is RemotePhase.SUCCEEDED

    async def test_a_file_that_is_empty_or_too_large_fails_the_task(self, api: ApiServer) -> None:
        store = InMemoryStore({"memory:///empty": b"", "memory:///large": b"x" * 2000})
        connector = UploadConnector(setup_for(api, store=store, section={"max-file-bytes": 1999}))
        for run, (name, problem) in enumerate({"empty": "File is empty.", "large": "the limit is 1999"}.items()):
            resource = await finished(
                connector, await connector.create(upload_task(f"memory:///{name}", run=f"r{run}"))
            )
            assert resource.phase is RemotePhase.FAILED
            assert problem in resource.message
        await connector.close()

    async def test_the_key_is_the_secret_that_the_task_names_else_the_services_own(self, api: ApiServer) -> None:
        for secrets in ({"openai/openai-api-key": "sk"}, {"FLYTE_OPENAI_API_KEY": "sk"}):
            connector = UploadConnector(setup_for(api, secrets=dict.fromkeys(secrets, KEY)))
            meta = await connector.create(upload_task("memory:///none"))
            assert b"sk" not in meta.encode()
            await connector.close()

    @pytest.mark.parametrize("custom", [{"secret_arg": None}, {"secret_arg": {}}, {"more": 1}])
    async def test_what_the_sdk_leaves_out_or_adds_is_no_hindrance(
        self, upload: UploadConnector, custom: dict[str, Any]
    ) -> None:
        assert (await finished(upload, await upload.create(upload_task(**custom)))).phase is RemotePhase.SUCCEEDED

    @pytest.mark.parametrize("uri", ["/etc/secrets/key", "file:///etc/secrets/key", "FILE:///etc/secrets/key"])
    async def test_files_of_the_services_machine_are_no_inputs_where_outputs_go_elsewhere(
        self, upload: UploadConnector, uri: str
    ) -> None:
        with pytest.raises(BadTaskSpecificationError, match="'jsonl_in' is a file of the service's own machine"):
            await upload.create(upload_task(uri))

    async def test_so_many_files_are_moved_at_once_and_the_others_wait(self, api: ApiServer) -> None:
        api.takes_uploads = anyio.Event()
        store = InMemoryStore({REQUESTS_URI: REQUESTS})
        connector = UploadConnector(setup_for(api, store=store, section={"max-transfers": 2}))
        metas = [await connector.create(upload_task(run=f"r{number}")) for number in range(4)]
        with anyio.fail_after(30):
            while api.count("POST /v1/files") < 2:  # noqa: ASYNC110 - the server tells nobody
                await anyio.sleep(0.002)
        assert api.count("GET /v1/files") == 2
        api.takes_uploads.set()
        for meta in metas:
            assert (await finished(connector, meta)).phase is RemotePhase.SUCCEEDED
        await connector.close()

    async def test_an_input_that_is_no_file_is_refused(self, upload: UploadConnector) -> None:
        folder = blob("memory:///in")
        folder.scalar.blob.metadata.type.dimensionality = types_pb2.BlobType.MULTIPART
        for inputs in (
            literal_map(),
            literal_map(jsonl_in="x"),
            literals_pb2.LiteralMap(literals={"jsonl_in": folder}),
        ):
            with pytest.raises(BadTaskSpecificationError, match="input 'jsonl_in' must be one file"):
                await upload.create(connector_task(upload_template(), inputs))


class TestDownload:
    async def test_both_files_are_written_below_the_output_prefix(
        self, api: ApiServer, download: DownloadConnector, store: InMemoryStore
    ) -> None:
        answers, errors = api.add_file("a.jsonl", b"answers\n"), api.add_file("e.jsonl", b"errors\n")
        task = download_task({"output_file_id": answers, "error_file_id": errors, "status": "completed"})
        resource = await finished(download, await download.create(task))
        paths = {kind: {"path": f"{FOLDER}/{kind}.jsonl"} for kind in ("output_file", "error_file")}
        assert resource.outputs == {"result": paths}
        assert store.objects[f"{FOLDER}/output_file.jsonl"] == b"answers\n"
        assert store.objects[f"{FOLDER}/error_file.jsonl"] == b"errors\n"

    async def test_a_file_that_the_batch_does_not_have_is_null(
        self, api: ApiServer, download: DownloadConnector
    ) -> None:
        task = download_task({"output_file_id": None, "error_file_id": api.add_file("e.jsonl", b"errors\n")})
        resource = await finished(download, await download.create(task))
        result = {"output_file": None, "error_file": {"path": f"{FOLDER}/error_file.jsonl"}}
        assert resource.outputs == {"result": result}

    async def test_a_batch_may_also_come_as_a_generic_struct(self, api: ApiServer, download: DownloadConnector) -> None:
        inputs = literals_pb2.LiteralMap()
        inputs.literals["batch_endpoint_result"].scalar.generic.update({"output_file_id": api.add_file("a", b"a")})
        meta = await download.create(connector_task(download_template(), inputs))
        assert (await finished(download, meta)).phase is RemotePhase.SUCCEEDED

    async def test_a_connection_that_breaks_leaves_nothing_and_is_tried_again(
        self, api: ApiServer, download: DownloadConnector, store: InMemoryStore
    ) -> None:
        file_id = api.add_file("a.jsonl", b"answers\n")
        api.faults.append(Fault(f"GET /v1/files/{file_id}/content", is_cut=True))
        meta = await download.create(download_task({"output_file_id": file_id}))
        with pytest.raises(TransientError, match=rf"download file '{file_id}': the connection broke"):
            await finished(download, meta)
        assert not [name for name in store.objects if name.startswith(FOLDER)]
        assert (await finished(download, meta)).phase is RemotePhase.SUCCEEDED
        assert store.objects[f"{FOLDER}/output_file.jsonl"] == b"answers\n"

    async def test_what_is_there_already_is_not_moved_again(
        self, api: ApiServer, download: DownloadConnector, store: InMemoryStore
    ) -> None:
        answers, errors = api.add_file("a.jsonl", b"answers\n"), api.add_file("e.jsonl", b"errors\n")
        store.objects[f"{FOLDER}/output_file.jsonl"] = b"answers\n"
        meta = await download.create(download_task({"output_file_id": answers, "error_file_id": errors}))
        assert (await finished(download, meta)).phase is RemotePhase.SUCCEEDED
        assert [call for call in api.calls if "content" in call] == [f"GET /v1/files/{errors}/content"]
        replica = DownloadConnector(setup_for(api, store=store))
        assert (await replica.get(meta, JOB)).phase is RemotePhase.SUCCEEDED
        await replica.close()

    async def test_a_file_that_is_too_large_fails_the_task(self, api: ApiServer) -> None:
        connector = DownloadConnector(setup_for(api, section={"max-file-bytes": 3}))
        meta = await connector.create(download_task({"output_file_id": api.add_file("a", b"answers\n")}))
        resource = await finished(connector, meta)
        assert resource.phase is RemotePhase.FAILED
        assert "the limit is 3 bytes (openai.max-file-bytes)" in resource.message
        await connector.close()

    @pytest.mark.parametrize(
        ("batch", "problem"),
        [
            ({"id": "batch_1"}, "input 'batch_endpoint_result' must be a finished batch"),
            ("batch_1", "input 'batch_endpoint_result' must be a finished batch"),
            ({"output_file_id": 3}, r"batch_endpoint_result\.output_file_id must be the id of a file or null"),
        ],
    )
    async def test_an_input_that_is_no_batch_is_refused(
        self, download: DownloadConnector, batch: Any, problem: str
    ) -> None:
        with pytest.raises(BadTaskSpecificationError, match=problem):
            await download.create(download_task(batch))


async def test_a_task_without_a_place_for_outputs_is_refused(
    upload: UploadConnector, download: DownloadConnector
) -> None:
    for connector, task in ((upload, upload_task()), (download, download_task({"output_file_id": "file-1"}))):
        with pytest.raises(BadTaskSpecificationError, match="has no output_prefix"):
            await connector.create(msgspec.structs.replace(task, output_prefix=""))


async def test_memory_does_not_grow_with_the_file(api: ApiServer, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    with requests.open("wb") as file:
        for _ in range(LARGE_BYTES // (1024 * 1024)):
            file.write(b"x" * (1024 * 1024 - 1) + b"\n")
    setup = setup_for(api, store=ObjectStore())
    upload, download = UploadConnector(setup), DownloadConnector(setup)
    task = msgspec.structs.replace(upload_task(requests.as_uri()), output_prefix=tmp_path.as_uri())
    await (await upload._accounts.open(task.connection)).client.files.list(limit=1)  # imports what is imported lazily
    tracemalloc.start()
    try:
        done = await finished(upload, await upload.create(task))
        assert done.outputs is not None
        made = download_task({"output_file_id": done.outputs["result"]}, output_prefix=tmp_path.as_uri())
        assert (await finished(download, await download.create(made))).phase is RemotePhase.SUCCEEDED
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await upload.close()
        await download.close()
    assert (tmp_path / "output_file.jsonl").stat().st_size == LARGE_BYTES
    assert peak_bytes < LARGE_BYTES / 2, peak_bytes
