"""The webhook connector, against a real receiver on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import pytest
from aiohttp import web
from flyteidl2.core import literals_pb2, types_pb2

from propfan.pluginmachinery.connector import ConnectorSetup, HttpResponse, RemotePhase, Resource, TaskRequest, values
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PermanentError, TransientError
from propfan.pluginmachinery.testing import (
    FakeHttp,
    HttpCall,
    JobStory,
    SyncConnectorContract,
    connector_setup,
    connector_task,
    http_answer,
    task_template,
)
from propfan.plugins.connectors.webhook.connector import WebhookConnector
from tests.unit.plugins.connectors.receivers import Receiver, http_client, never, receiving

LOOPBACK: Mapping[str, Any] = {"hosts": {"allow-loopback": True}}


def webhook(
    url: str, inputs: Mapping[str, Any] | None = None, *, brought: Mapping[str, str] | None = None, **custom: Any
) -> TaskRequest:
    """``custom`` as flytekit writes it, with its defaults."""
    defaults = {"method": "POST", "headers": {}, "data": {}, "show_data": False, "show_url": False, "timeout_sec": 10}
    template = task_template("webhook", custom={"url": url, **defaults, **custom}, outputs={"info": types_pb2.STRUCT})
    return connector_task(template, literals(inputs or {}), secrets=brought)


def literals(inputs: Mapping[str, Any]) -> literals_pb2.LiteralMap:
    made = values.to_outputs("tests", inputs).literals
    return literals_pb2.LiteralMap(literals={each.name: each.value for each in made})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving(Receiver()) as made:
        yield made


@pytest.fixture
async def setup(receiver: Receiver) -> AsyncIterator[ConnectorSetup]:
    async with http_client() as http:
        yield connector_setup(http=http, sections={"webhook": LOOPBACK})


def connector(
    setup: ConnectorSetup, service_secrets: Mapping[str, str] | None = None, /, **section: Any
) -> WebhookConnector:
    changed = connector_setup(http=setup.http, secrets=service_secrets, sections={"webhook": {**LOOPBACK, **section}})
    return WebhookConnector(changed)


def info(resource: Resource) -> Mapping[str, Any]:
    assert resource.phase is RemotePhase.SUCCEEDED, resource
    assert resource.outputs is not None
    found: Mapping[str, Any] = resource.outputs["info"]
    return found


class TestContract(SyncConnectorContract):
    connector_class = WebhookConnector
    stories: ClassVar[Sequence[JobStory]] = (
        JobStory(
            "delivered",
            webhook("http://receiver.example/hook", {"n": 3}, data={"n": "{inputs.n}"}, show_data=True, show_url=True),
            RemotePhase.SUCCEEDED,
            {
                "info": {
                    "status_code": 200,
                    "response_data": "fine",
                    "input_data": {"n": 3},
                    "url": "http://receiver.example/hook",
                }
            },
        ),
        JobStory(
            "refused",
            webhook("http://receiver.example/missing"),
            RemotePhase.FAILED,
            message="Webhook failed with status code 404, response: no such hook",
        ),
        JobStory(
            "not known whether it was taken",
            webhook("http://receiver.example/broken"),
            RemotePhase.RETRYABLE_FAILED,
            message="whether it is repeated is left to the task's retries",
        ),
    )

    @pytest.fixture
    def setup_ctx(self) -> ConnectorSetup:
        answers = {"hook": (200, b"fine"), "missing": (404, b"no such hook"), "broken": (500, b"oh")}

        def answer(call: HttpCall) -> HttpResponse:
            status, text = answers.get(call.url.rpartition("/")[2], (404, b""))
            return http_answer(status, body=text)

        return connector_setup(http=FakeHttp(answer))


pytestmark = pytest.mark.anyio


async def test_data_is_sent_as_json_with_inputs_of_their_types(receiver: Receiver, setup: ConnectorSetup) -> None:
    data = {
        "n": "{inputs.n}",
        "text": "n is {inputs.n}, {inputs.flag}, {inputs.list}",
        "list": ["{inputs.list}", "{inputs.list.1}"],
        "deep": {"{inputs.n}": "{inputs.f}"},
        "integer": 42,
        "none": None,
        "braces": '{"a": {inputs.n}} {other} {{inputs.n}}',
    }
    task = webhook(
        f"{receiver.url}/{{inputs.text}}/x?q=1",
        {"n": 3, "f": 2.5, "flag": True, "list": [1, 2], "text": "a b"},
        headers={"X-N": "{inputs.n}"},
        data=data,
    )
    done = info(await connector(setup).do(task))
    assert done == {"status_code": 200, "response_data": "fine"}
    assert receiver.last.json() == {
        "n": 3,
        "text": "n is 3, True, [1,2]",
        "list": [[1, 2], 2],
        "deep": {"{inputs.n}": 2.5},
        "integer": 42,
        "none": None,
        "braces": '{"a": 3} {other} {3}',
    }
    assert (receiver.last.method, receiver.last.path, receiver.last.query) == ("POST", "/a b/x", [("q", "1")])
    assert receiver.last.headers["x-n"] == "3"
    assert receiver.last.headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_get_sends_data_as_query(receiver: Receiver, setup: ConnectorSetup, method: str) -> None:
    data = {"a": 1, "b": True, "l": [1, 2], "n": None, "s": "x y&+", "d": {"k": 1}}
    await connector(setup).do(webhook(f"{receiver.url}/hook?q=%2B1#part", method=method, data=data))
    assert sorted(receiver.last.query) == [
        ("a", "1"), ("b", "true"), ("d", '{"k":1}'), ("l", "1"), ("l", "2"), ("n", ""), ("q", "+1"), ("s", "x y&+"),
    ]  # fmt: skip
    assert receiver.last.body == b""
    assert "idempotency-key" not in receiver.last.headers


async def test_post_without_data_sends_an_empty_object(receiver: Receiver, setup: ConnectorSetup) -> None:
    await connector(setup).do(webhook(receiver.url))
    assert receiver.last.json() == {}


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_every_status_of_success_is_one(receiver: Receiver, setup: ConnectorSetup, status: int) -> None:
    receiver.answer = lambda _: web.Response(status=status)
    assert info(await connector(setup).do(webhook(receiver.url)))["status_code"] == status


async def test_repeats_carry_one_key_and_attempts_their_own(receiver: Receiver, setup: ConnectorSetup) -> None:
    task = webhook(receiver.url)
    first = await connector(setup).do(task)
    await connector(setup).do(task)
    await connector(setup).do(connector_task(task.template, attempt=1))
    keys = [each.headers["idempotency-key"] for each in receiver.received]
    assert keys == [task.unique_name(), keys[0], connector_task(task.template, attempt=1).unique_name()]
    assert keys[2] != keys[0]
    assert first.custom_info == {"status_code": 200, "idempotency_key": keys[0]}


async def test_the_key_of_a_task_goes_before_ours(receiver: Receiver, setup: ConnectorSetup) -> None:
    resource = await connector(setup).do(webhook(receiver.url, headers={"IDEMPOTENCY-KEY": "mine"}))
    assert resource.custom_info == {"status_code": 200}
    assert receiver.last.headers["idempotency-key"] == "mine"


async def test_the_header_can_have_another_name_or_none(receiver: Receiver, setup: ConnectorSetup) -> None:
    task = webhook(receiver.url)
    await connector(setup, **{"idempotency-header": "X-Request-Id"}).do(task)
    assert receiver.last.headers["x-request-id"] == task.unique_name()
    await connector(setup, **{"idempotency-header": ""}).do(task)
    assert task.unique_name() not in receiver.last.headers.values()


async def test_a_run_without_identity_sends_no_key(receiver: Receiver, setup: ConnectorSetup) -> None:
    task = msgspec.structs.replace(webhook(receiver.url), metadata=None, output_prefix="")
    assert info(await connector(setup).do(task))["status_code"] == 200
    assert "idempotency-key" not in receiver.last.headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_that_takes_nothing_now_is_asked_later(
    receiver: Receiver, setup: ConnectorSetup, method: str, status: int
) -> None:
    receiver.answer = lambda _: web.Response(status=status, text="busy", headers={"Retry-After": "7"})
    with pytest.raises(TransientError, match=f"status code {status}, response: busy") as caught:
        await connector(setup).do(webhook(receiver.url, method=method))
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(("method", "is_repeated"), [("GET", True), ("PUT", True), ("DELETE", True), ("POST", False)])
@pytest.mark.parametrize("is_answered", [True, False])
async def test_only_what_can_be_repeated_without_harm_is_repeated(
    receiver: Receiver, setup: ConnectorSetup, method: str, *, is_repeated: bool, is_answered: bool
) -> None:
    receiver.answer = lambda _: web.Response(status=502) if is_answered else None
    task = webhook(receiver.url, method=method)
    if is_repeated:
        with pytest.raises(TransientError):
            await connector(setup).do(task)
    else:
        resource = await connector(setup).do(task)
        assert resource.phase is RemotePhase.RETRYABLE_FAILED
        assert "the receiver may have taken it" in resource.message


async def test_a_post_that_was_not_sent_is_repeated(receiver: Receiver, setup: ConnectorSetup) -> None:
    async with receiving(Receiver()) as gone:
        url = gone.url
    with pytest.raises(TransientError, match=f"POST {url}: Cannot connect"):
        await connector(setup).do(webhook(url))


async def test_redirects_are_not_followed(receiver: Receiver, setup: ConnectorSetup) -> None:
    receiver.answer = lambda _: web.Response(status=302, headers={"Location": "http://169.254.169.254/"})
    resource = await connector(setup).do(webhook(receiver.url))
    assert resource.phase is RemotePhase.FAILED
    assert "give the URL that the receiver has now" in resource.message
    assert len(receiver.received) == 1


async def test_any_answer_is_a_text(receiver: Receiver, setup: ConnectorSetup) -> None:
    answers: Mapping[bytes, tuple[str, str]] = {
        b'{"k": [1]}': ("application/json", '{"k": [1]}'),
        b"\xff\x00": ("application/octet-stream", "\ufffd\x00"),
        "größe".encode("latin-1"): ("text/plain; charset=ISO-8859-1", "größe"),
        "größe".encode(): ("text/plain; charset=no-such", "größe"),
        b"": ("text/plain; charset=hex", ""),
    }
    for body, (kind, text) in answers.items():
        receiver.answer = lambda _, body=body, kind=kind: web.Response(body=body, headers={"Content-Type": kind})  # type: ignore[misc]
        assert info(await connector(setup).do(webhook(receiver.url)))["response_data"] == text


async def test_a_long_answer_is_cut(receiver: Receiver, setup: ConnectorSetup) -> None:
    receiver.answer = lambda _: web.Response(text="x" * 1000)
    done = info(await connector(setup, **{"max-response-bytes": 10}).do(webhook(receiver.url)))
    assert done == {"status_code": 200, "response_data": "x" * 10, "response_truncated": True}


async def test_a_secret_is_not_told_by_a_cut(receiver: Receiver, setup: ConnectorSetup) -> None:
    receiver.answer = lambda _: web.Response(text="token s3cret-value and more")
    task = webhook(receiver.url, headers={"a": "{secrets.token}"}, brought={"token": "s3cret-value"})
    done = info(await connector(setup, **{"max-response-bytes": 12}).do(task))
    assert done["response_data"] == "token *** an"


async def test_secrets_are_sent_and_never_told(receiver: Receiver, setup: ConnectorSetup) -> None:
    receiver.answer = lambda got: web.Response(text=f"{got.path} {got.headers['authorization']} {got.body.decode()}")
    task = webhook(
        receiver.url + "/{secrets.path}",
        headers={"Authorization": "Bearer {secrets.token}"},
        data={"token": "{secrets.token}"},
        brought={"token": 's3cret"/value', "path": "T00/B00"},
        show_data=True,
        show_url=True,
    )
    resource = await connector(setup).do(task)
    assert receiver.last.path == "/T00/B00"
    assert receiver.last.headers["authorization"] == 'Bearer s3cret"/value'
    assert receiver.last.json() == {"token": 's3cret"/value'}
    done = info(resource)
    assert done["url"] == receiver.url + "/***"
    assert done["input_data"] == {"token": "***"}
    assert done["response_data"] == '/*** Bearer *** {"token":"***"}'
    assert resource.message == f"POST {receiver.url}/***: status 200"


@pytest.mark.parametrize("show_url", [True, False])
async def test_failures_do_not_tell_the_secrets_of_a_url(
    receiver: Receiver, setup: ConnectorSetup, *, show_url: bool
) -> None:
    async with receiving(Receiver()) as gone:
        host = f"127.0.0.1:{gone.port}"
    url = f"http://me:p4ssword@{host}/{{secrets.path}}?k={{secrets.path}}"
    task = webhook(url, brought={"path": "T00/B 00"}, show_url=show_url)
    with pytest.raises(TransientError) as caught:
        await connector(setup).do(task)
    told = str(caught.value)
    assert f"POST http://{host}" in told
    assert not any(secret in told for secret in ("T00", "B 00", "B%2000", "p4ssword"))


async def test_without_show_url_messages_have_the_host_only(receiver: Receiver, setup: ConnectorSetup) -> None:
    receiver.answer = lambda _: web.Response(status=404, text="no")
    resource = await connector(setup).do(webhook(f"{receiver.url}/services/T00/B00"))
    assert resource.message == f"POST {receiver.url}: Webhook failed with status code 404, response: no"


async def test_a_secret_of_the_service_goes_to_its_hosts_only(receiver: Receiver, setup: ConnectorSetup) -> None:
    offered = {"secrets": {"token": ["127.0.0.1"]}}
    task = webhook(receiver.url, headers={"authorization": "{secrets.token}"})
    with pytest.raises(ConfigError):
        connector(setup, {"token": "s3cret"}, secrets={"token": ["no host/"]})
    made = connector(setup, {"token": "s3cret", "other": "s3cret"}, **offered)
    with pytest.raises(BadTaskSpecificationError, match=r"none that \{secrets\.token\} is for"):
        await made.do(webhook("http://localhost:1/", headers={"authorization": "{secrets.token}"}))
    with pytest.raises(BadTaskSpecificationError, match=r"\{secrets\.other\} is no secret that the task may use"):
        await made.do(webhook(receiver.url, headers={"authorization": "{secrets.other}"}))
    assert receiver.received == []
    assert info(await made.do(task))["status_code"] == 200
    assert receiver.last.headers["authorization"] == "s3cret"
    with pytest.raises(PermanentError, match="token"):
        await connector(setup, {}, **offered).do(task)


async def test_hosts_are_refused_by_their_addresses(receiver: Receiver, setup: ConnectorSetup) -> None:
    with pytest.raises(PermanentError, match=r"connectors\.webhook\.hosts\.allow-loopback is not set"):
        await connector(setup, hosts={}).do(webhook(f"http://localhost:{receiver.port}/"))
    with pytest.raises(PermanentError, match="where clouds tell machines their credentials"):
        await connector(setup).do(webhook("http://[::ffff:169.254.169.254]/latest/meta-data/", method="GET"))
    assert receiver.received == []


@pytest.mark.parametrize(
    ("custom", "problem"),
    [
        ({"url": ""}, r"at `\$\.url`"),
        ({"url": "ftp://example.com/"}, "url is no URL with http"),
        ({"url": "http:///x"}, "url is no URL with http"),
        ({"url": "http://[::1/"}, "url is no URL with http"),
        ({"method": "CONNECT"}, "method 'CONNECT' is none of DELETE, GET"),
        ({"timeout_sec": 0}, r"at `\$\.timeout_sec`"),
        ({"headers": {"a b": "x"}}, "header 'a b' can not be set"),
        ({"headers": {"Host": "x"}}, "header 'Host' can not be set"),
        ({"headers": {"X-A": "{inputs.lines}"}}, "'X-A' is no single line"),
        (
            {"data": {"n": "{inputs.zzz}"}},
            r"custom\.data\.n: there is no 'inputs\.zzz'; inputs are: lines, list, n",
        ),
        ({"data": {"n": "{inputs.n.__class__}"}}, r"custom\.data\.n: .*'inputs\.n' is a int, which is no mapping"),
        ({"data": {"n": "{inputs.lines.__class__.__init__}"}}, "'inputs.lines' is a str, which is no mapping"),
        ({"data": {"n": "{inputs.list.9}"}}, "'inputs.list' has no '9'"),
        ({"method": "GET", "data": ["x"]}, "data of GET and HEAD becomes the query"),
    ],
)
async def test_what_can_not_be_sent_is_refused_by_its_field(
    receiver: Receiver, setup: ConnectorSetup, custom: Mapping[str, Any], problem: str
) -> None:
    inputs = {"n": 1, "lines": "a\r\nX-Evil: 1", "list": [1]}
    task = webhook(**{"url": receiver.url, **custom, "inputs": inputs})
    with pytest.raises(BadTaskSpecificationError, match=problem) as caught:
        await connector(setup).do(task)
    assert "task 'sample' (webhook): " in str(caught.value)
    assert receiver.received == []


@pytest.mark.parametrize("header", ["a b", "Host"])
def test_a_header_that_can_not_be_is_refused_when_the_service_starts(header: str) -> None:
    with pytest.raises(ConfigError, match=r"connectors\.webhook\.idempotency-header"):
        WebhookConnector(connector_setup(sections={"webhook": {"idempotency-header": header}}))


async def test_a_receiver_that_does_not_answer_in_time_is_not_asked_again(
    receiver: Receiver, setup: ConnectorSetup
) -> None:
    receiver.answer = never
    resource = await connector(setup).do(webhook(receiver.url, timeout_sec=0.05))
    assert resource.phase is RemotePhase.RETRYABLE_FAILED
    assert f"POST {receiver.url}: no answer within 0.05 s; the receiver may have taken it" in resource.message
    timed = msgspec.structs.replace(webhook(receiver.url, timeout_sec=60), time_left_s=0.1)
    assert "no answer within 0.05 s" in (await connector(setup).do(timed)).message
    with pytest.raises(TransientError, match=r"no answer within 0\.05 s"):
        await connector(setup).do(webhook(receiver.url, method="PUT", timeout_sec=0.05))
