"""Connector tasks as a whole, against a real gRPC server: submitted, watched, ended, aborted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import grpc
import pytest
from flyteidl2.core import execution_pb2
from flyteidl2.task import common_pb2

from propfan.engine import Engine
from propfan.engine.cluster import TASK_ACTION
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector.requests import IDEMPOTENCY_ANNOTATION
from propfan.pluginmachinery.phases import ErrorKind, Phase
from propfan.pluginmachinery.testing import InMemoryStore, literal_map
from tests.unit.plugins.connector.rig import INTEGER, engine_at, quick_looks, run, submit, template
from tests.unit.plugins.connector.service import PHASES, Service, serving

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]


def one_output(name: str = "o0", value: Any = 7) -> common_pb2.Outputs:
    literal = literal_map(x=value).literals["x"]
    return common_pb2.Outputs(literals=[common_pb2.NamedLiteral(name=name, value=literal)])


async def told(engine: Engine, key: TaskKey, holds: Callable[[TaskEvent], bool]) -> TaskEvent:
    """The first event of a task for which it does."""
    async with engine.events(key=key) as events:
        async for _, event in events:
            if holds(event):
                return event
    raise AssertionError("unreachable")


# -- Good lives ------------------------------------------------------------------------------------


async def test_task_runs_where_its_type_was_discovered() -> None:
    async with serving() as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine)
        service = server.service
    assert (status.phase, status.outcome) == (Phase.SUCCESS, Outcome.COMPLETED)
    assert (service.calls["CreateTask"], service.calls["DeleteTask"]) == (1, 0)


async def test_phases_are_told_as_the_connector_tells_them() -> None:
    service = Service()
    service.answer(phase=PHASES.QUEUED, message="in line")
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            reasons: list[tuple[str, str]] = []
            async with engine.events(key=key) as events:
                async for _, event in events:
                    reasons.append((event.phase.name, event.reason))
                    if event.reason == "in line":
                        service.answer(phase=PHASES.INITIALIZING, message="pulling")
                    elif event.reason == "pulling":
                        service.answer(phase=PHASES.RUNNING)
                    elif event.phase is ActionPhase.RUNNING:
                        service.answer(phase=PHASES.SUCCEEDED)
                    elif event.is_final:
                        break
    assert reasons[-4:-1] == [("QUEUED", "in line"), ("INITIALIZING", "pulling"), ("RUNNING", "")]


async def test_outputs_in_the_answer_are_written_where_the_task_would_have_left_them() -> None:
    service, store = Service(), InMemoryStore()
    service.answer(phase=PHASES.SUCCEEDED, outputs=one_output())
    async with serving(service) as server, engine_at(server.endpoint, store=store) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(outputs={"o0": INTEGER}))
    assert status.outcome is Outcome.COMPLETED
    written = common_pb2.Outputs.FromString(store.objects[f"{status.output_prefix}/outputs.pb"])
    assert written == one_output()


async def test_connector_may_write_the_outputs_itself() -> None:
    service, store = Service(), InMemoryStore()

    async def write(request: Any, context: Any) -> None:
        await store.put(f"{request.output_prefix}/outputs.pb", one_output().SerializeToString())

    service.before["GetTask"].append(write)
    async with serving(service) as server, engine_at(server.endpoint, store=store) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(outputs={"o0": INTEGER}))
    assert status.outcome is Outcome.COMPLETED


async def test_links_and_endpoint_are_told() -> None:
    service = Service()
    link = execution_pb2.TaskLog(uri="https://logs/1", name="Job")
    service.answer(phase=PHASES.RUNNING, log_links=[link])
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            event = await told(engine, await submit(engine), lambda event: event.phase is ActionPhase.RUNNING)
        assert [(log.name, log.uri) for log in event.logs] == [("Job", "https://logs/1")]
        assert event.log_context is not None
        assert event.log_context.connector_endpoint == server.endpoint


async def test_links_that_come_later_are_told_too() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            first = await told(engine, key, lambda event: event.phase is ActionPhase.RUNNING)
            link = execution_pb2.TaskLog(uri="https://logs/1", name="Job")
            service.answer(phase=PHASES.RUNNING, log_links=[link])
            second = await told(engine, key, lambda event: bool(event.logs))
    assert (first.logs, second.phase) == ((), ActionPhase.RUNNING)
    assert second.version > first.version


async def test_request_says_who_the_task_is() -> None:
    service = Service()
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            inputs = literal_map(n=3).SerializeToString()
            made = template(inputs={"n": INTEGER}, image="none", args=["--to", "{{.outputPrefix}}", "{{.inputs.n}}"])
            key = await submit(engine, made, inputs=inputs, run_name="r1", action_name="a7")
            status = await engine.wait(key)
    request = service.job.request
    task = request.task_execution_metadata
    assert [(each.name, each.value.scalar.primitive.integer) for each in request.inputs.literals] == [("n", 3)]
    assert list(request.template.container.args) == ["--to", status.output_prefix, "3"]
    assert request.output_prefix == status.output_prefix
    assert task.task_execution_id.node_execution_id.node_id == "a7"
    assert task.task_execution_id.node_execution_id.execution_id.name == "r1"
    assert task.annotations[IDEMPOTENCY_ANNOTATION].startswith("r1-a7-0-")
    assert not request.HasField("connection")


async def test_silent_jobs_cost_no_writes() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] >= 3)
            version = (await engine.cluster.get(TASK_ACTION, *key)).metadata.resource_version
            await service.until(lambda: service.calls["GetTask"] >= 6)
            assert (await engine.cluster.get(TASK_ACTION, *key)).metadata.resource_version == version


# -- Ends that are not good ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (PHASES.FAILED, "failed to run the job: out of rows"),
        (PHASES.ABORTED, "failed to run the job with aborted phase."),
    ],
)
async def test_failed_job_fails_its_task_for_good(phase: Any, message: str) -> None:
    service = Service()
    service.answer(phase=phase, message="out of rows")
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(retries=3))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert (status.error.code, status.error.message, status.error.kind) == (
        "TaskFailedWithError",
        message,
        ErrorKind.USER,
    )
    assert service.calls["CreateTask"] == 1


async def test_retryable_failure_gets_the_next_attempt_a_job_of_its_own() -> None:
    service = Service()
    service.answer(phase=PHASES.RETRYABLE_FAILED, message="spot loss")

    async def mend(request: Any, context: Any) -> None:
        if len(service.created) == 2:
            service.answer(phase=PHASES.SUCCEEDED)

    service.after["CreateTask"] += [mend, mend]
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(retries=2))
    assert (status.outcome, status.attempts) == (Outcome.COMPLETED, 2)
    assert len(set(service.created)) == 2
    attempts = [job.request.task_execution_metadata.task_execution_id.retry_attempt for job in service.jobs.values()]
    assert attempts == [0, 1]


async def test_abort_deletes_the_job_before_the_task_is_gone() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            await engine.abort(key, "enough")
            status = await engine.wait(key)
            await engine.settled()
            looks = service.calls["GetTask"]
    assert (status.outcome, service.job.is_deleted) == (Outcome.ABORTED, True)
    assert (service.calls["DeleteTask"], service.calls["GetTask"]) == (1, looks)


async def test_look_under_way_does_not_let_the_job_be_deleted_twice() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)

    async def until_deleted(*_: object) -> None:
        await service.until(lambda: service.calls["DeleteTask"] > 0)

    async def until_the_look_is_over(*_: object) -> None:
        await anyio.sleep(0.2)  # its answer goes its own way to the engine: nothing here can tell that it is there

    service.before["GetTask"].append(until_deleted)
    service.before["DeleteTask"].append(until_the_look_is_over)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            await engine.abort(key)
            await engine.settled()
    assert (service.calls["GetTask"], service.calls["DeleteTask"]) == (1, 1)


async def test_deleted_task_takes_its_job_along() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            await engine.delete(key)
            await engine.settled()
    assert service.job.is_deleted


async def test_abort_before_the_mark_is_written_creates_nothing() -> None:
    service = Service("other")
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await engine.abort(key)
            await engine.wait(key)
            await engine.settled()
    assert service.calls["CreateTask"] == 0


async def test_attempt_that_runs_too_long_has_its_job_deleted() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    made = template()
    made.metadata.timeout.FromMilliseconds(200)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, made)
            await engine.settled()
    assert (status.outcome, service.job.is_deleted) == (Outcome.TIMED_OUT, True)


async def test_outputs_of_another_type_are_refused_by_name() -> None:
    service = Service()
    service.answer(phase=PHASES.SUCCEEDED, outputs=one_output("o0", "seven"))
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(outputs={"o0": INTEGER, "o1": INTEGER}))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "InvalidOutputs"
    assert "o0 must be a primitive integer, is string_value" in status.error.message
    assert "o1 is declared and missing (outputs in the answer: o0)" in status.error.message


async def test_success_without_outputs_says_where_they_should_be() -> None:
    async with serving() as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(outputs={"o0": INTEGER}))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "OutputsNotFound"
    assert f"{status.output_prefix}/outputs.pb" in status.error.message
    assert server.service.calls["CreateTask"] == 1


async def test_answer_that_is_too_large_says_what_to_do() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING, message="x" * 10_000)
    deployment = {"maxMessageBytes": 8192}
    async with serving(service) as server, engine_at(server.endpoint, deployment=deployment) as engine:
        with anyio.fail_after(20):
            status = await run(engine)
            await engine.settled()
    assert status.error is not None
    assert status.error.code == "MessageTooLarge"
    assert "plugins.connector-service.defaultConnector.maxMessageBytes" in status.error.message
    assert service.job.is_deleted


async def test_meta_that_is_too_large_fails_the_task_and_deletes_the_job() -> None:
    service = Service()
    service.meta_of = lambda _: bytes(300 * 1024)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine)
            await service.until(lambda: service.job.is_deleted)
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "MetadataTooLarge"
    assert "the engine keeps at most 262144" in status.error.message


async def test_phase_that_means_nothing_spends_the_failure_budget() -> None:
    service = Service()
    service.answer(phase=PHASES.UNDEFINED)
    web = {"caching": {"resyncInterval": "5s", "maxSystemFailures": 1}}
    async with serving(service) as server, engine_at(server.endpoint, webApi=web) as engine:
        with anyio.fail_after(20):
            status = await run(engine)
            await engine.settled()
    assert status.error is not None
    assert status.error.code == "AutoRefreshCacheFailed"
    assert "2 looks at the job in a row failed" in status.error.message
    assert "unknown execution phase [UNDEFINED]" in status.error.message
    assert service.job.is_deleted


async def test_job_that_vanished_fails_with_the_connectors_own_words() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    web = {"caching": {"resyncInterval": "5s", "maxSystemFailures": 1}}
    async with serving(service) as server, engine_at(server.endpoint, webApi=web) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            service.jobs.clear()
            status = await engine.wait(key)
            await engine.settled()
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert "no job b'job-0'" in status.error.message
    assert "connector 'defaultConnector'" in status.error.message


@pytest.mark.parametrize(
    ("code", "is_retried"),
    [(grpc.StatusCode.INTERNAL, True), (grpc.StatusCode.UNKNOWN, True), (grpc.StatusCode.INVALID_ARGUMENT, False)],
)
async def test_refused_creation_costs_an_attempt_or_the_task(code: grpc.StatusCode, is_retried: bool) -> None:  # noqa: FBT001
    service = Service()
    service.fail("CreateTask", code, "no such table")
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(retries=1))
    assert status.outcome is (Outcome.COMPLETED if is_retried else Outcome.FAILED)
    assert service.calls["CreateTask"] == (2 if is_retried else 1)
    if not is_retried:
        assert status.error is not None
        assert status.error.message == f"failed to create task from connector with {code.name}: no such table"


async def test_hanging_look_costs_no_other_job_its_looks() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    service.hang("GetTask", 1)
    deployment = {"timeouts": {"GetTask": "300ms"}}
    async with serving(service) as server, engine_at(server.endpoint, deployment=deployment) as engine:
        with anyio.fail_after(20):
            first = await submit(engine, run_name="first")
            await service.until(lambda: service.calls["GetTask"] == 1)
            second = await submit(engine, run_name="second")
            await service.until(lambda: len(service.looked_at) == 2)
            service.answer(phase=PHASES.SUCCEEDED)
            for key in (first, second):
                assert (await engine.wait(key)).outcome is Outcome.COMPLETED
