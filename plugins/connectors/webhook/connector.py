"""Runs tasks of type ``webhook``, as flytekit's ``WebhookTask`` makes them: one HTTP request each."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote, quote_plus, urlencode

import msgspec
from msgspec import Meta
from yarl import URL

from propfan.pluginmachinery.connector import (
    ConnectorSetup,
    HttpResponse,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    ConfigError,
    PermanentError,
    TaskError,
    TransientError,
    UnansweredError,
)
from propfan.plugins.connectors.hosts import HostConfig
from propfan.plugins.connectors.http_answers import retry_after_s
from propfan.plugins.connectors.offered_secrets import OfferedSecrets
from propfan.plugins.connectors.placeholders import Placeholders, as_text, secret_names
from propfan.plugins.connectors.redaction import HIDDEN, redacted

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods whose second request does no more than the first (RFC 9110, 9.2.2)."""

_IN_QUERY: Final = frozenset({"GET", "HEAD"})
"""Methods that carry ``data`` in the query."""

_NOT_TAKEN: Final = frozenset({408, 425, 429, 503})
"""Statuses of a server that did not begin to work on the request (RFC 9110, RFC 8470, RFC 6585)."""

_OWN_HEADERS: Final = frozenset({"connection", "content-length", "host", "te", "transfer-encoding", "upgrade"})
"""Follow from the request itself."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MIN_HIDDEN_CHARS: Final = 4
"""Shorter secrets would make any text unreadable."""

_MAX_TOLD_CHARS: Final = 1000

_MAYBE_TAKEN: Final = "the receiver may have taken it, so whether it is repeated is left to the task's retries"

_REPLY_S: Final = 0.5
"""Kept of the time that the caller waits, so that it hears that nobody answered and does not have it sent again."""


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``connectors.webhook``.

    Attributes:
        hosts: Which hosts tasks may have asked.
        secrets: Secrets of the service that tasks may name, and the hosts that each may be sent to. Secrets that
            a task brings itself go where it says.
        idempotency_header: Name of the header by which receivers tell repeats; empty sends none.
        max_response_bytes: More of an answer is cut off.
    """

    hosts: HostConfig = HostConfig()
    secrets: Mapping[str, Sequence[str]] = {}
    idempotency_header: str = "Idempotency-Key"
    max_response_bytes: Annotated[int, Meta(ge=0, le=2 * 1024 * 1024)] = 128 * 1024


class WebhookSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task.

    Attributes:
        data: Sent as JSON, or as the query of GET and HEAD.
        show_data: Whether the output has the data.
        show_url: Whether output and messages have the URL, which may be a secret itself.
    """

    url: Annotated[str, Meta(min_length=1)]
    method: str = "POST"
    headers: Mapping[str, Any] | None = None
    data: Any = None
    show_data: bool = False
    show_url: bool = False
    timeout_sec: Annotated[float, Meta(gt=0, le=86_400)] = 10.0


class Call(msgspec.Struct, frozen=True):
    """One request, as it goes out.

    Attributes:
        key: By which the receiver knows it again; empty without one of ours.
        shown: What messages call it.
        hidden: Values of secrets, in every writing, that nobody may be told.
    """

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    key: str
    shown: str
    hidden: Sequence[str]

    def __repr__(self) -> str:
        return f"Call({self.shown})"

    @property
    def info(self) -> Mapping[str, Any]:
        return {"idempotency_key": self.key} if self.key else {}

    def info_of(self, response: HttpResponse) -> Mapping[str, Any]:
        return {"status_code": response.status, **self.info}

    def without_secrets(self, text: str) -> str:
        return redacted(text, self.hidden)


class WebhookConnector(SyncConnector):
    """Sends one request and answers with what came back, as output ``info``.

    Any status from 200 to 299 is a success: a receiver that answers 201, 202 or 204 has taken the message, and to
    fail the task would have it sent again. Each request carries the attempt's unique name, by which a receiver
    tells that it is a repeat: ``do`` is called at least once.
    """

    name = "Webhook Connector"
    categories = (TaskCategory("webhook"),)

    def __init__(self, setup: ConnectorSetup) -> None:
        """Raises ``ConfigError`` when the section is wrong."""
        super().__init__(setup)
        self._config: Final = setup.section("webhook", WebhookConfig)
        section = "connectors.webhook"
        header = self._config.idempotency_header
        if header and (not _TOKEN.fullmatch(header) or header.lower() in _OWN_HEADERS):
            raise ConfigError(f"{section}.idempotency-header", f"'{header}' is no name of a header")
        self._http: Final = setup.http.restricted(self._config.hosts.rule(f"{section}.hosts"))
        self._secrets: Final = OfferedSecrets(self._config.secrets, f"{section}.secrets")

    async def do(self, task: TaskRequest) -> Resource:
        spec = task.custom(WebhookSpec)
        inputs = task.inputs()
        try:
            call = await self._call(task, spec, inputs)
        except BadTaskSpecificationError as error:
            raise BadTaskSpecificationError(f"task '{task.template.id.name}' (webhook): {error.message}") from None
        try:
            response = await self._http.request(
                call.method, str(call.url), headers=call.headers, body=call.body, timeout_s=call.timeout_s
            )
        except UnansweredError as error:
            told = _told(error, call)
            if call.method in _REPEATABLE:
                raise TransientError(error.code, told) from None
            return Resource(RemotePhase.RETRYABLE_FAILED, f"{told}; {_MAYBE_TAKEN}", custom_info=call.info)
        except TransientError as error:
            raise TransientError(error.code, _told(error, call), error.retry_after_s) from None
        except PermanentError as error:
            raise PermanentError(error.code, _told(error, call)) from None
        if not response.is_success:
            return self._refused(call, response)
        message = f"{call.shown}: status {response.status}"
        outputs = {"info": self._info(spec, inputs, call, response)}
        return Resource(RemotePhase.SUCCEEDED, message, outputs=outputs, custom_info=call.info_of(response))

    async def _call(self, task: TaskRequest, spec: WebhookSpec, inputs: Mapping[str, Any]) -> Call:
        """Raises ``BadTaskSpecificationError`` when nothing can be sent, or a secret may not be."""
        method = spec.method.upper()
        if method not in _METHODS:
            raise BadTaskSpecificationError(f"method '{spec.method}' is none of {', '.join(sorted(_METHODS))}")
        names = secret_names([spec.url, spec.headers or {}, spec.data])
        secrets = await self._secrets.values(names, task.connection, self.setup.secrets)
        placeholders = Placeholders({"inputs": inputs, "secrets": secrets})
        url = _url(placeholders.text(spec.url, "custom.url"))
        self._secrets.check(names, (url.raw_host or "").lower(), task.connection)
        headers = _headers(placeholders.filled(spec.headers or {}, "custom.headers"))
        data = placeholders.filled(spec.data, "custom.data")
        body, key = None, ""
        if method in _IN_QUERY:
            url = _with_query(url, data)
        else:
            if data is not None or method != "DELETE":
                body = msgspec.json.encode({} if data is None else data)
                headers.setdefault("content-type", "application/json")
            name = self._config.idempotency_header.lower()
            if name and name not in headers and (key := _unique_name(task)):
                headers[name] = key
        timeout_s = spec.timeout_sec
        if task.time_left_s is not None:
            timeout_s = min(timeout_s, max(task.time_left_s - _REPLY_S, task.time_left_s / 2))
        where = _shown(spec, inputs) if spec.show_url else _authority(url)
        return Call(
            method, url, headers, body, timeout_s, key, shown=f"{method} {where}", hidden=_writings(secrets.values())
        )

    def _info(
        self, spec: WebhookSpec, inputs: Mapping[str, Any], call: Call, response: HttpResponse
    ) -> Mapping[str, Any]:
        """The output, with what flytekit's has."""
        text = call.without_secrets(_text(response))
        cut = text.encode("utf-8", "replace")[: self._config.max_response_bytes].decode("utf-8", "ignore")
        info: dict[str, Any] = {"status_code": response.status, "response_data": cut}
        if len(cut) < len(text):
            info["response_truncated"] = True
        if spec.show_data:
            data = {} if spec.data is None else spec.data
            info["input_data"] = _hiding(data, inputs).filled(data, "custom.data")
        if spec.show_url:
            info["url"] = _shown(spec, inputs)
        return info

    def _refused(self, call: Call, response: HttpResponse) -> Resource:
        """Raises ``TransientError`` where the same request may be sent once more without harm."""
        told = call.without_secrets(_text(response))[:_MAX_TOLD_CHARS]
        problem = f"{call.shown}: Webhook failed with status code {response.status}, response: {told}"
        if response.status in _NOT_TAKEN or (response.status >= 500 and call.method in _REPEATABLE):
            raise TransientError("", problem, retry_after_s(response, self.setup))
        if response.status >= 500:
            problem = f"{problem}; {_MAYBE_TAKEN}"
            return Resource(RemotePhase.RETRYABLE_FAILED, problem, custom_info=call.info_of(response))
        if 300 <= response.status < 400:
            problem += "; redirects are not followed: give the URL that the receiver has now"
        return Resource(RemotePhase.FAILED, problem, custom_info=call.info_of(response))


def _url(text: str) -> URL:
    """Raises ``BadTaskSpecificationError`` without the text, which may hold a secret."""
    try:
        url = URL(text)
    except (ValueError, UnicodeError):
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise BadTaskSpecificationError("url is no URL with http:// or https:// and a host")
    return url.with_fragment(None)


def _headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """By names in lower case."""
    made = {}
    for name, value in headers.items():
        text = as_text(value)
        if not _TOKEN.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise BadTaskSpecificationError(f"header '{name[:100]}' can not be set")
        if not text.isprintable() and not text.replace("\t", "").isprintable():
            problem = "is no single line; inputs and secrets in headers must be without line ends"
            raise BadTaskSpecificationError(f"the value of header '{name}' {problem}")
        made[name.lower()] = text
    return made


def _with_query(url: URL, data: Any) -> URL:
    """``data`` added to what the URL asks for already."""
    if not data:
        return url
    if not isinstance(data, Mapping):
        raise BadTaskSpecificationError("data of GET and HEAD becomes the query, so it must be a mapping")
    pairs = [
        (name, _in_query(item))
        for name, value in data.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    query = "&".join(part for part in (url.raw_query_string, urlencode(pairs)) if part)
    return URL(f"{str(url).partition('?')[0]}?{query}", encoded=True)


def _in_query(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return as_text(value)


def _hiding(template: Any, inputs: Mapping[str, Any]) -> Placeholders:
    """What ``template`` is filled with for people."""
    return Placeholders({"inputs": inputs, "secrets": dict.fromkeys(secret_names(template), HIDDEN)})


def _shown(spec: WebhookSpec, inputs: Mapping[str, Any]) -> str:
    """The URL without secrets, also without those that are written into it as user and password."""
    return _without_credentials(_hiding(spec.url, inputs).text(spec.url, "custom.url"))


def _authority(url: URL) -> str:
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}"


def _writings(secrets: Iterable[str]) -> tuple[str, ...]:
    """As they are, and as they are written in URLs and in JSON."""
    return tuple(
        writing
        for value in secrets
        if len(value) >= _MIN_HIDDEN_CHARS
        for writing in (
            value,
            quote(value),
            quote(value, safe=""),
            quote_plus(value),
            msgspec.json.encode(value).decode()[1:-1],
        )
    )


def _told(error: TaskError, call: Call) -> str:
    """What the HTTP client tells, with the URL as it may be shown."""
    url = _without_credentials(str(call.url).partition("?")[0])
    return call.without_secrets(error.message.replace(f"{call.method} {url}", call.shown))


def _without_credentials(url: str) -> str:
    return re.sub(r"//[^/?#]*@", "//", url)


def _unique_name(task: TaskRequest) -> str:
    """Empty for a run without anything that tells attempts apart."""
    try:
        return task.unique_name()
    except BadTaskSpecificationError:
        return ""


def _text(response: HttpResponse) -> str:
    """The answer in the character set that it names, else in UTF-8; bytes that are none are replaced."""
    named = re.search(r"charset=[\"']?([\w.:-]+)", response.headers.get("content-type", ""), re.IGNORECASE)
    try:
        codec = codecs.lookup(named[1]).name if named else "utf-8"
        return response.body.decode(codec, "replace")
    except (LookupError, ValueError):
        return response.text()
