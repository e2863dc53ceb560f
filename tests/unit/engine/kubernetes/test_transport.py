"""What happens on the way to an API server: refused credentials, throttling, silence, broken connections."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from propfan.engine.cluster import POD
from propfan.engine.daemon.leases import LEASE
from propfan.engine.kubernetes import lanes, sockets, transport
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.pluginmachinery.errors import (
    ConfigError,
    ForbiddenError,
    ThrottledError,
    UnauthorizedError,
    UnavailableError,
)
from tests.unit.engine.kubernetes.scripted_server import (
    Answer,
    Client,
    FixedCredentials,
    answer,
    client,
    hang,
    hang_up,
    pod,
    refusal,
    serving,
    streaming,
)

pytestmark = pytest.mark.anyio

A_POD = answer(200, pod("a"))
EMPTY_LIST = {"metadata": {"resourceVersion": "7"}, "items": []}
UNAUTHORIZED = refusal(401, "Unauthorized", "Unauthorized")


def throttled(seconds: str = "") -> bytes:
    return refusal(429, "TooManyRequests", "slow down", retry_after=seconds)


async def get(it: Client) -> str:
    with anyio.fail_after(20):
        return (await it.cluster.get(POD, "n", "a")).metadata.name


def tokens(it: Client) -> Sequence[str]:
    return [asked.headers["authorization"].removeprefix("Bearer ") for asked in it.server.asked]


# -- Credentials -----------------------------------------------------------------------------------


async def test_refused_credentials_are_renewed_once_and_the_request_sent_again() -> None:
    async with client(UNAUTHORIZED, A_POD, tokens=("old", "new")) as it:
        assert await get(it) == "a"
        assert await get(it) == "a"
        assert tokens(it) == ["old", "new", "new"]
        assert it.credentials.loads == [False, True]


async def test_credentials_that_stay_refused_are_an_error_and_not_renewed_all_the_time() -> None:
    async with client(UNAUTHORIZED, tokens=("old", "new", "newer")) as it:
        for _ in range(5):
            with pytest.raises(UnauthorizedError):
                await get(it)
        assert it.credentials.loads == [False, True]
        assert tokens(it) == ["old", "new", "new", "new", "new", "new"]


async def test_many_that_are_refused_at_once_renew_once() -> None:
    async with client(tokens=("old", "new", "newer")) as it:
        it.server.decide = lambda asked: A_POD if asked.headers["authorization"] == "Bearer new" else UNAUTHORIZED
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(get, it)
        assert it.credentials.loads == [False, True]
        assert tokens(it).count("new") == 20


async def test_credentials_that_can_not_be_renewed_leave_the_refusal() -> None:
    async with client(UNAUTHORIZED, tokens=("old", None)) as it:
        with pytest.raises(UnauthorizedError):
            await get(it)
        assert tokens(it) == ["old"]


async def test_credentials_are_read_again_when_they_are_no_longer_fresh() -> None:
    async with client(A_POD, tokens=("one", "two", "three"), fresh_for_s=0.0) as it:
        await get(it)
        await get(it)
        assert tokens(it) == ["two", "three"]
        assert it.credentials.loads == [False, False, False]


async def test_old_credentials_are_used_while_there_are_no_newer_ones() -> None:
    async with client(A_POD, tokens=("one", None), fresh_for_s=0.0) as it:
        with capture_logs() as logs:
            await get(it)
            await get(it)
        assert tokens(it) == ["one", "one"]
        assert it.credentials.loads == [False, False], "the next try is some seconds off"
        assert [entry["event"] for entry in logs] == ["credentials can not be renewed"]


async def test_without_credentials_there_is_no_cluster() -> None:
    with pytest.raises(ConfigError, match="there is no token"):
        async with KubernetesCluster.connect(with_credentials=FixedCredentials("http://127.0.0.1", None)):
            pass


# -- Throttling ------------------------------------------------------------------------------------


async def test_a_throttled_request_is_sent_again_when_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(lanes.Lane, "hold", lambda _, seconds: waits.append(seconds))
    async with client(throttled("3"), throttled(), A_POD) as it:
        assert await get(it) == "a"
        assert waits == [3.0, 1.0]


async def test_a_request_that_stays_throttled_is_given_back_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LONGEST_HOLD_S", 0.01)
    async with client(throttled("7")) as it:
        with pytest.raises(ThrottledError) as caught:
            await get(it)
        assert caught.value.retry_after_s == 7
        assert len(it.server.asked) == transport.THROTTLED_TRIES


async def test_other_refusals_are_not_repeated() -> None:
    for given, error in (
        (refusal(503, "ServiceUnavailable", "later", retry_after="2"), UnavailableError),
        (refusal(500, "InternalError", "webhook failed"), UnavailableError),
        (refusal(403, "Forbidden", "no", kind="pods"), ForbiddenError),
    ):
        async with client(given) as it:
            with pytest.raises(error):
                await get(it)
            assert len(it.server.asked) == 1


async def test_lists_do_not_keep_single_objects_waiting() -> None:
    """As many slow lists as there are places for them, and more that wait for a place."""
    release = anyio.Event()

    async def slow_list(connection: anyio.abc.SocketStream) -> None:
        await release.wait()
        await connection.send(answer(200, EMPTY_LIST))

    async with client(*[slow_list] * 2, A_POD, *[answer(200, EMPTY_LIST)] * 4, max_lists=2) as it:
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(it.cluster.list, POD)
            with anyio.fail_after(10):
                while len(it.server.asked) < 2:
                    await anyio.lowlevel.checkpoint()
            assert await get(it) == "a"
            assert [asked.path for asked in it.server.asked] == ["/api/v1/pods"] * 2 + ["/api/v1/namespaces/n/pods/a"]
            release.set()
        assert len(it.server.asked) == 7


# -- Broken servers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        hang_up,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        streaming(b'{"metadata":', end="cut"),
    ],
)
async def test_a_broken_answer_is_an_error_of_the_api_that_names_the_object(broken: Answer) -> None:
    async with client(broken, request_timeout_s=1.0) as it:
        with anyio.fail_after(20), pytest.raises(UnavailableError) as caught:
            await it.cluster.patch(POD, "n", "a", {"spec": 1})
        assert caught.value.target == "Pod n/a"
        assert it.server.url in caught.value.problem


@pytest.mark.parametrize("silent", [hang, streaming(b'{"metadata":', end="hang")])
async def test_a_server_that_falls_silent_is_given_up(silent: Answer) -> None:
    async with client(silent, request_timeout_s=0.2) as it:
        with anyio.fail_after(20), pytest.raises(UnavailableError, match="did not answer in time"):
            await get(it)


async def test_a_server_that_is_not_there_is_told() -> None:
    async with serving() as gone:
        pass
    async with client(A_POD) as it:
        it.credentials.url = gone.url
        it.credentials.tokens.append("t2")
        async with it.cluster.connect(with_credentials=it.credentials) as cluster:
            with pytest.raises(UnavailableError, match=gone.url):
                await cluster.get(POD, "n", "a")


async def test_a_redirect_is_not_followed_with_our_token() -> None:
    async with serving() as thief, client(answer(302, b"", Location=thief.url)) as it:
        thief.will(A_POD)
        with pytest.raises(UnavailableError, match="HTTP status 302"):
            await get(it)
        assert thief.asked == []


async def test_requests_go_through_the_proxy() -> None:
    async with serving() as proxy:
        proxy.will(A_POD)
        credentials = FixedCredentials("http://api.test:6443/k8s/clusters/c1", "t1")
        credentials.proxy = proxy.url
        async with KubernetesCluster.connect(with_credentials=credentials) as cluster:
            await cluster.get(POD, "n", "a")
        (asked,) = proxy.asked
        assert asked.headers["host"] == "api.test:6443"
        assert asked.path == "/k8s/clusters/c1/api/v1/namespaces/n/pods/a"


def test_sockets_notice_a_peer_that_is_gone() -> None:
    with sockets.open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 35_000
        idle_s, interval_s, count = (
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle_s + interval_s * count <= 35


async def test_one_who_stops_waiting_holds_nobody_up() -> None:
    async with client(hang, A_POD, max_in_flight=1) as it:
        with anyio.move_on_after(0.1) as scope:
            await it.cluster.get(POD, "n", "b")
        assert scope.cancelled_caught
        assert await get(it) == "a"


async def test_leases_do_not_wait_behind_a_crowd() -> None:
    async with client(A_POD, qps=0.001, burst=1) as it:
        assert await get(it) == "a"  # and the next one would wait for a thousand seconds
        with anyio.fail_after(20):
            await it.cluster.get(LEASE, "n", "a")


# -- Bytes -----------------------------------------------------------------------------------------


async def test_compressed_answers_are_read() -> None:
    packed = gzip.compress(json.dumps(pod("a")).encode())
    async with client(answer(200, packed, Content_Encoding="gzip")) as it:
        assert await get(it) == "a"


async def test_a_compressed_answer_counts_as_what_it_unfolds_to() -> None:
    packed = gzip.compress(json.dumps(pod("a", annotations={"x": "y" * 2**22})).encode())
    assert len(packed) < 2**20
    async with client(answer(200, packed, Content_Encoding="gzip"), max_answer_bytes=2**20) as it:
        with pytest.raises(UnavailableError, match="larger than"):
            await get(it)


async def test_large_objects_are_sent() -> None:
    async with client(A_POD) as it:
        body = json.dumps({**pod("a"), "data": "x" * 2**21}).encode()
        await it.cluster.create(POD, body)
        assert it.server.asked[0].body == body


async def test_connections_are_used_again() -> None:
    async with client(A_POD) as it:
        for _ in range(10):
            await get(it)
        assert it.server.connections == 1


async def test_each_warning_is_told_once() -> None:
    texts = ('299 - "v1 Foo is deprecated"', '299 - "unknown field \\"spec.x\\""', "199 - nothing")
    head = "".join(f"Warning: {text}\r\n" for text in texts)
    body = json.dumps(pod("a"))
    warned = f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    async with client(warned) as it:
        with capture_logs() as logs:
            for _ in range(3):
                await get(it)
        told: list[dict[str, Any]] = [dict(entry) for entry in logs]
        assert [(entry["about"], entry["warning"]) for entry in told] == [
            ("Pod n/a", "v1 Foo is deprecated"),
            ("Pod n/a", 'unknown field \\"spec.x\\"'),
        ]
