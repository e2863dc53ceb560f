"""Sends requests to one API server: credentials, TLS, keepalive, retries that can do no harm, bounds."""

from __future__ import annotations

import io
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from typing import Final, Self

import aiohttp
import anyio
import msgspec
import structlog
from yarl import URL

from propfan.engine.cluster import Kind
from propfan.engine.kubernetes.answers import error_of
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.kubernetes.credentials import Access, Credentials, Tls
from propfan.engine.kubernetes.lanes import Lane, Rate
from propfan.pluginmachinery.errors import ApiError, ConfigError, ThrottledError, UnauthorizedError, UnavailableError

logger = structlog.get_logger(__name__)

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"

CONNECT_TIMEOUT_S: Final = 10.0
IDLE_S: Final = 60.0
"""How long a connection is kept for the next request; the API server closes idle ones after 90 s."""

THROTTLED_TRIES: Final = 4
"""Of one request that the server refuses as one too many. It had no effect, so any can be repeated."""

RENEW_AGAIN_S: Final = 10.0
"""Between tries to renew credentials: an exec plugin is a process each time, perhaps a question to a person."""

MAX_REFUSAL_BYTES: Final = 2**20
MAX_TOLD_WARNINGS: Final = 1000
LARGE_BODY_BYTES: Final = 2**20
_LEASES_AT_ONCE: Final = 16
"""From which aiohttp wants a file, which it sends in pieces."""

_SOCKET_OPTIONS: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 35_000),
)
"""A peer that is gone without a word is noticed after 35 s, both while a watch is silent and while a request
is being sent. Not every system has every option."""

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
    """Connections made with one set of TLS files, and what to say on them."""

    def __init__(self, access: Access, session: aiohttp.ClientSession) -> None:
        self.access = access
        self.session: Final = session


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
                        await connection.session.close()

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
                return Stream(self, request, await self._send(request, times))

    @contextmanager
    def failures(self, request: Request) -> Iterator[None]:
        """What goes wrong on the way to the server and back, as an error of the API."""
        try:
            yield
        except TimeoutError as error:
            raise UnavailableError(request.target, f"{self.access.server} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
            raise UnavailableError(request.target, f"{self.access.server}: {problem}") from error

    async def _exchange(self, request: Request) -> bytes:
        with self.failures(request):
            async with await self._send(request, self._times) as response:
                return await self._read(request, response, self._config.max_answer_bytes)

    async def _send(self, request: Request, times: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """The answer, once with the present credentials, once more with new ones when they are refused."""
        connection = await self._current()
        access = connection.access
        try:
            return await self._attempt(request, connection, times)
        except UnauthorizedError:
            if not await self._are_renewed(access):
                raise
        return await self._attempt(request, await self._current(), times)

    async def _attempt(
        self, request: Request, connection: _Connection, times: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        access = connection.access
        headers = [*access.headers, ("Accept", request.accept)]
        body: bytes | io.BytesIO | None = None
        if request.body:
            headers.append(("Content-Type", request.content_type))
            body = request.body if len(request.body) < LARGE_BODY_BYTES else io.BytesIO(request.body)
        if request.guard is not None:
            request.guard()
        response = await connection.session.request(
            request.method,
            URL(access.server + request.path, encoded=True),
            data=body,
            headers=headers,
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
        raise AnswerTooLargeError(request.target, f"the answer is larger than {limit} bytes")

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
        if present is not None and present.access.tls == access.tls:
            present.access = access
            return
        try:
            session = self._session(access)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise ConfigError("kubernetes", f"the certificates for {access.server} can not be used: {error}") from error
        if self._retired is not None:
            await self._retired.session.close()
        self._retired, self._connection = present, _Connection(access, session)

    def _session(self, access: Access) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the lanes are the limit, watches come on top
            ssl=not access.server.startswith("https:") or _context(access.tls),
            keepalive_timeout=IDLE_S,
            socket_factory=_socket,
        )
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": self._agent}
        )


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


def _socket(address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, object]) -> socket.socket:
    made = socket.socket(address[0], address[1], address[2])
    for level, name, value in _SOCKET_OPTIONS:
        option: int | None = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(level, option, value)
    return made
