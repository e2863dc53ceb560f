"""The cluster against a dict: any order of writes, in any company, with outages and restarts between."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from propfan.engine.cluster import TASK_ACTION, ObservedObject, WatchEventType
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.embedded.watching import Watch
from propfan.pluginmachinery.errors import AlreadyExistsError, ApiError, InvalidError, NotFoundError, UnavailableError
from tests.contract.objects import body, content

_T = TypeVar("_T")
HOLD = "example.org/hold"
NAMESPACE = "n"


class Thing(msgspec.Struct):
    spec: dict[str, int]
    status: dict[str, int]
    labels: dict[str, str]
    is_held: bool
    is_deleted: bool = False


class Write(msgspec.Struct, frozen=True):
    """``value`` of ``None`` removes."""

    verb: str
    name: str
    key: str
    value: int | None


_writes = st.builds(
    Write,
    st.sampled_from(["create", "create held", "spec", "status", "label", "hold", "release", "delete"]),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["x", "y"]),
    st.none() | st.integers(0, 2),
)


def expected(things: dict[str, Thing], write: Write) -> type[ApiError] | None:
    """Applies the write to the model; the error that it must have instead."""
    thing = things.get(write.name)
    if write.verb.startswith("create"):
        if thing is not None:
            return AlreadyExistsError
        labels = {} if write.value is None else {write.key: str(write.value)}
        things[write.name] = Thing({"size": 1}, {}, labels, write.verb == "create held")
        return None
    if thing is None:
        return NotFoundError
    if write.verb in ("spec", "status"):
        members = thing.spec if write.verb == "spec" else thing.status
        if write.value is None:
            members.pop(write.key, None)
        else:
            members[write.key] = write.value
    elif write.verb == "label":
        thing.labels.pop(write.key, None)
        if write.value is not None:
            thing.labels[write.key] = str(write.value)
    elif write.verb == "hold":
        if thing.is_deleted and not thing.is_held:
            return InvalidError
        thing.is_held = True
    elif write.verb == "release":
        thing.is_held = False
    else:
        thing.is_deleted = True
    if thing.is_deleted and not thing.is_held:
        del things[write.name]
    return None


def call(cluster: EmbeddedCluster, write: Write) -> Coroutine[Any, Any, object]:
    kind, name, value = TASK_ACTION, write.name, write.value
    match write.verb:
        case "create" | "create held":
            labels = {} if value is None else {write.key: str(value)}
            finalizers = [HOLD] if write.verb == "create held" else []
            return cluster.create(kind, body(kind, NAMESPACE, name, labels=labels, finalizers=finalizers))
        case "spec":
            return cluster.patch(kind, NAMESPACE, name, {"spec": {write.key: value}})
        case "status":
            return cluster.patch(kind, NAMESPACE, name, {"status": {write.key: value}}, subresource="status")
        case "label":
            label = None if value is None else str(value)
            return cluster.patch(kind, NAMESPACE, name, {"metadata": {"labels": {write.key: label}}})
        case "hold":
            return cluster.patch(kind, NAMESPACE, name, {"metadata": {"finalizers": [HOLD]}})
        case "release":
            return cluster.patch(kind, NAMESPACE, name, {"metadata": {"finalizers": None}})
        case _:
            return cluster.delete(kind, NAMESPACE, name)


async def outcomes_of(calls: Sequence[Coroutine[Any, Any, object]]) -> Sequence[type[ApiError] | None]:
    """Makes the calls in one turn of the loop, in their order."""
    outcomes: list[type[ApiError] | None] = [None] * len(calls)

    async def run(number: int, made: Awaitable[object]) -> None:
        try:
            await made
        except ApiError as error:
            outcomes[number] = type(error)

    async with anyio.create_task_group() as tasks:
        for number, made in enumerate(calls):
            tasks.start_soon(run, number, made)
    return outcomes


class EmbeddedAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, Thing] = {}
        self.seen: dict[str, ObservedObject] = {}
        self.labelled: dict[str, ObservedObject] = {}
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()

    def do(self, made: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        return self.runner.run(made())

    @initialize()
    def open(self) -> None:
        self.do(self._open)

    async def _open(self) -> None:
        self.opened = EmbeddedCluster.open(self.folder / "cluster.db")
        self.cluster = await self.opened.__aenter__()
        version = (await self.cluster.list(TASK_ACTION)).resource_version
        self.everything = self.cluster.watch(TASK_ACTION, resource_version=version)
        self.selected = self.cluster.watch(TASK_ACTION, labels={"x": "1"}, resource_version=version)
        await self.everything.__aenter__()
        await self.selected.__aenter__()

    async def _close(self) -> None:
        await self.opened.__aexit__(None, None, None)

    @rule(write=_writes)
    def write(self, write: Write) -> None:
        async def run() -> Sequence[type[ApiError] | None]:
            return await outcomes_of([call(self.cluster, write)])

        assert self.do(run) == [expected(self.things, write)]

    @rule(writes=st.lists(_writes, min_size=2, max_size=6, unique_by=lambda write: write.name))
    def write_at_once(self, writes: list[Write]) -> None:
        async def run() -> Sequence[type[ApiError] | None]:
            return await outcomes_of([call(self.cluster, write) for write in writes])

        assert self.do(run) == [expected(self.things, write) for write in writes]

    @rule(writes=st.lists(_writes, min_size=1, max_size=6))
    def write_during_an_outage(self, writes: list[Write]) -> None:
        async def run() -> Sequence[type[ApiError] | None]:
            connection = self.cluster._store._connection
            connection.execute("PRAGMA query_only = 1")
            outcomes = await outcomes_of([call(self.cluster, write) for write in writes])
            connection.execute("PRAGMA query_only = 0")
            return outcomes

        for write, outcome in zip(writes, self.do(run), strict=True):
            copy = msgspec.convert(msgspec.to_builtins(self.things), dict[str, Thing])
            if outcome is None:
                # It changed nothing, so that there was nothing to commit.
                assert expected(copy, write) is None
                assert copy == self.things
            elif outcome is not UnavailableError:
                assert expected(copy, write) is outcome

    @rule()
    def restart(self) -> None:
        self.do(self._close)
        self.do(self._open)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "cluster"):
            return
        listed = self.do(lambda: self.cluster.list(TASK_ACTION)).items
        found = {
            item.metadata.name: Thing(
                content(item)["spec"],
                content(item).get("status", {}),
                dict(item.metadata.labels),
                HOLD in item.metadata.finalizers,
                item.metadata.deletion_timestamp is not None,
            )
            for item in listed
        }
        assert found == self.things
        for item in listed:
            assert msgspec.json.decode(msgspec.json.encode(item.metadata)) == content(item)["metadata"]
        selected = self.do(lambda: self.cluster.list(TASK_ACTION, labels={"x": "1"})).items
        assert selected == [item for item in listed if item.metadata.labels.get("x") == "1"]
        self.do(lambda: self._follow(self.everything, self.seen))
        self.do(lambda: self._follow(self.selected, self.labelled))
        assert self.seen == {item.metadata.name: item for item in listed}
        assert self.labelled == {item.metadata.name: item for item in selected}

    async def _follow(self, watch: Watch, seen: dict[str, ObservedObject]) -> None:
        """Reads what there is: everything that was answered can be read at once."""
        with anyio.move_on_after(0):
            async for batch in watch:
                for event in batch:
                    name = event.object.metadata.name
                    if event.type is WatchEventType.DELETED:
                        del seen[name]
                    else:
                        assert (name in seen) == (event.type is WatchEventType.MODIFIED)
                        seen[name] = event.object

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.do(self._close)
        self.runner.close()
        shutil.rmtree(self.folder)


TestEmbeddedAgainstModel = EmbeddedAgainstModel.TestCase
TestEmbeddedAgainstModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
