"""What goes wrong with one call has a clean status and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import msgspec
import pytest
import structlog
from flyteidl2.connector import connector_pb2
from flyteidl2.core import types_pb2

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.statuses import MAX_DETAIL_CHARS, redacted
from propfan.pluginmachinery.connector import JobContext, RemotePhase, Resource, TaskCategory, TaskRequest, resources
from propfan.pluginmachinery.testing import task_template
from tests.unit.engine.connector_service.rig import (
    CONFIG,
    Client,
    Gated,
    JobMeta,
    Jobs,
    all_of,
    category,
    greeting,
    job,
    serving,
)

pytestmark = pytest.mark.anyio

Code = grpc.StatusCode


CALLS: dict[str, Callable[[Client, Any], Any]] = {
    "get": lambda client, asked: client.connector.GetTask(connector_pb2.GetTaskRequest(**asked)),
    "delete": lambda client, asked: client.connector.DeleteTask(connector_pb2.DeleteTaskRequest(**asked)),
    "get_metrics": lambda client, asked: client.connector.GetTaskMetrics(connector_pb2.GetTaskMetricsRequest(**asked)),
    "get_logs": lambda client, asked: client.connector.GetTaskLogs(connector_pb2.GetTaskLogsRequest(**asked)).read(),
}


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        ("bad-task", Code.INVALID_ARGUMENT, "[BadTaskSpecification] no such colour"),
        ("permanent", Code.FAILED_PRECONDITION, "[QuotaGone] the account is closed"),
        ("transient", Code.UNAVAILABLE, "try again"),
        ("lookup", Code.INTERNAL, "with error:\nLookupError: no such region (at "),
        ("unimplemented", Code.UNIMPLEMENTED, "with error:\nNotImplementedError: not yet"),
        ("timeout", Code.INTERNAL, "with error:\nTimeoutError: the library's own"),
        ("cancelled", Code.INTERNAL, "with error:\nEndOfStream: "),
    ],
)
async def test_what_a_connector_raises_is_a_status(error: str, code: grpc.StatusCode, problem: str) -> None:
    async with serving() as it:
        client = it.client
        for operation, call in CALLS.items():
            meta = await client.create(job(fail={operation: error}))
            asked = {"resource_meta": meta, "task_category": category("job")}
            found = await status_of(call(client, asked))
            assert found[0] is code
            assert found[1].startswith(f"failed to {operation} task of type 'job'")
            assert problem in found[1]
        assert (await status_of(client.create(job(fail={"create": error}))))[0] is code
        assert (await status_of(client.create(greeting(fail={"do": error}))))[0] is code


@pytest.mark.parametrize(
    ("error", "trailers"),
    [
        ("busy", {"grpc-retry-pushback-ms": "1500"}),
        ("busy-for-ever", {"grpc-retry-pushback-ms": "86400000"}),
        ("transient", {}),
    ],
)
async def test_when_to_ask_again_goes_with_the_status(error: str, trailers: dict[str, str]) -> None:
    async with serving() as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.client.create(job(fail={"create": error}))
    assert caught.value.code() is Code.UNAVAILABLE
    assert dict(caught.value.trailing_metadata() or ()) == trailers


async def test_an_unknown_task_type_is_told_with_those_that_are_known() -> None:
    async with serving() as it:
        found = await status_of(it.client.create(task_template("spark")))
        assert found == (
            Code.NOT_FOUND,
            "Cannot find connector for task type: spark and version: 0; there are: greet, job",
        )
        for call in (it.client.get(b"{}", "spark"), it.client.delete(b"{}", "spark")):
            assert await status_of(call) == found


async def test_a_wrong_version_is_told_with_those_that_are_known() -> None:
    async with serving() as it:
        problem = "Cannot find connector for task type: job and version: 7; there is version 0, 1"
        assert await status_of(it.client.create(job(version=7))) == (Code.NOT_FOUND, problem)
        assert await status_of(it.client.get(b"{}", "job", 7)) == (Code.NOT_FOUND, problem)


@pytest.mark.parametrize("meta", [b"", b"nonsense", b"\xff\xfe", b'{"id": 7}', b"[" * 100_000])
async def test_an_undecodable_meta_is_the_callers_fault(meta: bytes) -> None:
    async with serving() as it:
        for call in (it.client.get(meta), it.client.delete(meta)):
            code, problem = await status_of(call)
            assert code is Code.INVALID_ARGUMENT
            assert "resource meta for connector 'Jobs': is no JobMeta: " in problem
            assert problem.endswith("; send what CreateTask of this connector answered")


async def test_an_oversize_meta_is_refused() -> None:
    async with serving() as it:
        code, problem = await status_of(it.client.get(b'{"id":"' + b"x" * resources.MAX_META_BYTES + b'"}'))
        assert code is Code.INVALID_ARGUMENT
        assert "has 262153 bytes, the limit is 262144" in problem


async def test_a_message_larger_than_the_limit_is_refused() -> None:
    config = msgspec.structs.replace(CONFIG, max_message_bytes=2048)
    async with serving(config=config) as it:
        code, problem = await status_of(it.client.create(job(answer="x" * 4000)))
        assert code is Code.RESOURCE_EXHAUSTED
        assert "Received message larger than max" in problem
        await it.client.create(job())


async def test_custom_of_a_wrong_type_is_told_with_its_field() -> None:
    async with serving() as it:
        code, problem = await status_of(it.client.create(job(answer=7)))
        assert code is Code.INVALID_ARGUMENT
        assert "task 'sample' (job): custom is no Behaviour: Expected `str`, got `int` - at `$.answer`" in problem


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("nothing", "connector 'Jobs': must answer with a Resource, is NoneType"),
        ("phase", "connector 'Jobs': Resource.phase must be a RemotePhase, is 44"),
        ("outputs", "connector 'Jobs': output 'n': a value of type object has no literal"),
        ("unheard-of", "with error:\nKeyError: 'unheard-of'"),
    ],
)
async def test_an_answer_that_is_nonsense_is_the_connectors_fault(answer: str, problem: str) -> None:
    async with serving() as it:
        meta = await it.client.create(job(answer=answer))
        code, told = await status_of(it.client.get(meta))
        assert code is Code.INTERNAL
        assert problem in told
        assert (await it.client.get(await it.client.create(job()))).message == "fine"


async def test_outputs_of_a_wrong_type_are_told_where_the_interface_is_known() -> None:
    template = greeting()
    template.interface.outputs.variables[0].value.type.simple = types_pb2.INTEGER
    async with serving() as it:
        code, problem = await status_of(it.client.create(template))
        assert code is Code.INTERNAL
        assert "connector 'Greeter': output 'greeting': must be int (declared INTEGER), is a str" in problem
        assert "fault of the connector" in problem


async def test_a_synchronous_connector_that_does_not_end_is_told() -> None:
    async with serving() as it:
        code, problem = await status_of(it.client.create(greeting(answer="running")))
        assert code is Code.INTERNAL
        assert "do must end with a terminal phase, is RUNNING" in problem


class Fat(Gated):
    """Makes jobs whose metas can not be kept."""

    name = "Fat"
    categories = (TaskCategory("fat"),)
    deleted: list[str] = []  # noqa: RUF012 - of the class, which each test makes anew

    async def create(self, task: TaskRequest) -> JobMeta:
        if task.template.custom["answer"] == "other":
            return "job"  # type: ignore[return-value]
        return JobMeta("x" * resources.MAX_META_BYTES)

    async def delete(self, meta: JobMeta, job: JobContext) -> None:
        self.deleted.append(meta.id[:1])


async def test_a_job_whose_meta_can_not_be_kept_is_deleted() -> None:
    async with serving(Fat) as it:
        code, problem = await status_of(it.client.create(job("fat", answer="large")))
        assert code is Code.INTERNAL
        assert "JobMeta has 262" in problem
        assert "keep in it only what finds the job again" in problem
        assert it.connector("Fat").deleted == ["x"]
        code, problem = await status_of(it.client.create(job("fat", answer="other")))
        assert code is Code.INTERNAL
        assert "create must answer with JobMeta, is str" in problem


class NeedsSecret(Jobs):
    name = "NeedsSecret"
    categories = (TaskCategory("secretive"),)

    async def get(self, meta: JobMeta, job: JobContext) -> Resource:
        return Resource(RemotePhase.SUCCEEDED, await self.get_secret("Slurm_Key", job.connection))


async def test_a_missing_secret_is_named_with_the_places_where_it_could_be() -> None:
    async with serving(NeedsSecret) as it:
        meta = await it.client.create(job("secretive"))
        code, problem = await status_of(it.client.get(meta, "secretive"))
        assert code is Code.FAILED_PRECONDITION
        assert problem == (
            "failed to get task of type 'secretive': [SecretNotFound] secret 'Slurm_Key' is not there: "
            "set the variable _FSEC_SLURM_KEY or the file /etc/secrets/slurm_key where the connector service runs, "
            "or let the task bring it in custom.secrets"
        )
    async with serving(NeedsSecret, _FSEC_SLURM_KEY=" v4lue \n") as it:
        meta = await it.client.create(job("secretive"))
        assert (await it.client.get(meta, "secretive")).message == "v4lue"


async def test_failures_are_logged_and_counted() -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving() as it:
            await it.client.get(await it.client.create(job()))
            await status_of(it.client.create(job(fail={"create": "permanent"})))
            await status_of(it.client.create(task_template("chosen-by-caller")))
            registry = it.service._dispatcher.metrics.registry
    failed = [entry for entry in logs if entry["event"] == "call failed"]
    assert [(entry["operation"], entry["task_type"], entry["status"]) for entry in failed] == [
        ("create", "job", "FAILED_PRECONDITION"),
        ("create", "chosen-by-caller", "NOT_FOUND"),
    ]

    def count(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"flyte_connector_{name}", labels)

    assert count("requests_success_total", task_type="job", operation="create") == 1
    assert count("requests_success_total", task_type="job", operation="get") == 1
    assert count("requests_failure_total", task_type="job", operation="create", error_code="412") == 1
    assert count("requests_failure_total", task_type="unknown", operation="create", error_code="404") == 1
    assert count("request_latency_seconds_count", task_type="job", operation="create") == 2
    assert count("input_literal_bytes_count", task_type="job") == 2


def test_messages_lose_secrets_and_their_middle() -> None:
    assert redacted("token s3cret, key abc", ["s3cret", "abc"]) == "token ***, key abc"
    assert redacted("token s3cret-2", ["s3cret", "s3cret-2"]) == "token ***"
    long = redacted("begin" + "x" * 100_000 + "end", [])
    assert len(long) <= MAX_DETAIL_CHARS
    assert long.startswith("begin")
    assert long.endswith("end")
    assert redacted("\ud800", []) == "?"


def test_the_defaults_serve_this_machine_only() -> None:
    assert (ConnectorServiceConfig().host, ConnectorServiceConfig().port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize("method", ["CreateTask", "GetTask", "DeleteTask"])
async def test_bytes_that_are_no_request_are_refused(method: str) -> None:
    async with serving() as it:
        for service in ("flyteidl2.connector.AsyncConnectorService", "flyteidl.service.AsyncAgentService"):
            call: Any = it.client.channel.unary_unary(f"/{service}/{method}")
            code, problem = await status_of(call(b"\xff" * 20))
            assert code is Code.INVALID_ARGUMENT
            assert problem.startswith("the request can not be read: Error parsing message")
        stream: Any = it.client.channel.stream_stream("/flyteidl.service.SyncAgentService/ExecuteTaskSync")
        code, problem = await status_of(all_of(stream(iter([b"\xff" * 20]))))
        assert code is Code.INVALID_ARGUMENT
        assert (await it.client.get(await it.client.create(job()))).message == "fine"


async def test_a_request_without_anything_is_refused() -> None:
    async with serving() as it:
        for method in ("CreateTask", "GetTask", "DeleteTask"):
            call: Any = it.client.channel.unary_unary(f"/flyteidl2.connector.AsyncConnectorService/{method}")
            code, problem = await status_of(call(b""))
            assert code is Code.NOT_FOUND
            assert "task type:  and version: 0; there are: greet, job" in problem
