from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from propfan.pluginmachinery.connector import JobContext, RemotePhase
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, TransientError
from propfan.plugins.connectors.openai import BatchConnector
from propfan.plugins.connectors.openai.batches import NAME_KEY, BatchMeta
from tests.unit.plugins.connectors.openai.api_server import ORGANIZATION, ApiServer, Fault
from tests.unit.plugins.connectors.openai.rig import batch_task, finished, request_lines, setup_for

pytestmark = pytest.mark.anyio
JOB = JobContext()


@pytest.fixture
async def batches(api: ApiServer) -> AsyncIterator[BatchConnector]:
    api.add_file("requests.jsonl", request_lines(["echo", "gpt-0", "echo"]))
    connector = BatchConnector(setup_for(api))
    yield connector
    await connector.close()


@pytest.fixture
async def replica(api: ApiServer) -> AsyncIterator[BatchConnector]:
    """Another process of the service."""
    connector = BatchConnector(setup_for(api))
    yield connector
    await connector.close()


async def test_a_batch_is_worked_off_line_by_line(api: ApiServer, batches: BatchConnector) -> None:
    meta = await batches.create(batch_task())
    resource = await finished(batches, meta)
    assert resource.phase is RemotePhase.SUCCEEDED
    assert resource.outputs is not None
    result = resource.outputs["result"]
    assert result["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    (first, second), (wrong,) = api.lines(result["output_file_id"]), api.lines(result["error_file_id"])
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "echo: question 0"
    assert second["custom_id"] == "request-2"
    assert wrong["response"]["status_code"] == 404
    assert (
        resource.message == f"2 of 3 requests are done, 1 failed; their errors are in file '{result['error_file_id']}'"
    )


async def test_the_sdks_empty_configuration_has_defaults(api: ApiServer, batches: BatchConnector) -> None:
    task = batch_task()
    batch = api.batches[(await batches.create(task)).batch_id]
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    assert batch["metadata"] == {NAME_KEY: task.unique_name()}
    assert api.headers["Idempotency-Key"] == task.unique_name()
    assert api.headers["OpenAI-Organization"] == ORGANIZATION


async def test_what_the_configuration_says_is_sent(api: ApiServer, batches: BatchConnector) -> None:
    expiry = {"anchor": "created_at", "seconds": 3600}
    task = batch_task(endpoint="/v1/embeddings", metadata={"team": "a"}, output_expires_after=expiry)
    batch = api.batches[(await batches.create(task)).batch_id]
    assert batch["endpoint"] == "/v1/embeddings"
    assert batch["metadata"] == {"team": "a", NAME_KEY: task.unique_name()}
    assert batch["output_expires_after"] == expiry
    assert type(batch["output_expires_after"]["seconds"]) is int


@pytest.mark.parametrize(
    ("status", "phase", "message"),
    [
        ("validating", RemotePhase.INITIALIZING, ""),
        ("in_progress", RemotePhase.RUNNING, "4 of 9 requests are done, 2 failed"),
        ("finalizing", RemotePhase.RUNNING, "4 of 9"),
        ("completed", RemotePhase.SUCCEEDED, "4 of 9"),
        ("failed", RemotePhase.FAILED, "failed: the service does not say why"),
        ("expired", RemotePhase.FAILED, "was not finished within 24h; 4 of 9 requests are done, 2 failed; answers so"),
        ("cancelling", RemotePhase.RUNNING, "is being cancelled; 4 of 9"),
        ("cancelled", RemotePhase.ABORTED, "was cancelled; 4 of 9"),
    ],
)
async def test_every_documented_state_has_its_phase(
    api: ApiServer, batches: BatchConnector, status: str, phase: RemotePhase, message: str
) -> None:
    meta, api.is_held = await batches.create(batch_task()), True
    counts = {"total": 9, "completed": 4, "failed": 2}
    api.batches[meta.batch_id].update(status=status, request_counts=counts, output_file_id="file-1")
    resource = await batches.get(meta, JOB)
    assert resource.phase is phase
    assert message in resource.message
    assert (resource.outputs is None) == (status != "completed")
    assert resource.custom_info is not None
    assert (resource.custom_info["status"], resource.custom_info["request_counts"]) == (status, counts)
    json.dumps(resource.custom_info)


async def test_a_state_that_nobody_knows_is_an_error_that_names_it(api: ApiServer, batches: BatchConnector) -> None:
    meta = await batches.create(batch_task())
    api.batches[meta.batch_id]["status"] = "paused"
    with pytest.raises(DecodeError, match=r"'batch_0002': state 'paused' is not known; known are validating"):
        await batches.get(meta, JOB)


async def test_errors_of_validation_are_told_with_their_lines(api: ApiServer, batches: BatchConnector) -> None:
    wrong = api.add_file("wrong.jsonl", request_lines(["echo"]) + b"{\n" + request_lines(["echo"]) + b"{\n" * 5)
    resource = await finished(batches, await batches.create(batch_task(wrong)))
    assert resource.phase is RemotePhase.FAILED
    assert "line 2: This line is not parseable as valid JSON.; line 3: The custom_id was used" in resource.message
    assert resource.message.endswith("; and 2 more")


async def test_a_batch_that_vanished_has_failed(api: ApiServer, batches: BatchConnector) -> None:
    meta = await batches.create(batch_task())
    api.batches.clear()
    resource = await batches.get(meta, JOB)
    assert resource.phase is RemotePhase.FAILED
    assert "batch 'batch_0002' is not known (any more)" in resource.message
    await batches.delete(meta, JOB)


async def test_a_cancelled_batch_ends_as_aborted(api: ApiServer, batches: BatchConnector) -> None:
    meta = await batches.create(batch_task())
    await batches.delete(meta, JOB)
    await batches.delete(meta, JOB)
    assert (await finished(batches, meta)).phase is RemotePhase.ABORTED


@pytest.mark.parametrize("status", [400, 409])
async def test_deleting_a_batch_that_is_over_succeeds(api: ApiServer, batches: BatchConnector, status: int) -> None:
    api.cancel_status = status
    meta = await batches.create(batch_task())
    assert (await finished(batches, meta)).phase is RemotePhase.SUCCEEDED
    await batches.delete(meta, JOB)
    assert (await batches.get(meta, JOB)).phase is RemotePhase.SUCCEEDED


async def test_a_cancellation_that_is_refused_for_another_reason_is_an_error(
    api: ApiServer, batches: BatchConnector
) -> None:
    meta, api.is_held = await batches.create(batch_task()), True
    api.faults.append(Fault(f"POST /v1/batches/{meta.batch_id}", 409, message="Try again later."))
    with pytest.raises(TransientError, match=r"cancel batch 'batch_0002'.*Try again later"):
        await batches.delete(meta, JOB)


async def test_another_process_finds_the_batch_among_many(
    api: ApiServer, batches: BatchConnector, replica: BatchConnector
) -> None:
    meta = await batches.create(batch_task())
    for number in range(250):
        await_none = {"id": f"batch_other_{number}", "object": "batch", "metadata": None if number % 2 else {"a": "b"}}
        api.batches[await_none["id"]] = await_none  # type: ignore[index]
    assert await replica.create(batch_task()) == meta
    assert api.count("GET /v1/batches") == 1 + 3
    assert api.count("POST /v1/batches") == 1


async def test_other_attempts_have_batches_of_their_own(batches: BatchConnector) -> None:
    tasks = [batch_task(), batch_task(attempt=1), batch_task(run="r2")]
    assert len({(await batches.create(task)).batch_id for task in tasks}) == 3


async def test_the_answer_that_was_lost_costs_no_second_batch(api: ApiServer, batches: BatchConnector) -> None:
    api.faults.append(Fault("POST /v1/batches", 502, is_done=True))
    with pytest.raises(TransientError):
        await batches.create(batch_task())
    meta = await batches.create(batch_task())
    assert list(api.batches) == [meta.batch_id]


async def test_a_call_that_was_given_up_is_joined_by_the_next(api: ApiServer, batches: BatchConnector) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(batches.create, batch_task())
            with anyio.fail_after(30):
                while not api.count("GET /v1/batches"):
                    await anyio.lowlevel.checkpoint()
            scope.cancel()
    meta = await batches.create(batch_task())
    assert list(api.batches) == [meta.batch_id]
    assert api.count("GET /v1/batches") == 1


async def test_the_vendors_library_repeats_nothing_by_itself(api: ApiServer, batches: BatchConnector) -> None:
    api.faults.append(Fault("POST /v1/batches", 500))
    with pytest.raises(TransientError):
        await batches.create(batch_task())
    assert api.count("POST /v1/batches") == 1


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"metadata": {"n": 1}}, r"custom\.config\.metadata must map texts to texts"),
        ({"metadata": {str(n): "" for n in range(16)}}, r"custom\.config\.metadata can have 15 pairs"),
        ({"endpoint": "/v1/nothing"}, r"Invalid value: '/v1/nothing'"),
        ({"completion_window": "1h"}, r"Invalid value: '1h'"),
        ({"widow": "1h"}, r"Unknown parameter: 'widow'"),
    ],
)
async def test_a_configuration_that_can_not_work_is_refused(
    batches: BatchConnector, config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await batches.create(batch_task(**config))


async def test_a_file_that_is_not_there_is_named(batches: BatchConnector) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"batch over file 'file-9' \(input_file_id\).*Invalid file"):
        await batches.create(batch_task("file-9"))


async def test_links_lead_to_the_console_of_openai_or_the_one_that_is_configured(api: ApiServer) -> None:
    api.add_file("requests.jsonl", request_lines(["echo"]))
    configured = {"console-url": "https://console/"}
    for section, links in (({}, []), (configured, ["https://console/batches/batch_0002"])):
        connector = BatchConnector(setup_for(api, section=section))
        meta = await connector.create(batch_task())
        assert [link.uri for link in (await connector.get(meta, JOB)).log_links] == links
        await connector.close()


def test_a_meta_of_this_version_is_read_by_later_ones() -> None:
    assert BatchMeta.decode(b'{"batch_id":"batch_1","organization":"org-1"}') == BatchMeta("batch_1", "org-1")
