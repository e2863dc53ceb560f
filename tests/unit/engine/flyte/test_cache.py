"""Flyte's cache, asked at the generated servers of its CacheService, in both versions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.cacheservice import cacheservice_pb2
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2

from propfan.engine.clock import SystemClock
from propfan.engine.flyte.cache import FlyteCache
from propfan.engine.flyte.cache_key import cache_key, object_hash
from propfan.engine.flyte.connect import ConnectClient
from propfan.engine.task_cache import CACHE_POPULATED, CACHE_PUT_FAILURE
from propfan.pluginmachinery.errors import BadTaskSpecificationError, StorageError, TransientError
from propfan.pluginmachinery.iopaths import attempt_paths
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.taskaction import CACHE_OVERWRITE_ANNOTATION, TaskAction, TaskActionSpec
from propfan.pluginmachinery.testing.builders import literal_map, task_template
from propfan.pluginmachinery.testing.fakes import InMemoryStore
from tests.unit.engine.flyte.services import CacheService, served

pytestmark = pytest.mark.anyio

HEARTBEAT_S: Final = 0.05


class Inputs:
    def __init__(self, **values: Any) -> None:
        self._literals = literal_map(**values)

    async def read(self) -> literals_pb2.LiteralMap | None:
        return self._literals


class NoInputs:
    async def read(self) -> literals_pb2.LiteralMap | None:
        raise StorageError("s3://b/inputs.pb", "down")


def template(*, serializable: bool = False, **more: Any) -> tasks_pb2.TaskTemplate:
    made = task_template("container", image="i", inputs={"n": types_pb2.INTEGER}, **more)
    made.metadata.discoverable = True
    made.metadata.cache_serializable = serializable
    made.metadata.discovery_version = "1"
    return made


def action(run: str = "r1", **annotations: str) -> TaskAction:
    spec = TaskActionSpec(
        run_name=run, project="p", domain="d", action_name="a0", run_output_base=f"memory:///out/{run}/",
        input_uri="memory:///in", cache_key="v1",
    )  # fmt: skip
    meta = ObjectMeta(
        name=f"{run}-a0", namespace="ns", annotations={k.replace("_", "/"): v for k, v in annotations.items()}
    )
    return TaskAction(meta, spec)


@pytest.fixture(scope="module", params=["v2", "v1"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[CacheService, str]]:
    service = CacheService()
    with served(service.second_version if request.param == "v2" else service.first_version) as url:
        yield service, url


class Desk:
    def __init__(self, cache: FlyteCache, service: CacheService) -> None:
        self.cache = cache
        self.service = service
        self.store = cache._store

    async def look_up(self, run: str = "r1", *, inputs: Any = None, **settings: Any) -> Any:
        asked = action(run)
        return await self.cache.look_up(
            asked, template(**settings), inputs or Inputs(n=1), attempt_paths(asked, 1), owner=f"ns/{run}-a0"
        )

    async def leave(self, run: str = "r1", content: bytes = b"outputs", **annotations: str) -> str:
        """What a task does that has ended well."""
        done = action(run, **annotations)
        paths = attempt_paths(done, 1)
        await self.store.put(paths.output, content)
        return await self.cache.store(done, template(), Inputs(n=1), paths)

    async def until(self, is_so: Callable[[], object]) -> None:
        with anyio.fail_after(20):
            while not is_so():  # noqa: ASYNC110 - a server in another thread
                await anyio.sleep(0.005)

    async def until_extended(self, owner: str, times: int) -> None:
        await self.until(lambda: self.service.extended.count(owner) >= times)

    async def outputs(self, run: str) -> bytes:
        return await self.store.get(attempt_paths(action(run), 1).output)


@asynccontextmanager
async def desk(server: tuple[CacheService, str], store: Any = None) -> AsyncIterator[Desk]:
    service, url = server
    service.entries.clear()
    service.reservations.clear()
    service.extended.clear()
    service.refusal, service.refused = None, frozenset({"get", "put", "delete", "reserve", "release"})
    async with (
        ConnectClient.open(url, 5.0, "flyte.cache-url") as client,
        FlyteCache.open(
            client, store or InMemoryStore(), SystemClock(), organization="o", heartbeat_s=HEARTBEAT_S, limit_bytes=1000
        ) as cache,
    ):
        yield Desk(cache, service)


async def test_outputs_are_found_by_the_next_task(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        assert not (await it.look_up()).is_hit
        assert await it.leave() == CACHE_POPULATED
        assert (await it.look_up("r2")).is_hit
        assert await it.outputs("r2") == b"outputs"
        assert not (await it.look_up("r3", inputs=Inputs(n=2))).is_hit


async def test_an_entry_says_whose_outputs_it_has(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.leave()
        (entry,) = it.service.entries.values()
        assert entry.output_uri == attempt_paths(action(), 1).output
        assert entry.metadata.source_identifier == template().id
        values = dict(entry.metadata.key_map.values)
        assert (values["execution-name"], values["exec-node"], values["exec-attempt"]) == ("r1", "a0", "0")
        if it.service.scopes:
            scope = it.service.scopes[-1]
            assert (scope.org, scope.project, scope.domain) == ("o", "p", "d")


async def test_outputs_that_lie_in_the_entry_itself_are_taken(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        key = await cache_key(action(), template(), Inputs(n=1))
        it.service.entries[key] = cacheservice_pb2.CachedOutput(output_literals=literal_map(o0=7))
        assert (await it.look_up()).is_hit
        assert literals_pb2.LiteralMap.FromString(await it.outputs("r1")) == literal_map(o0=7)


async def test_outputs_that_are_gone_are_a_miss_and_replaced(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.leave("old")
        await it.store.put(attempt_paths(action("old"), 1).output, b"x" * 2000)  # more than is ever read
        assert not (await it.look_up("r2")).is_hit
        assert await it.leave("r2", b"new") == CACHE_POPULATED
        assert (await it.look_up("r3")).is_hit
        assert await it.outputs("r3") == b"new"


async def test_what_is_there_and_good_stays(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.leave("first", b"first")
        assert await it.leave("second", b"second") == CACHE_POPULATED
        await it.look_up("r3")
        assert await it.outputs("r3") == b"first"


async def test_fresh_outputs_replace_those_that_are_there(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.leave("first", b"first")
        await it.leave("second", b"second", **{CACHE_OVERWRITE_ANNOTATION.replace("/", "_"): "true"})
        await it.look_up("r3")
        assert await it.outputs("r3") == b"second"


async def test_entries_that_are_too_old_are_a_miss(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.leave()
        (entry,) = it.service.entries.values()
        entry.metadata.last_updated_at.seconds -= 100
        asked, young = action("r2"), template()
        young.metadata.cache_max_age.seconds = 50
        answer = await it.cache.look_up(asked, young, Inputs(n=1), attempt_paths(asked, 1), owner="ns/r2-a0")
        assert not answer.is_hit


async def test_of_two_tasks_one_waits(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        first = await it.look_up("r1", serializable=True)
        second = await it.look_up("r2", serializable=True)
        assert (first.owner, second.owner) == ("ns/r1-a0", "ns/r1-a0")
        assert second.retry_after_s > 0
        await it.cache.release(owner="ns/r1-a0")
        assert (await it.look_up("r2", serializable=True)).owner == "ns/r2-a0"


async def test_a_reservation_is_kept_while_the_task_goes_on(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.look_up("r1", serializable=True)
        await it.until_extended("ns/r1-a0", 3)
        await it.cache.release(owner="ns/r1-a0")
        assert it.service.reservations == {}


async def test_a_reservation_survives_a_restart(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.cache.hold(action("r1"), template(serializable=True), Inputs(n=1), owner="ns/r1-a0")
        await it.until_extended("ns/r1-a0", 3)
        assert (await it.look_up("r2", serializable=True)).owner == "ns/r1-a0"


async def test_a_reservation_that_was_let_go_stays_and_is_another_engines(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.look_up("r1", serializable=True)
        await it.look_up("r2", serializable=True, inputs=Inputs(n=2))
        it.cache.let_go(owner="ns/r1-a0")
        assert sorted(it.service.reservations.values()) == ["ns/r1-a0", "ns/r2-a0"]
        it.service.extended.clear()
        await it.until_extended("ns/r2-a0", 3)
        assert "ns/r1-a0" not in it.service.extended[2:], "one call may have been on its way"


async def test_what_another_has_taken_is_not_kept(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        await it.look_up("r1", serializable=True)
        (key,) = it.service.reservations
        it.service.reservations[key] = "thief"
        await it.until(lambda: not it.cache._held)
        await it.cache.release(owner="ns/r1-a0")
        assert it.service.reservations == {key: "thief"}


async def test_a_cache_that_is_down_lets_tasks_run(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        it.service.refusal = ConnectError(Code.UNAVAILABLE, "down")
        assert (await it.look_up(serializable=True)).owner == ""
        assert await it.leave() == CACHE_PUT_FAILURE


async def test_a_reservation_that_can_not_be_had_is_waited_for(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        it.service.refused = frozenset({"reserve"})
        it.service.refusal = ConnectError(Code.UNAVAILABLE, "down")
        with pytest.raises(TransientError, match="acquiring cache reservation"):
            await it.look_up(serializable=True)


async def test_inputs_that_can_not_be_read_are_a_miss(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        assert not (await it.look_up(inputs=NoInputs())).is_hit


async def test_outputs_that_are_not_there_are_not_offered(server: tuple[CacheService, str]) -> None:
    async with desk(server) as it:
        done = action("r9")
        assert await it.cache.store(done, template(), Inputs(n=1), attempt_paths(done, 1)) == CACHE_PUT_FAILURE
        assert it.service.entries == {}


# -- Keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        (["foo"], "268bc27d4974d9d576222e4cdbb8f7c6bd6791894098645a19eeca9c102d0964"),
        ({"foo": "bar"}, "7ef5237c3027d6c58100afadf37796b3d351025cf28038280147d42fdc53b960"),
    ],
)
def test_object_hash_is_that_of_its_specification(value: object, digest: str) -> None:
    """Examples of https://github.com/benlaurie/objecthash."""
    assert object_hash(value).hex() == digest


@pytest.mark.parametrize("same", [(1, 1.0), (0, -0.0), ({"a": 1, "b": 2}, {"b": 2, "a": 1})])
def test_what_json_does_not_tell_apart_has_one_hash(same: tuple[object, object]) -> None:
    assert object_hash(same[0]) == object_hash(same[1])


@pytest.mark.parametrize("value", [1e-300, 5e-324, 1.7e308, -2.5, 2**53 + 1, True, None, ""])
def test_every_json_value_has_a_hash(value: object) -> None:
    assert len(object_hash(value)) == 32


async def test_a_key_has_its_five_parts() -> None:
    key = await cache_key(action(), template(), Inputs(n=1))
    assert re.fullmatch(r"[\w+/=]{44}-[\w-]{8}-[\w-]{8}-[\w-]{43}-v1", key)


async def test_the_version_of_the_task_does_not_count_and_all_else_does() -> None:
    key = await cache_key(action(), template(), Inputs(n=1))
    other = template()
    other.id.version = "another"
    assert await cache_key(action(), other, Inputs(n=1)) == key
    other.id.name = "another"
    assert await cache_key(action(), other, Inputs(n=1)) != key
    assert await cache_key(action(), template(), Inputs(n=2)) != key


async def test_ignored_inputs_and_hashed_literals() -> None:
    ignoring = template()
    ignoring.metadata.cache_ignore_input_vars.append("n")
    assert await cache_key(action(), ignoring, Inputs(n=1)) == await cache_key(action(), ignoring, Inputs(n=2))
    one, two = Inputs(n=1), Inputs(n=2)
    for inputs in (one, two):
        inputs._literals.literals["n"].hash = "same"
    assert await cache_key(action(), template(), one) == await cache_key(action(), template(), two)


async def test_a_task_without_an_identifier_has_no_key() -> None:
    nameless = template()
    nameless.ClearField("id")
    with pytest.raises(BadTaskSpecificationError, match="missing identifier"):
        await cache_key(action(), nameless, Inputs(n=1))
