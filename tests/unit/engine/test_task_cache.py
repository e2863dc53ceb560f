"""The cache in an object store: hits, ages, reservations, keys, and everything that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine import task_cache
from propfan.engine.task_cache import CACHE_POPULATED, CACHE_PUT_FAILURE, CacheAnswer, StoreCache, cache_key
from propfan.pluginmachinery.contexts import InputReader, IOPaths
from propfan.pluginmachinery.errors import (
    METADATA_TOO_LARGE,
    BadTaskSpecificationError,
    DecodeError,
    PermanentError,
    PropfanError,
    StorageError,
)
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.taskaction import TaskAction, TaskActionSpec
from propfan.pluginmachinery.testing import literal_map, task_template
from propfan.pluginmachinery.testing.builders import io_paths
from propfan.pluginmachinery.testing.fakes import FailingStore, FakeInputs, InMemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINE, THEIRS = io_paths("memory:///mine"), io_paths("memory:///theirs")
INPUTS = FakeInputs(literal_map(x=1, y="a"))


class SetClock:
    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time


class BrokenInputs:
    """Inputs that can not be read because of ``error``."""

    def __init__(self, error: PropfanError) -> None:
        self.error = error

    async def read(self) -> literals_pb2.LiteralMap | None:
        raise self.error


BROKEN_INPUTS = [
    BrokenInputs(StorageError("memory:///in", "down")),
    BrokenInputs(DecodeError("memory:///in", "not a literal map")),
    BrokenInputs(PermanentError(METADATA_TOO_LARGE, "too large")),
]


def template(*, serializable: bool = False, name: str = "sample", version: str = "1") -> tasks_pb2.TaskTemplate:
    made = task_template("python", name=name, inputs={"x": types_pb2.INTEGER, "y": types_pb2.STRING})
    made.metadata.discoverable = True
    made.metadata.cache_serializable = serializable
    made.metadata.discovery_version = version
    return made


def action(name: str = "r1-a0", cache_key: str = "") -> TaskAction:
    return TaskAction(ObjectMeta(name=name, namespace="ns"), TaskActionSpec(cache_key=cache_key))


class Cache:
    """A cache over a store in memory, asked by a task of the given name."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.clock = SetClock()
        self.cache = StoreCache(self.store, "memory:///cache/", self.clock, limit_bytes=1024)

    async def ask(
        self,
        owner: str = "ns/me",
        *,
        task: tasks_pb2.TaskTemplate | None = None,
        inputs: InputReader = INPUTS,
        paths: IOPaths = MINE,
    ) -> CacheAnswer:
        return await self.cache.look_up(action(), task or template(), inputs, paths, owner=owner)

    async def fill(self, outputs: bytes = b"outputs", *, task: tasks_pb2.TaskTemplate | None = None) -> str:
        self.store.objects[THEIRS.output] = outputs
        return await self.cache.store(action("r0-a0"), task or template(), INPUTS, THEIRS)

    @property
    def record_path(self) -> str:
        (path,) = [path for path in self.store.objects if path.startswith("memory:///cache/")]
        return path


@pytest.mark.anyio
async def test_stored_outputs_are_a_hit_and_copied() -> None:
    cache = Cache()
    assert await cache.ask() == CacheAnswer()
    assert await cache.fill() == CACHE_POPULATED
    assert await cache.ask() == CacheAnswer(is_hit=True)
    assert cache.store.objects[MINE.output] == b"outputs"


def spoilt_record(spoil: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    def spoilt(content: bytes) -> bytes:
        record = msgspec.json.decode(content)
        return msgspec.json.encode(spoil(record))

    return spoilt


@pytest.mark.anyio
@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda content: content[:-1],
        lambda _: b'{"output_uri":"\xff"}',
        lambda _: b'{"more":' + b"[" * 20_000,
        lambda content: content[:-1] + b',"more":"' + b"x" * 100_000 + b'"}',
        spoilt_record(lambda _: []),
        spoilt_record(lambda record: {**record, "stored_at": "2026-01-01T00:00:00"}),
        spoilt_record(lambda record: {**record, "stored_at": 1}),
        spoilt_record(lambda record: {**record, "output_uri": None}),
        spoilt_record(lambda record: {**record, "output_uri": ""}),
        spoilt_record(lambda record: {**record, "output_uri": "memory:///gone/outputs.pb"}),
    ],
    ids=["empty", "cut off", "no unicode", "deep", "huge", "list", "no zone", "number", "null", "no uri", "gone"],
)
async def test_broken_record_is_a_miss_that_the_next_success_mends(spoil: Callable[[bytes], bytes]) -> None:
    cache = Cache()
    await cache.fill()
    cache.store.objects[cache.record_path] = spoil(cache.store.objects[cache.record_path])
    assert not (await cache.ask()).is_hit
    await cache.fill(b"again")
    assert (await cache.ask()).is_hit
    assert cache.store.objects[MINE.output] == b"again"


@pytest.mark.anyio
async def test_outputs_above_the_limit_are_a_miss() -> None:
    cache = Cache()
    await cache.fill(bytes(1025))
    assert not (await cache.ask()).is_hit
    await cache.fill(bytes(1024))
    assert (await cache.ask()).is_hit


@pytest.mark.anyio
async def test_unreachable_cache_is_a_miss_and_stores_nothing() -> None:
    cache = StoreCache(FailingStore(), "memory:///cache", SetClock())
    assert await cache.look_up(action(), template(), INPUTS, MINE, owner="ns/me") == CacheAnswer()
    assert await cache.store(action(), template(), INPUTS, MINE) == CACHE_PUT_FAILURE


@pytest.mark.anyio
@pytest.mark.parametrize("inputs", BROKEN_INPUTS, ids=lambda inputs: type(inputs.error).__name__)
async def test_task_whose_inputs_can_not_be_read_runs_without_cache(inputs: BrokenInputs) -> None:
    cache = Cache()
    assert await cache.ask(task=template(serializable=True), inputs=inputs) == CacheAnswer()
    cache.store.objects[MINE.output] = b"outputs"
    assert await cache.cache.store(action(), template(), inputs, MINE) == CACHE_PUT_FAILURE


@pytest.mark.anyio
async def test_task_without_identifier_shares_nothing() -> None:
    cache = Cache()
    nameless = template(name="")
    assert await cache.fill(task=nameless) == CACHE_PUT_FAILURE
    assert await cache.ask(task=nameless) == CacheAnswer()
    with pytest.raises(BadTaskSpecificationError, match="missing identifier"):
        await cache_key(action(), nameless, INPUTS)


@pytest.mark.anyio
async def test_task_that_left_no_outputs_is_not_cached() -> None:
    cache = Cache()
    assert await cache.cache.store(action(), template(), INPUTS, THEIRS) == CACHE_PUT_FAILURE
    assert not cache.store.objects


class NoPuts(InMemoryStore):
    async def put(self, path: str, content: bytes) -> None:
        raise StorageError(path, "read-only")


@pytest.mark.anyio
async def test_hit_that_can_not_be_copied_is_tried_again_and_holds_nobody_up() -> None:
    full = Cache()
    await full.fill()
    cache = StoreCache(NoPuts(full.store.objects), "memory:///cache", full.clock)
    task = template(serializable=True)
    with pytest.raises(StorageError, match="read-only"):
        await cache.look_up(action(), task, INPUTS, MINE, owner="ns/me")
    with pytest.raises(StorageError, match="read-only"):
        await cache.look_up(action(), task, INPUTS, THEIRS, owner="ns/they")
    assert not cache._holders


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("seconds", "nanos", "age", "is_hit"),
    [
        (0, 0, timedelta(days=1000), True),
        (0, 500_000_000, timedelta(milliseconds=400), True),
        (0, 500_000_000, timedelta(milliseconds=600), False),
        (10, 0, timedelta(seconds=10), True),
        (10, 0, timedelta(seconds=10, microseconds=1), False),
        (10, 900_000_000, timedelta(seconds=10.5), True),
        (-1, 0, timedelta(days=1), True),
        (2**62, 0, timedelta(days=1000), True),
        (10, 0, timedelta(days=-1), True),
    ],
)
async def test_outputs_are_used_up_to_their_age_limit(seconds: int, nanos: int, age: timedelta, is_hit: bool) -> None:  # noqa: FBT001
    cache = Cache()
    await cache.fill()
    cache.clock.time = NOW + age
    task = template()
    task.metadata.cache_max_age.seconds = seconds
    task.metadata.cache_max_age.nanos = nanos
    assert (await cache.ask(task=task)).is_hit is is_hit


# -- Reservations ----------------------------------------------------------------------------------

SERIAL = template(serializable=True)


@pytest.mark.anyio
async def test_one_owner_computes_and_the_others_wait_until_it_gives_up() -> None:
    cache = Cache()
    assert (await cache.ask("ns/a", task=SERIAL)).owner == "ns/a"
    busy = await cache.ask("ns/b", task=SERIAL)
    assert (busy.owner, busy.retry_after_s > 0) == ("ns/a", True)
    assert (await cache.ask("ns/a", task=SERIAL)).owner == "ns/a"
    await cache.cache.release(owner="ns/b")
    assert (await cache.ask("ns/c", task=SERIAL)).owner == "ns/a"
    await cache.cache.release(owner="ns/a")
    assert (await cache.ask("ns/b", task=SERIAL)).owner == "ns/b"


@pytest.mark.anyio
async def test_tasks_that_may_run_at_once_reserve_nothing() -> None:
    cache = Cache()
    assert (await cache.ask("ns/a")).owner == ""
    assert (await cache.ask("ns/b")).owner == ""
    assert not cache.cache._holders


@pytest.mark.anyio
async def test_unreadable_record_does_not_end_the_wait_for_its_owner() -> None:
    cache = Cache()
    await cache.fill()
    cache.store.objects[cache.record_path] = b"?"
    assert (await cache.ask("ns/a", task=SERIAL)).owner == "ns/a"
    assert (await cache.ask("ns/b", task=SERIAL)).owner == "ns/a"


@pytest.mark.anyio
async def test_hit_and_release_leave_nothing_reserved() -> None:
    cache = Cache()
    for number in range(10):
        await cache.ask(f"ns/{number}", task=template(serializable=True, name=f"task-{number}"))
        await cache.cache.release(owner=f"ns/{number}")
        await cache.cache.release(owner=f"ns/{number}")
    await cache.ask("ns/me", task=SERIAL)
    await cache.fill()
    assert (await cache.ask("ns/me", task=SERIAL)).is_hit
    assert not cache.cache._holders
    assert not cache.cache._reserved


@pytest.mark.anyio
async def test_owner_whose_key_changed_gives_up_its_earlier_one() -> None:
    cache = Cache()
    await cache.ask("ns/a", task=SERIAL)
    await cache.ask("ns/a", task=SERIAL, inputs=FakeInputs(literal_map(x=2, y="a")))
    assert (await cache.ask("ns/b", task=SERIAL)).owner == "ns/b"
    await cache.cache.release(owner="ns/a")
    assert list(cache.cache._reserved) == ["ns/b"]


@pytest.mark.anyio
async def test_nobody_slips_in_between_look_and_reservation() -> None:
    """While the second looks in vain, the first stores its outputs and leaves."""
    cache = Cache()
    await cache.ask("ns/first", task=SERIAL)
    look = cache.store.get

    async def slow_look(path: str, *, limit_bytes: int | None = None) -> bytes:
        try:
            return await look(path, limit_bytes=limit_bytes)
        finally:
            await cache.fill(task=SERIAL)
            await cache.cache.release(owner="ns/first")

    cache.store.get = slow_look  # type: ignore[method-assign]
    assert (await cache.ask("ns/second", task=SERIAL)).owner == "ns/first"
    cache.store.get = look  # type: ignore[method-assign]
    assert (await cache.ask("ns/second", task=SERIAL)).is_hit


# -- Keys ------------------------------------------------------------------------------------------


async def key(
    task: tasks_pb2.TaskTemplate | None = None, inputs: literals_pb2.LiteralMap | None = None, version: str = ""
) -> str:
    literals = literal_map(x=1, y="a") if inputs is None else inputs
    return await cache_key(action(cache_key=version), task or template(), FakeInputs(literals))


@pytest.mark.anyio
async def test_key_holds_what_decides_over_the_outputs() -> None:
    other_interface = template()
    other_interface.interface.inputs.variables[0].value.type.simple = types_pb2.FLOAT
    found = [
        await key(),
        await key(template(name="other")),
        await key(template(version="2")),
        await key(version="of the action"),
        await key(other_interface),
        await key(inputs=literal_map(x=2, y="a")),
        await key(inputs=literal_map(x=1)),
        await key(inputs=literals_pb2.LiteralMap()),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.anyio
async def test_key_leaves_out_what_does_not() -> None:
    released = template()
    released.id.version = "v2"
    released.container.image = "another"
    assert await key(released) == await key()
    assert await key(template(version="2"), version="1") == await key(version="1")
    assert await key(inputs=literal_map(y="a", x=1)) == await key()


@pytest.mark.anyio
async def test_ignored_inputs_do_not_count() -> None:
    task = template()
    task.metadata.cache_ignore_input_vars.append("y")
    assert await key(task, literal_map(x=1, y="a")) == await key(task, literal_map(x=1, y="b"))
    assert await key(task, literal_map(x=1, y="a")) != await key(task, literal_map(x=2, y="a"))


@pytest.mark.anyio
async def test_inputs_are_read_only_where_the_interface_has_some() -> None:
    task = task_template("python")
    down = BrokenInputs(StorageError("memory:///in", "down"))
    assert await cache_key(action(), task, down) == await cache_key(action(), task, FakeInputs())


def scalar(value: int, hash_: str = "") -> literals_pb2.Literal:
    literal = literal_map(x=value).literals["x"]
    literal.hash = hash_
    return literal


def collection(*items: literals_pb2.Literal) -> literals_pb2.Literal:
    return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=items))


def mapping(**members: literals_pb2.Literal) -> literals_pb2.Literal:
    return literals_pb2.Literal(map=literals_pb2.LiteralMap(literals=members))


async def key_of(literal: literals_pb2.Literal) -> str:
    return await key(inputs=literals_pb2.LiteralMap(literals={"x": literal}))


@pytest.mark.anyio
@pytest.mark.parametrize("wrap", [lambda x: x, collection, lambda x: mapping(m=x), lambda x: collection(mapping(m=x))])
async def test_literal_with_a_hash_counts_by_that_alone(
    wrap: Callable[[literals_pb2.Literal], literals_pb2.Literal],
) -> None:
    assert await key_of(wrap(scalar(1, "h"))) == await key_of(wrap(scalar(2, "h")))
    assert await key_of(wrap(scalar(1, "h"))) != await key_of(wrap(scalar(1, "i")))
    assert await key_of(wrap(scalar(1, "h"))) != await key_of(wrap(scalar(1)))


literals = st.recursive(
    st.builds(scalar, st.integers(0, 2), st.sampled_from(["", "h", "value"])),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: collection(*items))
        | st.dictionaries(st.sampled_from(["hash", "map", "collection"]), inner, max_size=2).map(lambda m: mapping(**m))
    ),
    max_leaves=5,
)


def counted(literal: literals_pb2.Literal) -> object:
    """What of a literal counts, as Python values."""
    if literal.hash:
        return ("#", literal.hash)
    if literal.HasField("collection"):
        return tuple(counted(item) for item in literal.collection.literals)
    if literal.HasField("map"):
        return frozenset((name, counted(item)) for name, item in literal.map.literals.items())
    return literal.scalar.primitive.integer


@given(literals, literals)
def test_literals_that_differ_have_keys_that_differ(first: literals_pb2.Literal, second: literals_pb2.Literal) -> None:
    hashed = [msgspec.json.encode(task_cache._hash(literal), order="sorted") for literal in (first, second)]
    assert (hashed[0] == hashed[1]) is (counted(first) == counted(second))
