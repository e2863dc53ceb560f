from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest
from flyteidl2.core import types_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    SyncConnector,
    TaskCategory,
    TaskRequest,
    local,
)
from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.pluginmachinery.testing import connector_setup, connector_task, task_template

pytestmark = pytest.mark.anyio

Phase = RemotePhase
RUNNING = Resource(Phase.RUNNING)
TASK = connector_task(task_template("job", outputs={"n": types_pb2.INTEGER}))


class Meta(ResourceMeta, frozen=True):
    id: str


class Scripted(AsyncConnector[Meta]):
    """Answers with what it is told to, one after the other; the last one stays."""

    name = "Scripted"
    categories = (TaskCategory("job"),)
    meta_type = Meta

    def __init__(self, *answers: Resource | Exception) -> None:
        super().__init__(connector_setup())
        self.answers = list(answers)
        self.deleted: list[str] = []
        self.is_looked_at = anyio.Event()
        self.threads: set[int] = set()

    async def create(self, task: TaskRequest) -> Meta:
        return Meta(task.unique_name())

    def get(self, meta: Meta, job: JobContext) -> Resource:
        self.threads.add(threading.get_ident())
        anyio.from_thread.run_sync(self.is_looked_at.set)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def delete(self, meta: Meta, job: JobContext) -> None:
        self.deleted.append(meta.id)


run = partial(local.run, poll_interval_s=0)


async def test_a_job_is_looked_at_until_it_is_over() -> None:
    done = Resource(Phase.SUCCEEDED, outputs={"n": 1})
    connector = Scripted(Resource(Phase.QUEUED), RUNNING, done)
    seen: list[Resource] = []
    assert await run(connector, TASK, on_look=seen.append) is done
    assert [look.phase for look in seen] == [Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDED]
    assert connector.deleted == []
    assert threading.get_ident() not in connector.threads


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED])
async def test_a_failure_is_an_end_and_no_error(phase: RemotePhase) -> None:
    connector = Scripted(RUNNING, Resource(phase, "why"))
    with anyio.fail_after(10):
        assert (await run(connector, TASK)).message == "why"
    assert connector.deleted == []


async def test_some_failed_looks_are_forgiven_and_then_the_job_is_deleted() -> None:
    down = TransientError("", "down")
    done = Resource(Phase.SUCCEEDED, outputs={"n": 1})
    assert await run(Scripted(down, down, RUNNING, down, down, done), TASK, max_failed_looks=2) is done
    connector = Scripted(down)
    with pytest.raises(TransientError):
        await run(connector, TASK, max_failed_looks=2)
    assert connector.deleted == [TASK.unique_name()]


async def test_a_run_that_takes_too_long_deletes_its_job() -> None:
    connector = Scripted(RUNNING)
    with pytest.raises(TimeoutError, match=r"task 'sample' took longer than 0\.05 s; its job was deleted"):
        await run(connector, TASK, timeout_s=0.05)
    assert connector.deleted == [TASK.unique_name()]


async def test_a_cancelled_run_deletes_its_job() -> None:
    connector = Scripted(RUNNING)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(local.run, connector, TASK, poll_interval_s=60))
        await connector.is_looked_at.wait()
        tasks.cancel_scope.cancel()
    assert connector.deleted == [TASK.unique_name()]


async def test_a_run_that_is_cancelled_while_it_creates_deletes_what_was_created() -> None:
    class Slow(Scripted):
        began, may_end = anyio.Event(), anyio.Event()

        async def create(self, task: TaskRequest) -> Meta:
            self.began.set()
            await self.may_end.wait()
            return await super().create(task)

    connector = Slow(RUNNING)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(run, connector, TASK))
        await connector.began.wait()
        tasks.cancel_scope.cancel()
        connector.may_end.set()
    assert connector.deleted == [TASK.unique_name()]


async def test_a_create_that_fails_is_told_as_it_is() -> None:
    class Broken(Scripted):
        async def create(self, task: TaskRequest) -> Meta:
            raise LookupError("no such queue")

    connector = Broken(RUNNING)
    with pytest.raises(LookupError, match="no such queue"):
        await run(connector, TASK)
    assert connector.deleted == []


async def test_outputs_are_held_against_the_interface() -> None:
    with pytest.raises(PermanentError, match=r"output 'n': must be int \(declared INTEGER\), is a str"):
        await run(Scripted(Resource(Phase.SUCCEEDED, outputs={"n": "one"})), TASK)


async def test_an_answer_that_is_nonsense_ends_the_run_and_the_job() -> None:
    connector = Scripted(Resource(77))  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="phase must be a RemotePhase, is 77"):
        await run(connector, TASK)
    assert connector.deleted == [TASK.unique_name()]


class Answering(SyncConnector):
    name = "Answering"
    categories = (TaskCategory("job"),)

    def __init__(self, answer: Resource) -> None:
        super().__init__(connector_setup())
        self.answer = answer

    def do(self, task: TaskRequest) -> Resource:
        return self.answer


async def test_a_synchronous_connector_does_all_at_once() -> None:
    done = Resource(Phase.SUCCEEDED, outputs={"n": 1})
    seen: list[Resource] = []
    assert await run(Answering(done), TASK, on_look=seen.append) is done
    assert seen == [done]


async def test_a_synchronous_connector_must_end() -> None:
    with pytest.raises(PermanentError, match="connector 'Answering': do must end with a terminal phase"):
        await run(Answering(RUNNING), TASK)
