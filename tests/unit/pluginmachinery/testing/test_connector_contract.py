"""The contracts let good connectors pass, and name what is wrong with bad ones."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import pytest
from flyteidl2.core import types_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connector,
    ConnectorSetup,
    HttpResponse,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import TransientError
from propfan.pluginmachinery.testing import (
    ConnectorContract,
    FakeHttp,
    HttpCall,
    JobStory,
    SyncConnectorContract,
    connector_setup,
    connector_task,
    http_answer,
    literal_map,
    task_template,
)

URL = "https://sums.example"


class Sum(msgspec.Struct):
    fail: bool = False


class SumMeta(ResourceMeta, frozen=True):
    job: str


class Job(msgspec.Struct):
    state: str
    sum: int = 0


class SumConnector(AsyncConnector[SumMeta]):
    name = "Sum Connector"
    categories = (TaskCategory("sum"),)
    meta_type = SumMeta

    async def create(self, task: TaskRequest) -> SumMeta:
        spec = task.custom(Sum)
        token = await self.get_secret("sum_token", task.connection)
        meta = SumMeta(task.unique_name())
        await self._ask("PUT", meta.job, token, {"numbers": list(task.inputs().values()), "fail": spec.fail})
        return meta

    async def get(self, meta: SumMeta, job: JobContext) -> Resource:
        answer = await self._ask("GET", meta.job, await self.get_secret("sum_token", job.connection))
        if answer.status == 404:
            return Resource(RemotePhase.ABORTED, "the job is gone")
        found = answer.json(Job)
        if found.state == "done":
            return Resource(RemotePhase.SUCCEEDED, outputs={"sum": found.sum})
        return Resource(RemotePhase.FAILED if found.state == "failed" else RemotePhase.RUNNING, found.state)

    async def delete(self, meta: SumMeta, job: JobContext) -> None:
        await self._ask("DELETE", meta.job, await self.get_secret("sum_token", job.connection))

    async def _ask(self, method: str, job: str, token: str, json: Any = None) -> HttpResponse:
        headers = {"authorization": f"Bearer {token}"}
        answer = await self.setup.http.request(method, f"{URL}/jobs/{job}", headers=headers, json=json)
        if answer.status >= 500:
            raise TransientError("", f"{URL}: status {answer.status}")
        return answer


class SumService:
    """Jobs that are over at the second look."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}

    def __call__(self, call: HttpCall) -> HttpResponse:
        assert call.headers["authorization"] == "Bearer s3cret"
        job = call.url.rsplit("/", 1)[1]
        match call.method:
            case "PUT":
                self.jobs.setdefault(job, {"looks": 0, **msgspec.json.decode(call.body)})
                return http_answer(200)
            case "DELETE":
                return http_answer(200 if self.jobs.pop(job, None) else 404)
        found = self.jobs.get(job)
        if found is None:
            return http_answer(404)
        found["looks"] += 1
        if found["looks"] < 2:
            return http_answer(json={"state": "running"})
        if found["fail"]:
            return http_answer(json={"state": "failed"})
        return http_answer(json={"state": "done", "sum": sum(found["numbers"])})


def sum_task(*, fail: bool = False) -> TaskRequest:
    integer = types_pb2.INTEGER
    template = task_template(
        "sum", custom={"fail": fail}, inputs={"a": integer, "b": integer}, outputs={"sum": integer}
    )
    return connector_task(template, literal_map(a=20, b=22))


class SumStories:
    connector_class: ClassVar[type[Connector]] = SumConnector
    stories: ClassVar[Sequence[JobStory]] = (
        JobStory("adds", sum_task(), RemotePhase.SUCCEEDED, {"sum": 42}),
        JobStory("fails", sum_task(fail=True), RemotePhase.FAILED, message="failed"),
    )

    @pytest.fixture
    def setup_ctx(self) -> ConnectorSetup:
        return connector_setup(http=FakeHttp(SumService()), secrets={"sum_token": "s3cret"})


class TestSumConnector(SumStories, ConnectorContract):
    pass


class Greeter(SyncConnector):
    name = "Greeter"
    categories = (TaskCategory("greet"),)

    def do(self, task: TaskRequest) -> Resource:
        return Resource(RemotePhase.SUCCEEDED, outputs={"greeting": f"hello {task.inputs().get('name')}"})


class TestGreeter(SyncConnectorContract):
    connector_class = Greeter
    stories = (
        JobStory(
            "greets",
            connector_task(task_template("greet", outputs={"greeting": types_pb2.STRING}), literal_map(name="you")),
            RemotePhase.SUCCEEDED,
            {"greeting": "hello you"},
        ),
    )

    @pytest.fixture
    def setup_ctx(self) -> ConnectorSetup:
        return connector_setup()


class Forgetful(SumConnector):
    """Starts another job each time."""

    started = 0

    async def create(self, task: TaskRequest) -> SumMeta:
        meta = await super().create(task)
        type(self).started += 1
        return SumMeta(f"{meta.job}-{self.started}")


class Talkative(SumConnector):
    """Keeps the secret in the task's object."""

    async def create(self, task: TaskRequest) -> SumMeta:
        meta = await super().create(task)
        return SumMeta(f"{meta.job}/s3cret")


class Impatient(SumConnector):
    """Takes a job that is gone for an error."""

    async def get(self, meta: SumMeta, job: JobContext) -> Resource:
        resource = await super().get(meta, job)
        if resource.phase is RemotePhase.ABORTED:
            raise LookupError(meta.job)
        return resource


class Secretive(SumConnector):
    """Does not say which secret it lacks."""

    async def get_secret(self, key: str, connection: Any = None, group: str = "") -> str:
        try:
            return await super().get_secret(key, connection, group)
        except Exception as error:
            raise TransientError("", "not now") from error


class Careless(SumConnector):
    """Trusts what the task brings."""

    async def create(self, task: TaskRequest) -> SumMeta:
        assert dict(task.template.custom)["fail"] in (True, False)
        return await super().create(task)


class Meddler(SumConnector):
    """Writes into the template."""

    async def create(self, task: TaskRequest) -> SumMeta:
        task.template.custom.update({"seen": True})
        return await super().create(task)


FAULTS: list[tuple[type[SumConnector], str, type[BaseException], str | None]] = [
    (Forgetful, "test_create_again_finds_the_same_job", AssertionError, None),
    (Talkative, "test_meta_is_json_without_secrets_that_a_later_version_can_read", AssertionError, "a secret is kept"),
    (Impatient, "test_delete_succeeds_at_any_time_and_again", LookupError, None),
    (Secretive, "test_missing_secret_is_named", AssertionError, "sum_token"),
    (Careless, "test_custom_of_any_shape_raises_only_errors_that_say_what_to_do", KeyError, "fail"),
    (Meddler, "test_template_and_inputs_are_not_changed", AssertionError, None),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("loader", "test", "error", "text"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
async def test_fault_is_found(
    loader: type[SumConnector], test: str, error: type[BaseException], text: str | None
) -> None:
    contract = type("Faulty", (SumStories, ConnectorContract), {"connector_class": loader})()
    setup_ctx = connector_setup(http=FakeHttp(SumService()), secrets={"sum_token": "s3cret"})
    given = {"setup_ctx": setup_ctx, "connector": loader(setup_ctx), "first": SumStories.stories[0]}
    method = getattr(contract, test)
    arguments = {name: given[name] for name in inspect.signature(method).parameters}
    with pytest.raises(error, match=text):
        await method(**arguments)


def test_contract_without_a_story_is_refused() -> None:
    with pytest.raises(TypeError, match="TestNothing must set 'stories'"):
        type("TestNothing", (ConnectorContract,), {"connector_class": SumConnector})
