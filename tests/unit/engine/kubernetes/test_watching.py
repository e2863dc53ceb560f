"""Watches of servers that err, stop, stall and say what no server should."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.cluster import POD, WatchEvent, WatchEventType
from propfan.engine.kubernetes import watching
from propfan.engine.kubernetes.transport import Request
from propfan.pluginmachinery.errors import (
    ApiError,
    ExpiredError,
    ForbiddenError,
    KindNotServedError,
    ThrottledError,
    UnavailableError,
)
from tests.unit.engine.kubernetes.scripted_server import (
    Answer,
    Client,
    answer,
    client,
    event,
    hang,
    hang_up,
    pod,
    refusal,
    status,
    streaming,
)

pytestmark = pytest.mark.anyio

ADDED, MODIFIED, DELETED = event("ADDED", pod("a", 8)), event("MODIFIED", pod("a", 9)), event("DELETED", pod("a", 10))


async def told(it: Client, count: int = 1000) -> Sequence[WatchEvent]:
    """What a watch tells until its end, or so many events."""
    found: list[WatchEvent] = []
    with anyio.fail_after(20):
        async with it.cluster.watch(POD, resource_version="7") as changes:
            async for events in changes:
                assert events, "no news are not told"
                found += events
                if len(found) >= count:
                    break
    return found


def brief(events: Sequence[WatchEvent]) -> list[str]:
    return [f"{e.type.value} {e.object.metadata.name}@{e.object.metadata.resource_version}" for e in events]


async def test_a_watch_asks_for_bookmarks_and_an_end() -> None:
    async with client(streaming(), watch_s=100.0) as it:
        assert await told(it) == []
        async with it.cluster.watch(POD, namespace="n", labels={"x": ["2", "1"]}, resource_version="9") as changes:
            assert [events async for events in changes] == []
        first, second = it.server.asked
        assert 50 <= int(first.query["timeoutSeconds"]) <= 100
        assert first.path == "/api/v1/pods"
        assert second.path == "/api/v1/namespaces/n/pods"
        fixed = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": second.query["timeoutSeconds"]}
        assert second.query == {**fixed, "resourceVersion": "9", "labelSelector": "x in (1,2)"}


async def test_changes_are_told_with_the_bytes_of_their_objects() -> None:
    async with client(streaming(ADDED + MODIFIED, DELETED)) as it:
        events = await told(it)
        assert brief(events) == ["ADDED a@8", "MODIFIED a@9", "DELETED a@10"]
        assert events[0].object.raw == ADDED[len(b'{"type":"ADDED","object":') : -2]
        assert events[0].object.kind == POD


@pytest.mark.parametrize("size", [1, 7, 50, 100])
async def test_changes_are_told_however_they_are_cut_into_pieces(size: int) -> None:
    whole = ADDED + b"\n" + MODIFIED + DELETED
    async with client(streaming(*[whole[at : at + size] for at in range(0, len(whole), size)])) as it:
        assert brief(await told(it)) == ["ADDED a@8", "MODIFIED a@9", "DELETED a@10"]


async def test_bookmarks_are_told_with_their_version() -> None:
    mark = event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "50", "creationTimestamp": None}})
    async with client(streaming(mark)) as it:
        (told_event,) = await told(it)
        assert told_event.type is WatchEventType.BOOKMARK
        assert (told_event.object.metadata.resource_version, told_event.object.raw) == ("50", b"")


async def test_an_event_may_be_laid_out_otherwise() -> None:
    odd = b'{ "object" : {"metadata":{"name":"a","resourceVersion":"8"}} , "type" : "ADDED" }\n'
    async with client(streaming(odd)) as it:
        (told_event,) = await told(it)
        assert brief([told_event]) == ["ADDED a@8"]
        assert told_event.object.raw == b'{"metadata":{"name":"a","resourceVersion":"8"}}'


@pytest.mark.parametrize(
    ("answer_", "error"),
    [
        (refusal(410, "Expired", "too old resource version: 7 (9)"), ExpiredError),
        (answer(410, b"gone"), ExpiredError),
        (refusal(403, "Forbidden", 'User "u" cannot watch resource "pods"', kind="pods"), ForbiddenError),
        (answer(404, b"404 page not found\n"), KindNotServedError),
        (refusal(429, "TooManyRequests", "later", retry_after="3"), ThrottledError),
        (answer(503, b""), UnavailableError),
        (hang_up, UnavailableError),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", UnavailableError),
    ],
)
async def test_a_watch_that_is_refused_says_so_from_its_iterator(answer_: Answer, error: type[ApiError]) -> None:
    async with client(answer_) as it:
        async with it.cluster.watch(POD, resource_version="7") as changes:
            with pytest.raises(error) as caught:
                await anext(changes)
            assert caught.value.target == "watch of pods"
        if error is ThrottledError:
            assert caught.value.retry_after_s == 3


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (410, "Expired", ExpiredError),
        (410, "Gone", ExpiredError),
        (500, "InternalError", UnavailableError),
        (504, "Timeout", UnavailableError),
        (403, "Forbidden", ForbiddenError),
        (429, "TooManyRequests", ThrottledError),
        (0, "", UnavailableError),
    ],
)
async def test_an_error_in_the_stream_is_raised_after_what_came_before(
    code: int, reason: str, error: type[ApiError]
) -> None:
    lines = ADDED + event("ERROR", status(code, reason, "the message", kind="pods")) + MODIFIED
    async with client(streaming(lines, end="hang")) as it, it.cluster.watch(POD, resource_version="7") as changes:
        assert brief(await anext(changes)) == ["ADDED a@8"]
        for _ in range(2):
            with pytest.raises(error, match="the message"):
                await anext(changes)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"null\n",
        b"{}\n",
        b"[]\n",
        b'{"type":"ADDED","object":null}\n',
        b'{"type":"ADDED","object":{}}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":"a"}\n',
        b'{"type":"RENAMED","object":{"metadata":{"name":"a"}}}\n',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}\n',
        b'{"type":"ADDED","object":' + b"[" * 10_000 + b"\n",
        b"\xff\xfe\n",
        b"<html>Please sign in</html>\n",
    ],
    ids=lambda line: repr(line[:45]),
)
async def test_garbage_ends_a_watch_with_an_error(line: bytes) -> None:
    async with client(streaming(ADDED, line, MODIFIED)) as it:
        found: list[str] = []
        with pytest.raises(UnavailableError) as caught:  # noqa: PT012 - the error is the end of the loop
            async with it.cluster.watch(POD, resource_version="7") as changes:
                async for events in changes:
                    found += brief(events)
        assert found == ["ADDED a@8"]
        assert caught.value.target == "watch of pods"


@given(cuts=st.lists(st.integers(0, 2000), max_size=12), junk=st.binary(max_size=60))
def test_any_pieces_of_any_bytes_are_events_or_an_error(cuts: list[int], junk: bytes) -> None:
    whole = ADDED + MODIFIED + junk + b"\n" + DELETED
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    watch = watching.Watch(None, Request("GET", "/", "x"), POD, seconds=1.0, max_line_bytes=10_000)  # type: ignore[arg-type]
    found: list[str] = []
    for start, end in pairwise(at):
        found += brief(watch._events(whole[start:end]))
        if watch._error is not None:
            break
    assert found[:2] == ["ADDED a@8", "MODIFIED a@9"]
    assert watch._error is not None or found[2:] == ["DELETED a@10"] or junk.strip()


async def test_half_an_event_at_the_end_is_none() -> None:
    async with client(streaming(ADDED, MODIFIED[:-20])) as it:
        assert brief(await told(it)) == ["ADDED a@8"]


async def test_a_connection_that_breaks_is_an_error() -> None:
    cut = streaming(ADDED, MODIFIED[:-20], end="cut")
    async with client(cut) as it, it.cluster.watch(POD, resource_version="7") as changes:
        assert brief(await anext(changes)) == ["ADDED a@8"]
        with pytest.raises(UnavailableError):
            await anext(changes)


async def test_a_server_that_never_ends_the_watch_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GRACE_S", 0.1)
    async with client(streaming(ADDED, end="hang"), watch_s=2.0) as it:
        with anyio.fail_after(20), pytest.raises(UnavailableError, match="in time"):
            await told(it)


async def test_a_watch_that_does_not_begin_is_given_up_soon() -> None:
    async with client(hang, watch_s=1000.0, request_timeout_s=0.2) as it:
        with anyio.fail_after(20), pytest.raises(UnavailableError, match="in time"):
            await told(it)


async def test_an_event_without_end_is_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("propfan.engine.kubernetes.cluster.MAX_EVENT_BYTES", 10_000)
    endless = streaming(ADDED, *[b"x" * 1000] * 1000, end="hang")
    async with client(endless) as it, it.cluster.watch(POD, resource_version="7") as changes:
        assert brief(await anext(changes)) == ["ADDED a@8"]
        with anyio.fail_after(20), pytest.raises(UnavailableError, match="larger than 10000 bytes"):
            await anext(changes)


async def test_a_watch_that_is_left_leaves_nothing_open() -> None:
    async with client(streaming(ADDED, end="hang"), answer(200, pod("a"))) as it:
        assert len(await told(it, 1)) == 1
        with anyio.fail_after(20):
            await it.cluster.get(POD, "n", "a")
        assert it.server.connections == 2


async def test_an_iterator_that_has_ended_has_ended() -> None:
    async with client(streaming(ADDED)) as it:
        async with it.cluster.watch(POD, resource_version="7") as changes:
            assert [brief(events) async for events in changes] == [["ADDED a@8"]]
            assert [events async for events in changes] == []
        assert [events async for events in changes] == []
        assert len(it.server.asked) == 1


async def test_waiting_can_be_given_up_and_taken_up_again() -> None:
    """Someone who wants to know whether a watch is silent does just that."""
    more = anyio.Event()

    async def slow(connection: anyio.abc.SocketStream) -> None:
        await streaming(ADDED[:30], end="open")(connection)
        await more.wait()
        await connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(ADDED) - 30, ADDED[30:]))

    async with client(slow) as it, it.cluster.watch(POD, resource_version="7") as changes:
        with anyio.move_on_after(0.2) as scope:
            await anext(changes)
        assert scope.cancelled_caught
        more.set()
        assert brief(await anext(changes)) == ["ADDED a@8"]
