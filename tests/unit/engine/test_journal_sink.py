"""The journal: each event once, and followers that miss none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine import journal_sink
from propfan.engine.embedded import EmbeddedCluster, JournalEvent
from propfan.engine.journal_sink import JournalSink
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(version: int, name: str = "r1-a0", uid: str = "u1", reason: str = "") -> TaskEvent:
    return TaskEvent(
        "ns", name, uid, "r1", "a0", "p", "d", 1, ActionPhase.RUNNING, Phase.RUNNING, version, NOW, reason=reason
    )


class HookedCluster:
    """Calls ``after_page`` between the read of a page and its use."""

    def __init__(self, inner: EmbeddedCluster) -> None:
        self.inner = inner
        self.after_page: Callable[[Sequence[JournalEvent]], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def events(self, **selection: Any) -> Sequence[JournalEvent]:
        page = await self.inner.events(**selection)
        if self.after_page is not None:
            await self.after_page(page)
        return page


@asynccontextmanager
async def journal(path: Path | None = None) -> AsyncIterator[tuple[JournalSink, HookedCluster]]:
    with anyio.fail_after(10):
        async with EmbeddedCluster.open(path) as inner:
            cluster = HookedCluster(inner)
            yield JournalSink(cluster), cluster  # type: ignore[arg-type]


async def versions(sink: JournalSink, count: int, **selection: Any) -> list[int]:
    """Of the first so many events that a follower gets."""
    found: list[int] = []
    async with aclosing(sink.follow(**selection)) as stream:  # type: ignore[type-var]
        while len(found) < count:
            _, told = await anext(stream)
            found.append(told.version)
    return found


@pytest.mark.anyio
async def test_repeats_are_kept_once_and_in_order() -> None:
    async with journal() as (sink, _):
        await sink.record([event(1), event(2)])
        await sink.record([event(2, reason="told again"), event(3)])
        await sink.record([])
        recorded = await sink.recorded()
        assert [(e.version, e.reason) for e in recorded] == [(1, ""), (2, ""), (3, "")]


@pytest.mark.anyio
async def test_events_outlive_the_process(tmp_path: Path) -> None:
    async with journal(tmp_path / "db") as (sink, _):
        await sink.record([event(1)])
    async with journal(tmp_path / "db") as (sink, _):
        await sink.record([event(1), event(2)])
        assert await sink.recorded() == [event(1), event(2)]


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_pages_of_any_fill_are_followed_to_the_end(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(journal_sink, "_PAGE", 2)
    async with journal() as (sink, _):
        await sink.record([event(n) for n in range(count)])
        assert await versions(sink, count) == list(range(count))
        assert [e.version for e in await sink.recorded()] == list(range(count))


@pytest.mark.anyio
async def test_follower_goes_on_after_what_it_has_seen() -> None:
    async with journal() as (sink, _):
        await sink.record([event(1), event(2)])
        async with aclosing(sink.follow()) as stream:  # type: ignore[type-var]
            number, _ = await anext(stream)
        assert await versions(sink, 1, after=number) == [2]
        assert [e.version for e in await sink.recorded(after=number)] == [2]


@pytest.mark.anyio
async def test_what_comes_between_page_and_wait_is_not_missed() -> None:
    async with journal() as (sink, cluster):
        left = [event(2), event(3)]

        async def record_more(page: Sequence[JournalEvent]) -> None:
            if left:
                await sink.record([left.pop(0)])

        await sink.record([event(1)])
        cluster.after_page = record_more
        assert await versions(sink, 3) == [1, 2, 3]


@pytest.mark.anyio
async def test_waiting_followers_get_what_comes() -> None:
    async with journal() as (sink, cluster):
        reads = 0
        both_wait = anyio.Event()

        async def count(page: Sequence[JournalEvent]) -> None:
            nonlocal reads
            reads += 1
            if reads == 2:
                both_wait.set()

        cluster.after_page = count
        found: dict[str, list[int]] = {}

        async def follow(name: str) -> None:
            found[name] = await versions(sink, 2)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, "first")
            tasks.start_soon(follow, "second")
            await both_wait.wait()
            await sink.record([event(1)])
            await sink.record([event(2)])
        assert found == {"first": [1, 2], "second": [1, 2]}


@pytest.mark.anyio
async def test_followers_of_one_task_get_that_one_only() -> None:
    async with journal() as (sink, _):
        await sink.record([event(1, "r1-a0"), event(2, "r1-a00"), event(3, "r1-a0")])
        assert await versions(sink, 2, key_prefix="ns/r1-a0/") == [1, 3]


@pytest.mark.anyio
async def test_only_the_deleted_task_is_forgotten() -> None:
    async with journal() as (sink, _):
        await sink.record([event(1, uid="u1"), event(2, uid="u2"), event(3, "r1-a00", uid="u1")])
        await sink.forget(ObjectMeta(name="r1-a0", namespace="ns", uid="u1"))
        assert [e.version for e in await sink.recorded()] == [2, 3]
        await sink.record([event(1, uid="u1")])
        assert [e.version for e in await sink.recorded()] == [2, 3, 1]


@pytest.mark.anyio
@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", msgspec.json.encode({"namespace": 1})])
async def test_event_of_another_version_is_named(payload: bytes) -> None:
    async with journal() as (sink, cluster):
        await cluster.inner.append_events([("ns/r1-a0/u1/1/RUNNING/0", payload)])
        with pytest.raises(DecodeError, match=r"event 1 \(ns/r1-a0/u1/1/RUNNING/0\) of the journal"):
            await sink.recorded()
        with pytest.raises(DecodeError):
            await versions(sink, 1)
