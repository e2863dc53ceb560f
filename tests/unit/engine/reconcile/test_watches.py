"""A watcher of a cluster that expires, ends, hangs and errs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

from propfan.engine.cluster import POD, WatchEvent, WatchEventType
from propfan.engine.reconcile.watches import Watcher
from propfan.pluginmachinery.errors import (
    ApiError,
    ExpiredError,
    ForbiddenError,
    KindNotServedError,
    ThrottledError,
    UnavailableError,
)
from tests.simulation.virtual_time import VirtualLoop
from tests.unit.engine.reconcile.scripted_cluster import (
    SILENCE,
    Page,
    ScriptedCluster,
    Stream,
    added,
    bookmark,
    deleted,
    modified,
)

DOWN = UnavailableError("pods", "down")
EXPIRED = ExpiredError("pods", "too old")
NOT_SERVED = KindNotServedError("list of pods", "not served")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Watched:
    """A watcher at work until the script is used up, and what it told."""

    def __init__(self, *script: Page | Stream | ApiError) -> None:
        self.cluster = ScriptedCluster(POD, *script)
        self.told: list[str] = []
        self.watcher = Watcher(
            self.cluster,  # type: ignore[arg-type]
            POD,
            on_event=self.on_event,
            on_listed=lambda keys: self.told.append("listed " + " ".join(sorted(name for _, name in keys))),
            silence_s=300.0,
        )

    def on_event(self, event: WatchEvent) -> None:
        sign = {WatchEventType.ADDED: "+", WatchEventType.MODIFIED: "~", WatchEventType.DELETED: "-"}[event.type]
        self.told.append(f"{sign}{event.object.metadata.name}@{event.object.metadata.resource_version}")

    async def play(self) -> Watched:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.watcher.run)
            await self.cluster.used_up.wait()
            tasks.cancel_scope.cancel()
        assert self.cluster.open_streams == 0
        return self

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(call.method, call.position) for call in self.cluster.calls]

    @property
    def pauses_s(self) -> list[float]:
        times = [call.at_s for call in self.cluster.calls]
        return [round(after - before, 6) for before, after in pairwise(times)]


def pod(name: str, version: int) -> Any:
    return ScriptedCluster(POD).object(name, version)


@pytest.mark.anyio
async def test_all_pages_are_told_before_the_list_is() -> None:
    watched = await Watched(
        Page([pod("a", 3), pod("b", 5)], "7", "more"), Page([pod("c", 6)], "7"), Stream([added(pod("d", 8))], SILENCE)
    ).play()
    assert watched.told == ["+a@3", "+b@5", "+c@6", "listed a b c", "+d@8"]
    assert watched.calls[:3] == [("list", ""), ("list", "more"), ("watch", "7")]
    assert watched.watcher.is_synced.is_set()


@pytest.mark.anyio
async def test_watch_that_ends_goes_on_after_the_last_change_seen() -> None:
    watched = await Watched(
        Page([], "7"),
        Stream([added(pod("a", 8)), modified(pod("a", 9))], [deleted(pod("a", 10))]),
        Stream([added(pod("b", 11))]),
    ).play()
    assert watched.told == ["listed ", "+a@8", "~a@9", "-a@10", "+b@11"]
    assert watched.calls == [("list", ""), ("watch", "7"), ("watch", "10"), ("watch", "11")]
    assert watched.pauses_s == [0, 0, 0]


@pytest.mark.anyio
async def test_bookmarks_move_the_watch_on_and_are_not_told() -> None:
    watched = await Watched(Page([], "7"), Stream([added(pod("a", 8)), bookmark(20)], [bookmark(30)])).play()
    assert watched.told == ["listed ", "+a@8"]
    assert watched.calls[-1] == ("watch", "30")


@pytest.mark.anyio
@pytest.mark.parametrize("error", [DOWN, ApiError("pods", "leader changed"), ForbiddenError("pods", "not now")])
async def test_broken_watch_goes_on_without_a_list(error: ApiError) -> None:
    watched = await Watched(
        Page([], "7"), Stream([added(pod("a", 8))], error), error, Stream([added(pod("b", 9))])
    ).play()
    assert watched.told == ["listed ", "+a@8", "+b@9"]
    assert watched.calls == [("list", ""), ("watch", "7"), ("watch", "8"), ("watch", "8"), ("watch", "9")]


@pytest.mark.anyio
async def test_kind_that_is_not_served_keeps_nobody_waiting_and_is_watched_once_it_is() -> None:
    watched = await Watched(NOT_SERVED, NOT_SERVED, NOT_SERVED, Page([pod("a", 3)], "7"), Stream([])).play()
    assert watched.told == ["listed ", "+a@3", "listed a"]
    assert watched.calls[:5] == [("list", "")] * 4 + [("watch", "7")]
    assert 0 < watched.pauses_s[1] < watched.pauses_s[2]


@pytest.mark.anyio
async def test_kind_that_is_served_no_more_loses_no_object_until_it_is_again() -> None:
    watched = await Watched(
        Page([pod("a", 3), pod("b", 4)], "7"), NOT_SERVED, NOT_SERVED, Page([pod("b", 12)], "20"), Stream([])
    ).play()
    assert watched.told == ["+a@3", "+b@4", "listed a b", "+b@12", "listed b"]


@pytest.mark.anyio
async def test_expired_watch_lists_again() -> None:
    watched = await Watched(
        Page([pod("a", 3)], "7"),
        Stream([modified(pod("a", 8))], EXPIRED),
        Page([pod("b", 19)], "20"),
        EXPIRED,
        Page([pod("c", 21)], "22"),
    ).play()
    assert watched.told == ["+a@3", "listed a", "~a@8", "+b@19", "listed b", "+c@21", "listed c"]
    assert watched.calls[-1] == ("watch", "22")


@pytest.mark.anyio
async def test_list_that_expires_between_pages_starts_anew() -> None:
    watched = await Watched(Page([pod("a", 3)], "7", "more"), EXPIRED, Page([pod("a", 9)], "9")).play()
    assert watched.told == ["+a@3", "+a@9", "listed a"]
    assert watched.calls == [("list", ""), ("list", "more"), ("list", ""), ("watch", "9")]


@pytest.mark.anyio
async def test_watcher_is_synced_only_after_a_whole_list() -> None:
    watched = Watched(DOWN, Page([], "7", "more"))
    await watched.play()
    assert not watched.watcher.is_synced.is_set()


def growing(count: int) -> list[float]:
    return [min(0.5 * 2**n, 60.0) for n in range(count)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "vain",
    [Stream(), DOWN, Stream(DOWN), Stream([bookmark(7)]), Stream([])],
    ids=["ends", "refused", "breaks", "old bookmark", "empty batch"],
)
async def test_watches_in_vain_come_with_growing_pauses(vain: Stream | ApiError) -> None:
    watched = await Watched(Page([], "7"), *[vain] * 11).play()
    assert watched.pauses_s == [0, 0, *growing(10)]
    assert watched.calls[-1] == ("watch", "7")


@pytest.mark.anyio
async def test_watch_that_always_expires_does_not_list_without_pause() -> None:
    script: list[Page | ApiError] = [Page([], "7"), EXPIRED]
    watched = await Watched(*script * 6).play()
    lists = [call.at_s for call in watched.cluster.calls if call.method == "list"]
    assert [round(b - a, 6) for a, b in pairwise(lists)] == [0, *growing(5)]


@pytest.mark.anyio
async def test_list_that_fails_is_tried_again_with_growing_pauses() -> None:
    watched = await Watched(*[DOWN] * 6, Page([pod("a", 3)], "7")).play()
    assert watched.pauses_s == [0, *growing(5), 0]
    assert watched.told == ["+a@3", "listed a"]


@pytest.mark.anyio
async def test_server_says_how_long_to_stay_away() -> None:
    watched = await Watched(ThrottledError("pods", "slow down", retry_after_s=17.0), Page([], "7")).play()
    assert watched.pauses_s == [17, 0]


@pytest.mark.anyio
async def test_change_ends_the_pauses() -> None:
    watched = await Watched(Page([], "7"), *[Stream()] * 5, Stream([added(pod("a", 8))]), Stream()).play()
    assert watched.pauses_s == [0, 0, *growing(4), 0, 0.5]


@pytest.mark.anyio
async def test_silent_watch_is_opened_again_and_loses_nothing() -> None:
    watched = await Watched(
        Page([], "7"), Stream([added(pod("a", 8))], SILENCE), Stream(SILENCE), Stream([added(pod("b", 9))])
    ).play()
    assert watched.told == ["listed ", "+a@8", "+b@9"]
    assert watched.calls == [("list", ""), ("watch", "7"), ("watch", "8"), ("watch", "8"), ("watch", "9")]
    assert watched.pauses_s == [0, 300, 300, 0]


@pytest.mark.anyio
async def test_silence_does_not_add_to_the_pauses() -> None:
    watched = await Watched(Page([], "7"), *[Stream(SILENCE)] * 10).play()
    assert watched.pauses_s == [0, *[300] * 10]
