"""Sends requests to one API server: credentials, TLS, keepalive, retries that can do no harm, bounds."""

from __future__ import annotations

import io
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib import metadata
from typing import Final, Self, TypeVar

import aiohttp
import anyio
import msgspec
import structlog
from yarl import URL

from propfan.engine.cluster import Kind
from propfan.engine.kubernetes.answers import error_of
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.kubernetes.credentials import Access, Credentials, Tls
from propfan.engine.kubernetes.exchanges import Exchanges, TooLargeError
from propfan.engine.kubernetes.lanes import Lane, Rate
from propfan.engine.kubernetes.sockets import CONNECT_TIMEOUT_S, IDLE_S, open_socket
from propfan.pluginmachinery.errors import ApiError, ConfigError, ThrottledError, UnauthorizedError, UnavailableError

logger = structlog.get_logger(__name__)

T = TypeVar("T")

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"

THROTTLED_TRIES: Final = 4
"""Of one request that the server refuses as one too many. It had no effect, so any can be repeated."""

RENEW_AGAIN_S: Final = 10.0
"""Between tries to renew credentials: an exec plugin is a process each time, perhaps a question to a person."""

MAX_REFUSAL_BYTES: Final = 2**20
MAX_TOLD_WARNINGS: Final = 1000
LARGE_BODY_BYTES: Final = 2**20
_LEASES_AT_ONCE: Final = 16
"""From which aiohttp wants a file, which it sends in pieces."""

_warning_texts: Final = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"').findall


class Request(msgspec.Struct, frozen=True):
    """What to send.

    Attributes:
        path: With its query.
        target: What it is about, for errors: ``<kind> <namespace>/<name>``.
        kind: Of the objects that it is about.
        group: Waits in turns with those of other groups; the namespace.
        guard: Called right before it is sent, however long it has waited; raises if it must not be any more.
    """

    method: str
    path: str
    target: str
    kind: Kind | None = None
    group: str = ""
    body: bytes = b""
    content_type: str = JSON
    accept: str = JSON
    guard: Callable[[], None] | None = None


class AnswerTooLargeError(UnavailableError):
    """The answer has more bytes than are ever read."""


class _Connection:
    """Connections to one server, made with one set of TLS files, and what to say on them.

    Attributes:
        exchanges: For whole answers, where no proxy is between.
        session: For everything else.
    """

    def __init__(self, access: Access, agent: str) -> None:
        """Raises ``OSError`` or ``ValueError`` when the TLS files or the server's URL can not be used."""
        self.access = access
        context = _context(access.tls) if access.server.startswith("https:") else None
        self.exchanges: Final = Exchanges(access.server, context, access.tls.server_name, agent)
        connector = aiohttp.TCPConnector(
            limit=0,  # the lanes are the limit, watches come on top
            ssl=context or True,
            keepalive_timeout=IDLE_S,
            socket_factory=open_socket,
        )
        self.session: Final = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": agent}
        )

    async def close(self) -> None:
        self.exchanges.close()
        await self.session.close()


class Stream:
    """The body of an answer as it comes."""

    def __init__(self, transport: Transport, request: Request, response: aiohttp.ClientResponse) -> None:
        self._transport: Final = transport
        self._request: Final = request
        self._response: Final = response

    async def read(self) -> bytes:
        """What has come since the last call, at least one byte; empty at the end.

        Raises:
            UnavailableError: the connection broke.
        """
        with self._transport.failures(self._request):
            return await self._response.content.readany()

    def close(self) -> None:
        """Also the connection, for there may be more to come."""
        self._response.close()


class Transport:
    """Requests of one engine to one API server.

    Attributes:
        objects, lists: Lanes of requests for single objects, and for lists.
        leases: For Leases, which must not wait behind a crowd of other writes: who renews too late may not act.
    """

    def __init__(self, credentials: Credentials, config: KubernetesConfig) -> None:
        rate = Rate(config.qps, config.burst)
        self.objects: Final = Lane(config.max_in_flight, rate)
        self.lists: Final = Lane(config.max_lists, rate)
        self.leases: Final = Lane(_LEASES_AT_ONCE, Rate(0, 1))
        self._credentials: Final = credentials
        self._config: Final = config
        self._agent: Final = config.user_agent or f"propfan/{metadata.version('propfan')}"
        self._times: Final = aiohttp.ClientTimeout(total=config.request_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._connection: _Connection | None = None
        self._retired: _Connection | None = None
        """Of TLS files before the present ones. Watches may still use it."""
        self._fresh_until_s = 0.0
        self._no_renewal_before_s = 0.0
        self._renewing: Final = anyio.Lock()
        self._told_warnings: Final[set[str]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, credentials: Credentials, config: KubernetesConfig) -> AsyncIterator[Self]:
        """Reads the credentials; connects with the first request.

        Raises:
            ConfigError: there are none, or they are wrong.
        """
        transport = cls(credentials, config)
        await transport._take(await credentials.load())
        try:
            yield transport
        finally:
            with anyio.CancelScope(shield=True):
                for connection in (transport._connection, transport._retired):
                    if connection is not None:
                        await connection.close()

    @property
    def access(self) -> Access:
        """The credentials in use."""
        assert self._connection is not None
        return self._connection.access

    async def call(self, request: Request, lane: Lane) -> bytes:
        """The answer's body.

        Raises:
            ApiError: the server refused, or did not answer.
        """
        tries = 0
        async with lane.slot(request.group):
            while True:
                try:
                    return await self._exchange(request)
                except ThrottledError as error:
                    tries += 1
                    if tries == THROTTLED_TRIES:
                        raise
                    lane.hold(error.retry_after_s or 1.0)
                    await lane.pace()

    async def stream(self, request: Request, *, limit_s: float | None) -> Stream:
        """A successful answer whose body is read piece by piece; close it.

        Args:
            limit_s: For the whole of it; ``None`` for one that may go on for ever.

        Raises:
            ApiError: the server refused, or did not answer.
        """
        with self.failures(request):
            times = aiohttp.ClientTimeout(total=limit_s, sock_connect=CONNECT_TIMEOUT_S)
            with anyio.fail_after(self._config.request_timeout_s):  # its beginning is not long in coming
                return Stream(self, request, await self._with_credentials(partial(self._begun, request, times)))

    @contextmanager
    def failures(self, request: Request) -> Iterator[None]:
        """What goes wrong on the way to the server and back, as an error of the API."""
        try:
            yield
        except TimeoutError as error:
            raise UnavailableError(request.target, f"{self.access.server} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
            raise UnavailableError(request.target, f"{self.access.server}: {problem}") from error

    async def _exchange(self, request: Request) -> bytes:
        with self.failures(request):
            return await self._with_credentials(partial(self._whole, request))

    async def _with_credentials(self, ask: Callable[[_Connection], Awaitable[T]]) -> T:
        """The answer, once with the present credentials, once more with new ones when they are refused."""
        connection = await self._current()
        access = connection.access
        try:
            return await ask(connection)
        except UnauthorizedError:
            if not await self._are_renewed(access):
                raise
        return await ask(await self._current())

    async def _whole(self, request: Request, connection: _Connection) -> bytes:
        access, limit = connection.access, self._config.max_answer_bytes
        if access.proxy:
            async with await self._begun(request, self._times, connection) as response:
                return await self._read(request, response, limit)
        try:
            answer = await connection.exchanges.exchange(
                request.method,
                request.path,
                self._headers(request, access),
                request.body,
                limit=limit,
                timeout_s=self._config.request_timeout_s,
                guard=request.guard,
            )
        except TooLargeError:
            raise _too_large(request, limit) from None
        if warnings := answer.all(b"warning"):
            self._tell_warnings(request, warnings)
        if answer.status < 300:
            return answer.body
        retry_after = "".join(answer.all(b"retry-after")[:1])
        raise error_of(answer.status, answer.body, request.target, kind=request.kind, retry_after=retry_after)

    def _headers(self, request: Request, access: Access) -> list[tuple[str, str]]:
        headers = [*access.headers, ("Accept", request.accept)]
        if request.body:
            headers.append(("Content-Type", request.content_type))
        return headers

    async def _begun(
        self, request: Request, times: aiohttp.ClientTimeout, connection: _Connection
    ) -> aiohttp.ClientResponse:
        """A successful answer whose body is still to be read."""
        access = connection.access
        body: bytes | io.BytesIO | None = request.body or None
        if len(request.body) >= LARGE_BODY_BYTES:
            body = io.BytesIO(request.body)
        if request.guard is not None:
            request.guard()
        response = await connection.session.request(
            request.method,
            URL(access.server + request.path, encoded=True),
            data=body,
            headers=self._headers(request, access),
            allow_redirects=False,  # they would take the token elsewhere
            proxy=access.proxy or None,
            server_hostname=access.tls.server_name or None,
            timeout=times,
        )
        if "Warning" in response.headers:
            self._tell_warnings(request, response.headers.getall("Warning"))
        if response.status < 300:
            return response
        async with response:
            raise await self._refusal(request, response)

    async def _refusal(self, request: Request, response: aiohttp.ClientResponse) -> ApiError:
        body = await self._read(request, response, MAX_REFUSAL_BYTES)
        retry_after = response.headers.get("Retry-After", "")
        return error_of(response.status, body, request.target, kind=request.kind, retry_after=retry_after)

    async def _read(self, request: Request, response: aiohttp.ClientResponse, limit: int) -> bytes:
        if (response.content_length or 0) <= limit:
            chunks, size = [], 0
            async for chunk in response.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    break
            else:
                return b"".join(chunks)
        response.close()
        raise _too_large(request, limit)

    def _tell_warnings(self, request: Request, headers: list[str]) -> None:
        """Each once: many of them come with every write of a kind."""
        for header in headers:
            for text in _warning_texts(header):
                if text not in self._told_warnings and len(self._told_warnings) < MAX_TOLD_WARNINGS:
                    self._told_warnings.add(text)
                    logger.warning("warning of the API server", about=request.target, warning=text)

    # -- Credentials -------------------------------------------------------------------------------

    async def _current(self) -> _Connection:
        assert self._connection is not None
        if anyio.current_time() >= self._fresh_until_s:
            async with self._renewing:
                if anyio.current_time() >= self._fresh_until_s:
                    await self._renew(anew=False)
        return self._connection

    async def _are_renewed(self, refused: Access) -> bool:
        """Whether there are other credentials now than those that were refused."""
        async with self._renewing:
            if self.access is not refused:
                return True
            now_s = anyio.current_time()
            if now_s < self._no_renewal_before_s:
                return False
            self._no_renewal_before_s = now_s + RENEW_AGAIN_S
            return await self._renew(anew=True)

    async def _renew(self, *, anew: bool) -> bool:
        try:
            await self._take(await self._credentials.load(anew=anew))
        except ConfigError as error:
            logger.warning("credentials can not be renewed", error=str(error))
            self._fresh_until_s = anyio.current_time() + RENEW_AGAIN_S
            return False
        return True

    async def _take(self, access: Access) -> None:
        self._fresh_until_s = anyio.current_time() + access.fresh_for_s
        present = self._connection
        if present is not None and (present.access.server, present.access.tls) == (access.server, access.tls):
            present.access = access
            return
        try:
            made = _Connection(access, self._agent)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise ConfigError("kubernetes", f"the certificates for {access.server} can not be used: {error}") from error
        if self._retired is not None:
            await self._retired.close()
        self._retired, self._connection = present, made


def _too_large(request: Request, limit: int) -> AnswerTooLargeError:
    return AnswerTooLargeError(request.target, f"the answer is larger than {limit} bytes")


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca or None)
    # Python 3.13 began to refuse CAs without an authority key identifier; many clusters have such, and Go takes them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key or None)
    if not tls.is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
