"""The HTTP client of connectors, against a server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from propfan.engine.connector_service.config import HttpConfig
from propfan.engine.connector_service.http import AiohttpClient
from propfan.pluginmachinery.connector import HostRule
from propfan.pluginmachinery.errors import ConfigError, PermanentError, TransientError, UnansweredError

pytestmark = pytest.mark.anyio

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler, config: HttpConfig = HttpConfig()) -> AsyncIterator[tuple[AiohttpClient, str]]:  # noqa: B008
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = AiohttpClient(config)
    try:
        yield client, str(runner.addresses[0][1])
    finally:
        await client.close()
        await runner.cleanup()


async def test_a_request_goes_out_as_it_was_given() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        seen = {
            "method": request.method,
            "query": dict(request.query),
            "authorization": request.headers["authorization"],
            "type": request.headers.get("content-type"),
            "body": (await request.read()).decode(),
        }
        return web.json_response(seen, status=201, headers={"X-Trace": "t"})

    async with answering(echo) as (client, port):
        answer = await client.request(
            "POST",
            f"http://127.0.0.1:{port}/jobs?a=1",
            params={"b": "2"},
            headers={"Authorization": "Bearer t"},
            json={"n": 1},
        )
        assert answer.status == 201
        assert answer.is_success
        assert answer.headers["x-trace"] == "t"
        assert answer.url == f"http://127.0.0.1:{port}/jobs"
        assert answer.json(dict[str, object]) == {
            "method": "POST",
            "query": {"a": "1", "b": "2"},
            "authorization": "Bearer t",
            "type": "application/json",
            "body": '{"n":1}',
        }


async def test_no_status_is_an_error_and_redirects_are_answers() -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://elsewhere.invalid/")

    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, text="busy")

    async with answering(redirect) as (client, port):
        answer = await client.request("GET", f"http://127.0.0.1:{port}/")
        assert (answer.status, answer.headers["location"]) == (302, "http://elsewhere.invalid/")
    async with answering(fail) as (client, port):
        answer = await client.request("GET", f"http://127.0.0.1:{port}/")
        assert (answer.status, answer.text()) == (503, "busy")


async def test_an_answer_that_is_too_large_is_refused() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 5000)

    async with answering(flood, HttpConfig(max_answer_bytes=4096)) as (client, port):
        with pytest.raises(
            PermanentError, match=r"the answer is too large, the limit is 4096 \(http.max-answer-bytes\)"
        ):
            await client.request("GET", f"http://127.0.0.1:{port}/")


async def test_an_answer_that_does_not_come_is_worth_another_try() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await anyio.Event().wait()
        return web.Response()

    async with answering(never) as (client, port):
        with pytest.raises(TransientError, match=r"GET http://127.0.0.1:\d+/x: no answer within 0.1 s") as caught:
            await client.request("GET", f"http://127.0.0.1:{port}/x?token=s3cret", timeout_s=0.1)
        assert "s3cret" not in str(caught.value)


async def test_a_server_that_is_not_there_is_worth_another_try() -> None:
    client = AiohttpClient(HttpConfig())
    with pytest.raises(TransientError, match=r"GET http://127\.0\.0\.1:1/: "):
        await client.request("GET", "http://127.0.0.1:1/")
    with pytest.raises(TransientError, match=r"GET http://no-such-host\.invalid/: "):
        await client.request("GET", "http://no-such-host.invalid/")
    await client.close()


@pytest.mark.parametrize("url", ["", "ftp://x/", "no url", "http://", "http://[::1", "file:///etc/passwd"])
async def test_what_is_no_url_is_refused_for_good(url: str) -> None:
    client = AiohttpClient(HttpConfig())
    with pytest.raises(PermanentError, match="no URL that can be asked"):
        await client.request("GET", url)
    await client.close()


async def test_authorities_that_can_not_be_read_are_named(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"http\.ca: /nowhere\.pem can not be read"):
        AiohttpClient(HttpConfig(ca="/nowhere.pem"))


def only(*allowed: str) -> HostRule:
    """Lets these hosts and addresses be asked."""
    return lambda host, address: "" if host in allowed or str(address) in allowed else f"{host} at {address} is refused"


async def fine(request: web.Request) -> web.StreamResponse:
    return web.Response(text=request.host)


async def test_a_rule_sees_the_addresses_that_names_mean() -> None:
    async with answering(fine) as (client, port):
        assert (await client.restricted(only("127.0.0.1")).request("GET", f"http://localhost:{port}/")).status == 200
        with pytest.raises(
            PermanentError, match=r"^GET http://localhost:\d+/: localhost at (127\.0\.0\.1|::1) is refused"
        ):
            await client.restricted(only("10.0.0.1")).request("GET", f"http://localhost:{port}/")
        assert (await client.request("GET", f"http://localhost:{port}/")).status == 200


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("127.0.0.1", "127.0.0.1 at 127.0.0.1 is refused"),
        ("[::1]", "::1 at ::1 is refused"),
        ("[::ffff:127.0.0.1]", "is refused"),
        ("2130706433", "no URL that can be asked"),
        ("127.1", "no URL that can be asked"),
        ("0177.0.0.1", "no URL that can be asked"),
        ("127.0.0.1.", "no URL that can be asked"),
    ],
)
async def test_a_rule_sees_addresses_however_they_are_written(host: str, problem: str) -> None:
    async with answering(fine) as (client, port):
        with pytest.raises(PermanentError, match=problem.replace(".", r"\.")):
            await client.restricted(only("nothing")).request("GET", f"http://{host}:{port}/")


async def test_connections_made_without_the_rule_are_not_used_under_it() -> None:
    async with answering(fine) as (client, port):
        await client.request("GET", f"http://localhost:{port}/")
        with pytest.raises(PermanentError, match="is refused"):
            await client.restricted(only("nothing")).request("GET", f"http://localhost:{port}/")


async def test_a_proxy_is_asked_for_hosts_that_the_rule_allows_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(fine) as (client, port):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "direct.invalid")
        restricted = client.restricted(only("outside.invalid"))
        assert (await restricted.request("GET", "http://outside.invalid/x")).text() == "outside.invalid"
        with pytest.raises(PermanentError, match=r"inside\.invalid at None is refused"):
            await restricted.request("GET", "http://inside.invalid/")
        with pytest.raises(PermanentError, match=r"169\.254\.169\.254 at 169\.254\.169\.254 is refused"):
            await restricted.request("GET", "http://169.254.169.254/")


async def test_rules_of_a_restricted_client_add_up() -> None:
    async with answering(fine) as (client, port):
        both = client.restricted(only("localhost")).restricted(only("127.0.0.1"))
        assert (await both.request("GET", f"http://localhost:{port}/")).status == 200
        with pytest.raises(PermanentError, match="is refused"):
            await both.request("GET", f"http://127.0.0.1:{port}/")


async def test_a_request_that_was_not_sent_differs_from_one_that_was_not_answered() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    async with answering(silent) as (client, port):
        with pytest.raises(UnansweredError):
            await client.request("POST", f"http://127.0.0.1:{port}/")
    async with answering(fine) as (client, port):
        closed = f"http://127.0.0.1:{port}/"
    client = AiohttpClient(HttpConfig())
    try:
        with pytest.raises(TransientError) as caught:
            await client.request("POST", closed)
    finally:
        await client.close()
    assert not isinstance(caught.value, UnansweredError)


async def test_credentials_of_a_url_are_not_told() -> None:
    client = AiohttpClient(HttpConfig())
    try:
        with pytest.raises(TransientError) as caught:
            await client.request("GET", "http://me:s3cret@127.0.0.1:1/x?token=s3cret")
    finally:
        await client.close()
    assert "GET http://127.0.0.1:1/x: " in str(caught.value)
    assert "s3cret" not in str(caught.value)
