"""The tests that every connector passes.

Subclass ``ConnectorContract`` (or ``SyncConnectorContract``) in a test module, say how the connector is made
and name some tasks, and run pytest::

    class TestQueryConnector(ConnectorContract):
        connector_class = QueryConnector
        stories = (JobStory("selects", connector_task(template), RemotePhase.SUCCEEDED, {"rows": 3}),)

        @pytest.fixture
        def setup_ctx(self) -> ConnectorSetup:
            return connector_setup(http=FakeHttp(service), secrets={"token": "s3cret"})

The service behind it may be real or a fake: what counts is that jobs outlive the connector that made them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

import anyio
import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connector,
    ConnectorRegistry,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
    local,
    resources,
    values,
    wire,
)
from propfan.pluginmachinery.connector.registry import ConnectorOffer
from propfan.pluginmachinery.errors import DecodeError, PropfanError
from propfan.pluginmachinery.testing.connector_fakes import FailingHttp
from propfan.pluginmachinery.testing.fakes import FakeSecrets

PICKLE: Final = b"\x80\x04}\x94\x8c\x02id\x94\x8c\x01x\x94s."
"""``{"id": "x"}``, pickled."""

NONSENSE: Final = (b"", b"null", b"[]", b"17", b'"x"', b"\xff\xfe", b"{", b"[" * 10_000, PICKLE)
"""Bytes that are no meta of anybody."""

SHUFFLED_CUSTOM: Final[tuple[Mapping[str, Any], ...]] = ({}, {"unknown": [{"x": None}]})
"""Messages that no SDK sends, beside those that are made from the task's own."""


class JobStory(msgspec.Struct, frozen=True):
    """One task, and how it ends.

    Attributes:
        name: Part of the test's name.
        phase: The last one.
        outputs: Of a success, as Python's values; not compared when ``None``.
        message: Part of the last message.
    """

    name: str
    task: TaskRequest
    phase: RemotePhase
    outputs: Mapping[str, Any] | None = None
    message: str = ""


class _Contract:
    """What both contracts have.

    Attributes:
        connector_class: Made with a ConnectorSetup.
        stories: Tasks and how they end; at least one succeeds.
    """

    connector_class: ClassVar[type[Connector]]
    stories: ClassVar[Sequence[JobStory]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__name__.startswith("Test"):
            for name in ("connector_class", "stories"):
                if not getattr(cls, name, None):
                    raise TypeError(f"{cls.__name__} must set '{name}': see {__name__}")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        stories = type(self).stories
        if "story" in metafunc.fixturenames:
            metafunc.parametrize("story", stories, ids=[story.name for story in stories])
        if "first" in metafunc.fixturenames:
            metafunc.parametrize("first", stories[:1], ids=[story.name for story in stories[:1]])

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def setup_ctx(self) -> ConnectorSetup:
        """What the connector is made with; override it to give a service and secrets."""
        raise NotImplementedError("override the fixture 'setup_ctx': connector_setup(...) makes one")

    @pytest.fixture(autouse=True)
    async def _closing(self, anyio_backend: str, setup_ctx: ConnectorSetup) -> AsyncIterator[None]:
        """Closes the test's connectors while their service is still there."""
        yield
        for connector in self._made():
            await connector.close()

    def _make(self, setup_ctx: ConnectorSetup) -> Connector:
        connector = ConnectorOffer(type(self).connector_class, "", type(self).__name__).make(setup_ctx)
        self._made().append(connector)
        return connector

    def _made(self) -> list[Connector]:
        made: list[Connector] = vars(self).setdefault("_connectors", [])
        return made

    def _check(self, connector: Connector, story: JobStory, resource: Resource) -> None:
        """The last answer is what the story says."""
        assert resource.phase == story.phase, resource
        assert story.message in resource.message
        has_outputs = resource.outputs is not None
        message = wire.resource_message(
            connector.name, resource, story.task.template.interface if has_outputs else None
        )
        if story.outputs is not None:
            named = values.to_outputs(connector.name, story.outputs, story.task.template.interface)
            assert message.outputs.literals == named.literals

    def test_connector_is_accepted(self, setup_ctx: ConnectorSetup) -> None:
        connector = self._make(setup_ctx)
        registry = ConnectorRegistry([connector])
        for story in self.stories:
            template = story.task.template
            category = TaskCategory(template.type, template.task_type_version)
            assert registry.get_connector(category.name, category.version) is connector

    def test_a_story_succeeds(self) -> None:
        assert any(story.phase is RemotePhase.SUCCEEDED for story in self.stories), "no story ends well"

    def _spoilt(self, task: TaskRequest) -> Sequence[TaskRequest]:
        """The same task with ``custom`` that no SDK makes: each value of another type, or gone."""
        strange: tuple[Any, ...] = (None, -1, "", "\u0000nonsense", [], {"x": 1})
        customs: list[Mapping[str, Any]] = [*SHUFFLED_CUSTOM]
        for name in task.template.custom:
            for value in strange:
                changed = tasks_pb2.TaskTemplate()
                changed.CopyFrom(task.template)
                changed.custom.update({name: value})
                customs.append(dict(changed.custom))
        spoilt = []
        for custom in customs:
            template = tasks_pb2.TaskTemplate()
            template.CopyFrom(task.template)
            template.custom.Clear()
            template.custom.update(dict(custom))
            spoilt.append(msgspec.structs.replace(task, template=template))
        return spoilt


class ConnectorContract(_Contract):
    """Subclass it under a name that starts with ``Test``, and set what has no default.

    Attributes:
        max_looks: A job that is not over after so many is stuck.
    """

    max_looks: ClassVar[int] = 200

    async def between_looks(self) -> None:
        """What lets time pass for the service; override it for one that needs some."""
        await anyio.lowlevel.checkpoint()

    @pytest.fixture
    def connector(self, setup_ctx: ConnectorSetup) -> AsyncConnector[Any]:
        return self._make_async(setup_ctx)

    def _make_async(self, setup_ctx: ConnectorSetup) -> AsyncConnector[Any]:
        connector = self._make(setup_ctx)
        assert isinstance(connector, AsyncConnector), "a SyncConnector has SyncConnectorContract"
        return connector

    async def _create(self, connector: AsyncConnector[Any], task: TaskRequest) -> bytes:
        meta = await local.call(partial(connector.create, task))
        assert isinstance(meta, connector.meta_type)
        return resources.encode_meta(connector.name, meta)

    def _meta(self, connector: AsyncConnector[Any], content: bytes) -> Any:
        return resources.decode_meta(connector.name, connector.meta_type, content)

    async def _get(self, connector: AsyncConnector[Any], content: bytes, task: TaskRequest) -> Resource:
        job = JobContext(task.output_prefix, task.connection)
        resource = await local.call(partial(connector.get, self._meta(connector, content), job))
        wire.resource_message(connector.name, resource)
        return resource

    async def _delete(self, connector: AsyncConnector[Any], content: bytes, task: TaskRequest) -> None:
        job = JobContext(connection=task.connection)
        await local.call(partial(connector.delete, self._meta(connector, content), job))

    async def _look_to_the_end(self, connector: AsyncConnector[Any], content: bytes, task: TaskRequest) -> Resource:
        for _ in range(self.max_looks):
            resource = await self._get(connector, content, task)
            if RemotePhase(resource.phase).is_terminal:
                return resource
            await self.between_looks()
        pytest.fail(f"not over after {self.max_looks} looks")

    @pytest.mark.anyio
    async def test_story_ends_as_expected(self, connector: AsyncConnector[Any], story: JobStory) -> None:
        content = await self._create(connector, story.task)
        self._check(connector, story, await self._look_to_the_end(connector, content, story.task))
        self._check(connector, story, await self._get(connector, content, story.task))

    @pytest.mark.anyio
    async def test_any_replica_can_look_and_delete(self, setup_ctx: ConnectorSetup, story: JobStory) -> None:
        content = await self._create(self._make_async(setup_ctx), story.task)
        resource = await self._look_to_the_end(self._make_async(setup_ctx), content, story.task)
        self._check(self._make_async(setup_ctx), story, resource)
        await self._delete(self._make_async(setup_ctx), content, story.task)

    @pytest.mark.anyio
    async def test_create_again_finds_the_same_job(self, setup_ctx: ConnectorSetup, first: JobStory) -> None:
        """As after a caller that died before it kept the answer."""
        connector = self._make_async(setup_ctx)
        content = await self._create(connector, first.task)
        assert await self._create(connector, first.task) == content
        assert await self._create(self._make_async(setup_ctx), first.task) == content
        await self._delete(connector, content, first.task)

    @pytest.mark.anyio
    async def test_delete_succeeds_at_any_time_and_again(self, connector: AsyncConnector[Any], first: JobStory) -> None:
        content = await self._create(connector, first.task)
        await self._delete(connector, content, first.task)
        await self._delete(connector, content, first.task)
        resource = await self._look_to_the_end(connector, content, first.task)
        assert RemotePhase(resource.phase).is_terminal, "a job that is gone is told as ABORTED or FAILED"

    @pytest.mark.anyio
    async def test_delete_succeeds_after_the_end(self, connector: AsyncConnector[Any], story: JobStory) -> None:
        content = await self._create(connector, story.task)
        await self._look_to_the_end(connector, content, story.task)
        await self._delete(connector, content, story.task)
        await self._delete(connector, content, story.task)

    @pytest.mark.anyio
    async def test_create_can_be_cancelled(self, connector: AsyncConnector[Any], first: JobStory) -> None:
        """The next call finds whatever the one that was cut off has made."""
        for steps in range(4):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._create, connector, first.task)
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        content = await self._create(connector, first.task)
        assert await self._create(connector, first.task) == content
        await self._delete(connector, content, first.task)

    @pytest.mark.anyio
    async def test_meta_is_json_without_secrets_that_a_later_version_can_read(
        self, setup_ctx: ConnectorSetup, connector: AsyncConnector[Any], first: JobStory
    ) -> None:
        content = await self._create(connector, first.task)
        known = [*first.task.connection.secrets.values()]
        if isinstance(setup_ctx.secrets, FakeSecrets):
            known += setup_ctx.secrets.values.values()
        assert [value for value in known if value.encode() in content] == [], "a secret is kept in the task's object"
        meta = self._meta(connector, content)
        assert resources.encode_meta(connector.name, meta) == content
        members = msgspec.json.decode(content, type=dict[str, Any])
        newer = msgspec.json.encode({**members, "field_of_a_later_version": [1]})
        assert resources.encode_meta(connector.name, self._meta(connector, newer)) == content
        await self._delete(connector, content, first.task)

    @pytest.mark.parametrize("content", NONSENSE, ids=[repr(content[:12]) for content in NONSENSE])
    def test_nonsense_is_refused_as_meta(self, connector: AsyncConnector[Any], content: bytes) -> None:
        with pytest.raises(DecodeError, match=r"resource meta"):
            self._meta(connector, content)

    @pytest.mark.anyio
    async def test_meta_of_no_job_is_survived(self, connector: AsyncConnector[Any], first: JobStory) -> None:
        """A job of which the service knows nothing: its texts are others."""
        content = await self._create(connector, first.task)
        await self._delete(connector, content, first.task)
        members = msgspec.json.decode(content, type=dict[str, Any])
        for name, value in members.items():
            if isinstance(value, str):
                strange = msgspec.json.encode({**members, name: "zz-no-such-thing"})
                for method in (self._get, self._delete):
                    try:
                        await method(connector, strange, first.task)
                    except PropfanError:
                        continue

    @pytest.mark.anyio
    async def test_template_and_inputs_are_not_changed(self, connector: AsyncConnector[Any], first: JobStory) -> None:
        before = (first.task.template.SerializeToString(deterministic=True), first.task.literals.SerializeToString())
        content = await self._create(connector, first.task)
        after = (first.task.template.SerializeToString(deterministic=True), first.task.literals.SerializeToString())
        assert after == before
        await self._delete(connector, content, first.task)

    @pytest.mark.anyio
    async def test_custom_of_any_shape_raises_only_errors_that_say_what_to_do(
        self, connector: AsyncConnector[Any], first: JobStory
    ) -> None:
        for task in self._spoilt(first.task):
            try:
                content = await self._create(connector, task)
            except PropfanError:
                continue
            await self._delete(connector, content, task)

    @pytest.mark.anyio
    async def test_service_that_is_down_raises_only_errors_that_say_what_to_do(
        self, setup_ctx: ConnectorSetup, first: JobStory
    ) -> None:
        connector = self._make_async(msgspec.structs.replace(setup_ctx, http=FailingHttp()))
        try:
            content = await self._create(connector, first.task)
            await self._get(connector, content, first.task)
            await self._delete(connector, content, first.task)
        except PropfanError:
            return

    @pytest.mark.anyio
    async def test_missing_secret_is_named(self, setup_ctx: ConnectorSetup, first: JobStory) -> None:
        secrets = setup_ctx.secrets
        keys = [*(secrets.values if isinstance(secrets, FakeSecrets) else ()), *first.task.connection.secrets]
        if not keys:
            pytest.skip("the connector is made without secrets")
        connector = self._make_async(msgspec.structs.replace(setup_ctx, secrets=FakeSecrets({})))
        task = msgspec.structs.replace(
            first.task, connection=msgspec.structs.replace(first.task.connection, secrets={})
        )
        try:
            content = await self._create(connector, task)
            await self._get(connector, content, task)
        except PropfanError as error:
            assert any(key in str(error) for key in keys), f"none of {keys} is named in: {error}"  # noqa: PT017
        else:
            pytest.fail("created and looked at without any of its secrets")


class SyncConnectorContract(_Contract):
    """Subclass it under a name that starts with ``Test``, and set what has no default."""

    @pytest.fixture
    def connector(self, setup_ctx: ConnectorSetup) -> SyncConnector:
        return self._make_sync(setup_ctx)

    def _make_sync(self, setup_ctx: ConnectorSetup) -> SyncConnector:
        connector = self._make(setup_ctx)
        assert isinstance(connector, SyncConnector), "an AsyncConnector has ConnectorContract"
        return connector

    async def _do(self, connector: SyncConnector, task: TaskRequest) -> Resource:
        resource = await local.call(partial(connector.do, task))
        wire.resource_message(connector.name, resource)
        assert RemotePhase(resource.phase).is_terminal, "do ends the task"
        return resource

    @pytest.mark.anyio
    async def test_story_ends_as_expected(self, connector: SyncConnector, story: JobStory) -> None:
        self._check(connector, story, await self._do(connector, story.task))

    @pytest.mark.anyio
    async def test_do_again_ends_the_same(self, connector: SyncConnector, story: JobStory) -> None:
        """As after a caller that died before it kept the answer."""
        await self._do(connector, story.task)
        self._check(connector, story, await self._do(connector, story.task))

    @pytest.mark.anyio
    async def test_template_and_inputs_are_not_changed(self, connector: SyncConnector, first: JobStory) -> None:
        before = (first.task.template.SerializeToString(deterministic=True), first.task.literals.SerializeToString())
        await self._do(connector, first.task)
        after = (first.task.template.SerializeToString(deterministic=True), first.task.literals.SerializeToString())
        assert after == before

    @pytest.mark.anyio
    async def test_custom_of_any_shape_raises_only_errors_that_say_what_to_do(
        self, connector: SyncConnector, first: JobStory
    ) -> None:
        for task in self._spoilt(first.task):
            try:
                await self._do(connector, task)
            except PropfanError:
                continue

    @pytest.mark.anyio
    async def test_service_that_is_down_raises_only_errors_that_say_what_to_do(
        self, setup_ctx: ConnectorSetup, first: JobStory
    ) -> None:
        connector = self._make_sync(msgspec.structs.replace(setup_ctx, http=FailingHttp()))
        try:
            await self._do(connector, first.task)
        except PropfanError:
            return
