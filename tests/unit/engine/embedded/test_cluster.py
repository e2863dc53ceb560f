from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from propfan.engine.cluster import POD, TASK_ACTION, Kind, ObservedObject, WatchEventType
from propfan.engine.embedded import EmbeddedCluster, watching
from propfan.pluginmachinery.errors import (
    ApiError,
    BadRequestError,
    ExpiredError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from tests.contract.objects import body, content, next_events, told, until_gone

pytestmark = pytest.mark.anyio
NODE = Kind("", "v1", "Node", "nodes", namespaced=False)
ADDED, MODIFIED, DELETED = WatchEventType.ADDED, WatchEventType.MODIFIED, WatchEventType.DELETED


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster.open(tmp_path / "cluster.db") as cluster:
        yield cluster


def break_down(cluster: EmbeddedCluster) -> Callable[[], None]:
    """From now on the database can not be written; answers how to repair it."""
    connection = cluster._store._connection
    connection.execute("PRAGMA query_only = 1")
    return lambda: connection.execute("PRAGMA query_only = 0").close()


async def failures(*calls: Callable[[], Any]) -> Sequence[BaseException | None]:
    """Makes all calls in one turn of the event loop."""
    outcomes: list[BaseException | None] = [None] * len(calls)

    async def call(number: int) -> None:
        try:
            await calls[number]()
        except ApiError as error:
            outcomes[number] = error

    async with anyio.create_task_group() as tasks:
        for number in range(len(calls)):
            tasks.start_soon(call, number)
    return outcomes


# Commits


async def test_nobody_sees_a_write_before_it_is_committed(cluster: EmbeddedCluster) -> None:
    seen: list[str] = []

    async def create() -> None:
        await cluster.create(POD, body(POD, "n", "a"))
        seen.append("created")

    async def look() -> None:
        assert not (await cluster.list(POD)).items
        async with cluster.watch(POD, resource_version="0") as changes:
            await cluster.get(POD, "n", "a")
            seen.append("found")
            assert told(await next_events(changes, 1)) == [(ADDED, "a")]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        tasks.start_soon(look)
    assert seen == ["created", "found"]


async def test_what_is_being_deleted_is_listed_until_it_is_committed(cluster: EmbeddedCluster) -> None:
    created = await cluster.create(POD, body(POD, "n", "a", labels={"x": "1"}))

    async def look() -> None:
        assert (await cluster.list(POD, labels={"x": "1"})).items == [created]
        with pytest.raises(NotFoundError):
            await cluster.get(POD, "n", "a")
        assert not (await cluster.list(POD)).items

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cluster.delete, POD, "n", "a")
        tasks.start_soon(look)


async def test_a_commit_that_fails_is_taken_back_and_told_to_all(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    kept = await cluster.create(POD, body(POD, "n", "kept", labels={"x": "1"}))
    await cluster.create(POD, body(POD, "n", "finalized", finalizers=["example.org/a"]))
    before = await cluster.list(POD)
    repair = break_down(cluster)
    outcomes = await failures(
        lambda: cluster.create(POD, body(POD, "n", "new")),
        lambda: cluster.patch(POD, "n", "kept", {"metadata": {"labels": {"x": "2"}}}),
        lambda: cluster.patch(POD, "n", "kept", {"status": {"phase": "Running"}}, subresource="status"),
        lambda: cluster.delete(POD, "n", "kept"),
        lambda: cluster.delete(POD, "n", "finalized"),
        lambda: cluster.append_events([("a", b"")]),
    )
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 6
    assert str(tmp_path / "cluster.db") in str(outcomes[0])
    assert "readonly" in str(outcomes[0])
    assert "Pod n/new" in str(outcomes[0])
    assert await cluster.list(POD) == before
    assert (await cluster.list(POD, labels={"x": "1"})).items == [kept]
    assert not await cluster.events()
    repair()
    async with cluster.watch(POD, resource_version=before.resource_version) as changes:
        await cluster.create(POD, body(POD, "n", "new"))
        assert told(await next_events(changes, 1)) == [(ADDED, "new")]


async def test_a_refusal_that_rests_on_what_is_pending_waits_for_it(cluster: EmbeddedCluster) -> None:
    """Nothing was there before, so the second creator must not hear that something is."""
    repair = break_down(cluster)
    second: list[ObservedObject] = []

    async def create_second() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failures, lambda: cluster.create(POD, body(POD, "n", "a")))
            await anyio.lowlevel.checkpoint()
            cluster._commits._loop.call_soon(repair)
            second.append(await cluster.create(POD, body(POD, "n", "a")))

    await create_second()
    assert second == [await cluster.get(POD, "n", "a")]


async def test_a_patch_that_changes_nothing_pending_waits_for_it(cluster: EmbeddedCluster) -> None:
    await cluster.create(POD, body(POD, "n", "a"))
    patch = {"metadata": {"labels": {"x": "1"}}}
    repair = break_down(cluster)
    outcomes = await failures(*[lambda: cluster.patch(POD, "n", "a", patch)] * 2)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 2
    repair()
    assert await failures(*[lambda: cluster.patch(POD, "n", "a", patch)] * 2) == [None, None]
    assert (await cluster.get(POD, "n", "a")).metadata.labels == {"x": "1"}


async def test_a_caller_that_is_cancelled_leaves_the_others_their_answers(cluster: EmbeddedCluster) -> None:
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cluster.create, POD, body(POD, "n", "other"))
            scope.cancel()
            await cluster.create(POD, body(POD, "n", "cancelled"))
    await cluster.get(POD, "n", "other")


async def test_more_writes_than_a_batch_holds_are_all_made(cluster: EmbeddedCluster) -> None:
    outcomes = await failures(
        *(lambda number=number: cluster.create(POD, body(POD, "n", f"a{number}")) for number in range(1200))
    )
    assert not any(outcomes)
    assert len((await cluster.list(POD, limit=0)).items) == 1200


async def test_batches_that_stand_on_one_that_fails_are_taken_back_too(cluster: EmbeddedCluster) -> None:
    break_down(cluster)
    outcomes = await failures(
        *(lambda number=number: cluster.create(POD, body(POD, "n", f"a{number}")) for number in range(1200))
    )
    assert {type(outcome) for outcome in outcomes} == {UnavailableError}
    assert not (await cluster.list(POD)).items


async def test_after_the_end_writes_fail_and_watches_end(tmp_path: Path) -> None:
    async with EmbeddedCluster.open(tmp_path / "cluster.db") as cluster:
        watch = cluster.watch(POD, resource_version="1")
        await watch.__aenter__()
        await cluster.create(POD, body(POD, "n", "a"))
    assert [told(batch) async for batch in watch] == [[(ADDED, "a")]]
    with pytest.raises(UnavailableError, match="closed"):
        await cluster.create(POD, body(POD, "n", "b"))


async def test_an_error_inside_is_not_wrapped(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with EmbeddedCluster.open(tmp_path / "cluster.db"):
            raise KeyError


async def test_the_wal_is_emptied_while_writes_go_on(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("propfan.engine.embedded.commits.CHECKPOINT_ABOVE_BYTES", 200_000)
    sizes: list[int] = []
    with anyio.fail_after(30):
        while len(sizes) < 2 or sizes[-1] >= sizes[-2]:
            await failures(
                *(
                    lambda number=number: cluster.append_events([(f"{len(sizes)}/{number}", b"x" * 1000)])
                    for number in range(50)
                )
            )
            sizes.append(cluster._store.wal_bytes)
    assert len(await cluster.events(limit=100_000)) == 50 * len(sizes)


async def test_a_reader_of_the_file_delays_only_the_emptying_of_the_wal(
    cluster: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("propfan.engine.embedded.commits.CHECKPOINT_ABOVE_BYTES", 50_000)
    monkeypatch.setattr("propfan.engine.embedded.commits.CHECKPOINT_RETRY_S", 0.01)
    reader = sqlite3.connect(tmp_path / "cluster.db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM event").fetchone() == (0,)
    number = 0
    while cluster._store.wal_bytes < 500_000:
        await cluster.append_events([(f"{number}", b"x" * 10_000)])
        number += 1
    reader.execute("COMMIT")
    with anyio.fail_after(30):
        while cluster._store.wal_bytes > 100_000:
            await cluster.append_events([(f"{number}", b"x")])
            number += 1
    assert reader.execute("SELECT count(*) FROM event").fetchone() == (number,)
    reader.close()


# Clock, uids, kinds


async def test_timestamps_and_uids_come_from_outside() -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)
    numbers = count(1)
    async with EmbeddedCluster.open(None, clock=lambda: now, new_uid=lambda: f"uid-{next(numbers)}") as cluster:
        created = await cluster.create(POD, body(POD, "n", "a", {"nodeName": "node"}))
        assert created.metadata.uid == "uid-1"
        assert content(created)["metadata"]["creationTimestamp"] == "2030-01-02T03:04:05Z"
        await cluster.delete(POD, "n", "a")
        marked = (await cluster.get(POD, "n", "a")).metadata
        assert marked.deletion_timestamp == now.replace(microsecond=0) + timedelta(seconds=30)


async def test_random_uids_are_of_version_4_and_differ(cluster: EmbeddedCluster) -> None:
    uids = [(await cluster.create(POD, body(POD, "n", f"a{number}"))).metadata.uid for number in range(300)]
    assert len(set(uids)) == 300
    assert {uid[14] for uid in uids} == {"4"}
    assert {uid[19] for uid in uids} <= set("89ab")
    assert {len(uid) for uid in uids} == {36}


async def test_a_kind_without_namespaces_has_none(cluster: EmbeddedCluster) -> None:
    node = msgspec.json.encode({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})
    assert (await cluster.create(NODE, node)).metadata.namespace == ""
    with pytest.raises(InvalidError, match="namespace"):
        await cluster.create(NODE, body(NODE, "n", "b"))
    with pytest.raises(InvalidError, match="namespace"):
        await cluster.create(POD, body(POD, "", "b"))


async def test_an_owner_in_another_namespace_is_none(cluster: EmbeddedCluster) -> None:
    owner = await cluster.create(POD, body(POD, "other", "owner"))
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": owner.metadata.uid}
    await cluster.create(TASK_ACTION, body(TASK_ACTION, "n", "child", ownerReferences=[reference]))
    await until_gone(cluster, TASK_ACTION, "n", "child")


async def test_nothing_is_left_of_deleted_objects(cluster: EmbeddedCluster) -> None:
    tables = cluster._tables
    owner = await cluster.create(POD, body(POD, "n", "owner", labels={"x": "1"}))
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": owner.metadata.uid}
    for name in ("a", "b", "c"):
        await cluster.create(TASK_ACTION, body(TASK_ACTION, "n", name, ownerReferences=[reference]))
    assert len(tables.dependants(owner.metadata.uid)) == 3
    await cluster.patch(TASK_ACTION, "n", "a", {"metadata": {"ownerReferences": None}})
    assert len(tables.dependants(owner.metadata.uid)) == 2
    await cluster.delete(TASK_ACTION, "n", "a")
    await cluster.delete(POD, "n", "owner")
    for name in ("b", "c"):
        await until_gone(cluster, TASK_ACTION, "n", name)
    assert not tables.dependants(owner.metadata.uid)
    assert not tables.by_uid
    assert not any(table.namespaces for table in tables.by_kind.values())


async def test_garbage_that_could_not_be_deleted_is_tried_again(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("propfan.engine.embedded.commits.COLLECT_RETRY_S", 0.01)
    owner = await cluster.create(POD, body(POD, "n", "owner"))
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": owner.metadata.uid}
    await cluster.create(TASK_ACTION, body(TASK_ACTION, "n", "child", ownerReferences=[reference]))
    await cluster.delete(POD, "n", "owner")
    repair = break_down(cluster)
    assert [type(outcome) for outcome in await failures(lambda: cluster.append_events([("a", b"")]))] == [
        UnavailableError
    ]
    await cluster.get(TASK_ACTION, "n", "child")
    repair()
    with anyio.fail_after(20):
        await until_gone(cluster, TASK_ACTION, "n", "child")


async def test_a_patch_is_refused_when_it_is_no_json(cluster: EmbeddedCluster) -> None:
    await cluster.create(POD, body(POD, "n", "a"))
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for patch in ({"spec": object()}, {"spec": {1.5j: 2}}, [1], deep):
        with pytest.raises(BadRequestError, match="Pod n/a"):
            await cluster.patch(POD, "n", "a", patch)  # type: ignore[arg-type]
    while deep:  # a recursive destructor would overflow the stack
        deep = deep.pop("a")


@pytest.mark.parametrize(
    ("patch", "subresource", "field"),
    [
        ({"status": 1}, "status", "status"),
        ({"metadata": 1}, "", "metadata"),
        ({"metadata": {"labels": [1]}}, "", "labels"),
        ({"metadata": {"resourceVersion": 1}}, "", "resourceVersion"),
    ],
)
async def test_a_patch_of_the_wrong_shape_is_refused(
    cluster: EmbeddedCluster, patch: dict[str, Any], subresource: str, field: str
) -> None:
    created = await cluster.create(POD, body(POD, "n", "a"))
    with pytest.raises(InvalidError, match=field):
        await cluster.patch(POD, "n", "a", patch, subresource=subresource)
    assert await cluster.get(POD, "n", "a") == created


async def test_a_subresource_that_is_none_is_not_found(cluster: EmbeddedCluster) -> None:
    await cluster.create(POD, body(POD, "n", "a"))
    with pytest.raises(NotFoundError, match="scale"):
        await cluster.patch(POD, "n", "a", {}, subresource="scale")


# Lists


async def test_an_index_and_a_scan_find_the_same(cluster: EmbeddedCluster) -> None:
    for number in range(200):
        labels = {"run": f"r{number % 50}", "managed": "true"}
        await cluster.create(POD, body(POD, f"n{number % 2}", f"a{number:03}", labels=labels))

    async def found(namespace: str = "", **labels: str) -> Sequence[str]:
        page = await cluster.list(POD, namespace=namespace, labels=labels)
        return [item.metadata.name for item in page.items]

    expected = ["a007", "a057", "a107", "a157"]
    assert await found(run="r7", managed="true") == expected
    assert "run" in cluster._tables.table(POD).by_label
    assert "managed" not in cluster._tables.table(POD).by_label
    await cluster.patch(POD, "n1", "a057", {"metadata": {"labels": {"run": "r8"}}})
    await cluster.delete(POD, "n1", "a107")
    await cluster.create(POD, body(POD, "n1", "a999", labels={"run": "r7"}))
    assert await found(run="r7") == ["a007", "a157", "a999"]
    assert await found(run="r7", managed="true") == ["a007", "a157"]
    assert await found("n0", run="r8") == ["a008", "a058", "a108", "a158"]
    assert await found("n1", run="r8") == ["a057"]
    assert await found(run="none") == []


async def test_pages_are_kept_for_some_minutes() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    async with EmbeddedCluster.open(None, clock=lambda: now) as cluster:
        for name in ("a", "b", "c"):
            await cluster.create(POD, body(POD, "n", name))
        token = (await cluster.list(POD, limit=1)).continue_token
        with pytest.raises(BadRequestError, match="something else"):
            await cluster.list(POD, labels={"x": "1"}, continue_token=token)
        now += timedelta(minutes=5)
        again = [await cluster.list(POD, limit=1, continue_token=token) for _ in range(2)]
        assert [item.metadata.name for page in again for item in page.items] == ["b", "b"]
        now += timedelta(seconds=1)
        with pytest.raises(ExpiredError):
            await cluster.list(POD, limit=1, continue_token=token)


# Watches


async def test_a_watch_that_is_too_slow_ends(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_CHANGES", 8)
    version = (await cluster.list(POD)).resource_version
    async with cluster.watch(POD, resource_version=version) as slow:
        for number in range(20):
            await cluster.create(POD, body(POD, "n", f"a{number}"))
        with pytest.raises(ExpiredError, match="list, then watch again"):
            await anext(slow)
    async with cluster.watch(POD, resource_version=version) as late:
        with pytest.raises(ExpiredError):
            await anext(late)
    newest = (await cluster.list(POD)).resource_version
    async with cluster.watch(POD, resource_version=str(int(newest) - 1)) as changes:
        assert len(await next_events(changes, 1)) == 1


async def test_the_history_is_bounded_in_bytes(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_CHANGES_BYTES", 50_000)
    history = cluster._tables.table(POD).history
    for number in range(100):
        spec = {"x": "x" * 2000}
        await cluster.create(POD, body(POD, "n", f"a{number}", spec))
        assert sum(len(change.event.object.raw) for change in history.changes) <= 50_000
    assert len(history.changes) > 10


async def test_a_version_that_never_was_is_expired(cluster: EmbeddedCluster) -> None:
    async with cluster.watch(POD, resource_version="1000") as changes:
        with pytest.raises(ExpiredError):
            await anext(changes)
    for version in ("x", "-1", "1.5", "²"):
        with pytest.raises(BadRequestError, match="not a number"):
            cluster.watch(POD, resource_version=version)


async def test_a_watch_from_nothing_begins_with_all_there_is(cluster: EmbeddedCluster) -> None:
    await cluster.create(POD, body(POD, "n", "a", labels={"x": "1"}))
    await cluster.create(POD, body(POD, "n", "b"))
    async with cluster.watch(POD, labels={"x": "1"}, resource_version="") as changes:
        assert told(await anext(changes)) == [(ADDED, "a")]
        await cluster.delete(POD, "n", "a")
        assert told(await anext(changes)) == [(DELETED, "a")]


async def test_a_watch_that_sees_nothing_is_told_how_far_it_is(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BOOKMARK_AFTER", 10)
    async with cluster.watch(POD, labels={"x": "1"}, resource_version="1") as changes:
        for number in range(10):
            await cluster.create(POD, body(POD, "n", f"a{number}"))
        with anyio.fail_after(20):
            (bookmark,) = await anext(changes)
    assert bookmark.type is WatchEventType.BOOKMARK
    assert bookmark.object.raw == b""
    assert bookmark.object.metadata.resource_version == (await cluster.list(POD)).resource_version


async def test_a_quiet_kind_never_expires(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_CHANGES", 4)
    created = await cluster.create(POD, body(POD, "n", "a"))
    for number in range(20):
        await cluster.create(TASK_ACTION, body(TASK_ACTION, "n", f"a{number}"))
    async with cluster.watch(POD, resource_version=created.metadata.resource_version) as changes:
        await cluster.delete(POD, "n", "a")
        assert told(await next_events(changes, 1)) == [(DELETED, "a")]


# The journal of events


@pytest.mark.parametrize("place", ["file", "memory"])
async def test_events_are_appended_once_and_read_by_prefix(tmp_path: Path, place: str) -> None:
    async with EmbeddedCluster.open(tmp_path / "cluster.db" if place == "file" else None) as cluster:
        await cluster.append_events([("n/a/1", b"one"), ("n/b/1", b"two")])
        await cluster.append_events([("n/a/1", b"again"), ("n/a/2", b"three"), ("n/ä", b"four")])
        await cluster.append_events([])
        found = await cluster.events()
        assert [event.payload for event in found] == [b"one", b"two", b"three", b"four"]
        assert [event.payload for event in await cluster.events(key_prefix="n/a/")] == [b"one", b"three"]
        assert [event.payload for event in await cluster.events(key_prefix="n/a/", after=found[0].seq)] == [b"three"]
        assert [event.payload for event in await cluster.events(after=found[1].seq, limit=1)] == [b"three"]
        await cluster.forget_events("n/a/")
        assert [event.key for event in await cluster.events()] == ["n/b/1", "n/ä"]


async def test_appending_and_forgetting_keep_their_order(cluster: EmbeddedCluster) -> None:
    assert not any(
        await failures(
            lambda: cluster.append_events([("a/1", b"old")]),
            lambda: cluster.forget_events("a/"),
            lambda: cluster.append_events([("a/1", b"new"), ("b/1", b"")]),
            lambda: cluster.forget_events("b/"),
        )
    )
    assert [(event.key, event.payload) for event in await cluster.events()] == [("a/1", b"new")]


async def test_numbers_of_events_are_never_used_again(tmp_path: Path) -> None:
    async with EmbeddedCluster.open(tmp_path / "cluster.db") as cluster:
        await cluster.append_events([("a", b"")])
        (first,) = await cluster.events()
        await cluster.forget_events("")
        assert not await cluster.events()
    async with EmbeddedCluster.open(tmp_path / "cluster.db") as cluster:
        await cluster.append_events([("b", b"")])
        assert [event.key for event in await cluster.events(after=first.seq)] == ["b"]


async def test_a_key_that_is_no_text_is_refused_alone(cluster: EmbeddedCluster) -> None:
    outcomes = await failures(
        lambda: cluster.append_events([("\ud800", b"")]), lambda: cluster.append_events([("a", b"")])
    )
    assert isinstance(outcomes[0], InvalidError)
    assert outcomes[1] is None
