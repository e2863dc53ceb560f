"""Answers on kept connections, whatever becomes of the connections."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from hypothesis import given, settings
from hypothesis import strategies as st

from propfan.engine.kubernetes.exchanges import Answer, Exchanges, TooLargeError
from tests.unit.engine.kubernetes.scripted_server import ScriptedServer, answer, serving

pytestmark = pytest.mark.anyio

GOOD = answer(200, b"{}")
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nWarning: 299 - "old"\r\n\r\n2\r\n{"\r\n4\r\na":1\r\n1\r\n}\r\n0\r\n\r\n'


@asynccontextmanager
async def exchanges(*answers: Any) -> AsyncIterator[tuple[Exchanges, ScriptedServer]]:
    async with serving() as server:
        server.will(*answers)
        made = Exchanges(server.url, None, "", "test")
        try:
            yield made, server
        finally:
            made.close()


async def ask(
    made: Exchanges, method: str = "GET", *, limit: int = 1000, timeout_s: float = 20.0, **more: Any
) -> Answer:
    headers = more.get("headers", [])
    body = b"{}" if method != "GET" else b""
    return await made.exchange(
        method, more.get("path", "/a"), headers, body, limit=limit, timeout_s=timeout_s, guard=more.get("guard")
    )


async def pieces(connection: SocketStream) -> None:
    for at in range(len(CHUNKED)):
        await connection.send(CHUNKED[at : at + 1])
        await anyio.lowlevel.checkpoint()
    await connection.receive()


async def silence(connection: SocketStream) -> None:
    await connection.receive()


async def hang_up(connection: SocketStream) -> None:
    return


async def test_an_answer_may_come_in_pieces() -> None:
    async with exchanges(pieces) as (made, _):
        found = await ask(made)
    assert (found.status, json.loads(found.body), found.all(b"warning")) == (200, {"a": 1}, ['299 - "old"'])


async def test_a_preliminary_answer_is_passed_over() -> None:
    async with exchanges(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD) as (made, _):
        assert (await ask(made)).body == b"{}"


async def test_a_read_on_a_connection_that_was_closed_meanwhile_is_sent_again() -> None:
    async with exchanges(GOOD, hang_up, GOOD) as (made, server):
        await ask(made)
        assert (await ask(made)).status == 200
    assert (len(server.asked), server.connections) == (3, 2)


async def test_a_write_is_never_sent_twice() -> None:
    async with exchanges(GOOD, hang_up, GOOD) as (made, server):
        await ask(made)
        with pytest.raises(ConnectionError):
            await ask(made, "PATCH")
    assert len(server.asked) == 2


async def test_a_new_connection_that_is_closed_is_an_error_also_for_a_read() -> None:
    async with exchanges(hang_up) as (made, server):
        with pytest.raises(ConnectionError, match="before the answer was whole"):
            await ask(made)
    assert len(server.asked) == 1


async def test_a_read_whose_answer_had_begun_is_not_sent_again() -> None:
    async def half(connection: SocketStream) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")

    async with exchanges(GOOD, half, GOOD) as (made, server):
        await ask(made)
        with pytest.raises(ConnectionError):
            await ask(made)
    assert len(server.asked) == 2


async def test_a_server_that_wants_to_close_is_asked_on_another_connection() -> None:
    async with exchanges(answer(200, b"{}", Connection="close"), GOOD) as (made, server):
        await ask(made)
        await ask(made)
    assert server.connections == 2


async def test_what_nobody_asked_for_is_never_taken_for_an_answer() -> None:
    async with exchanges(GOOD + answer(200, b'{"old":1}'), GOOD) as (made, server):
        await ask(made)
        assert (await ask(made)).body == b"{}"
    assert server.connections == 2


async def test_a_late_answer_is_nobodys() -> None:
    async with exchanges(silence, GOOD) as (made, server):
        with pytest.raises(TimeoutError):
            await ask(made, timeout_s=0.05)
        assert (await ask(made)).body == b"{}"
    assert server.connections == 2


async def test_one_who_stops_waiting_leaves_no_answer_behind() -> None:
    async with exchanges(silence, GOOD) as (made, server):
        with anyio.move_on_after(0.05):
            await ask(made)
        assert (await ask(made)).body == b"{}"
    assert server.connections == 2


async def test_too_much_is_not_read_to_its_end() -> None:
    async with exchanges(answer(200, b"x" * 5000), GOOD) as (made, server):
        with pytest.raises(TooLargeError):
            await ask(made, limit=4999)
        assert (await ask(made, limit=4999)).body == b"{}"
    assert server.connections == 2


async def test_what_is_no_http_is_told() -> None:
    async with exchanges(b"SSH-2.0-OpenSSH_9.2\r\n") as (made, _):
        with pytest.raises(ConnectionError, match="no HTTP"):
            await ask(made)


@pytest.mark.parametrize(
    "wrong", [{"headers": [("Authorization", "Bearer a\r\nX: y")]}, {"path": "/a b"}, {"path": "/a\r\nX: y"}]
)
async def test_nothing_can_be_smuggled_into_a_request(wrong: dict[str, Any]) -> None:
    async with exchanges(GOOD) as (made, server):
        with pytest.raises(ValueError, match=r"can not be sent|no path"):
            await ask(made, **wrong)
    assert server.asked == []


async def test_a_guard_that_raises_sends_nothing_and_keeps_the_connection() -> None:
    def refuse() -> None:
        raise PermissionError("too late")

    async with exchanges(GOOD) as (made, server):
        await ask(made)
        with pytest.raises(PermissionError):
            await ask(made, "PATCH", guard=refuse)
        await ask(made, "PATCH")
    assert ([asked.method for asked in server.asked], server.connections) == (["GET", "PATCH"], 1)


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 3 * len(CHUNKED)), max_size=12))
async def test_answers_in_a_row_are_told_apart_however_they_are_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted({min(cut, len(CHUNKED)) for cut in cuts}), len(CHUNKED)]
    parts = [CHUNKED[begin:end] for begin, end in itertools.pairwise(bounds) if begin < end]

    async def cut(connection: SocketStream) -> None:
        for _ in range(2):
            for part in parts:
                await connection.send(part)
                await anyio.lowlevel.checkpoint()
            await connection.receive()

    async with exchanges(cut) as (made, server):
        assert [(await ask(made)).body for _ in range(2)] == [b'{"a":1}'] * 2
    assert server.connections == 1
