"""Unary calls by the Connect protocol (https://connectrpc.com/docs/protocol), over HTTP/1.1.

The generated clients of ``flyteidl2`` need packages that nothing else here does, and a call is a
plain POST.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message

from propfan.pluginmachinery.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    import aiohttp

_Answer = TypeVar("_Answer", bound=Message)

MAX_ANSWER_BYTES: Final = 64 * 2**20
_MAX_TOLD_CHARS: Final = 500
_WORTH_PACKING_BYTES: Final = 4096

_CODES_OF_HTTP: Final = {
    400: "internal",
    401: "unauthenticated",
    403: "permission_denied",
    404: "unimplemented",
    429: "unavailable",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}
"""What an answer means that is none of the protocol, by its specification."""


class CallError(UnavailableError):
    """A service refused a call, or did not answer.

    Attributes:
        code: Of Connect, e.g. ``not_found``; ``unavailable`` when there was no answer.
    """

    def __init__(self, target: str, code: str, problem: str) -> None:
        super().__init__(target, f"{code}: {problem}" if problem else code)
        self.code = code


class _Refusal(msgspec.Struct):
    code: str = ""
    message: str = ""


_refusals: Final = msgspec.json.Decoder(_Refusal)


class ConnectClient:
    """Calls of one server.

    Args:
        url: With or without a path; ``dns:///host:port`` and ``host:port`` are plain HTTP.
        timeout_s: Of one call.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        self._session: Final = session
        self.url: Final = url
        self._timeout_s: Final = timeout_s

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, timeout_s: float, setting: str) -> AsyncIterator[Self]:
        """No call is made yet.

        Args:
            setting: Where the URL comes from, for the error.

        Raises:
            ConfigError: it is no URL of a server.
        """
        import aiohttp

        base = _base_url(url, setting)
        times = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(10.0, timeout_s))
        agent = {"User-Agent": f"propfan/{metadata.version('propfan')}"}
        async with aiohttp.ClientSession(timeout=times, headers=agent, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, base, timeout_s)

    async def call(self, method: str, request: Message, answer: type[_Answer]) -> _Answer:
        """Calls ``<package>.<Service>/<Method>``.

        Raises:
            CallError: it was refused, or there was no answer.
        """
        import aiohttp

        body = request.SerializeToString()
        headers = {
            "Content-Type": "application/proto",
            "Connect-Protocol-Version": "1",
            "Connect-Timeout-Ms": str(int(self._timeout_s * 1000)),
        }
        if len(body) > _WORTH_PACKING_BYTES:
            body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=1), "gzip"
        try:
            async with self._session.post(
                f"{self.url}/{method}", data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await response.content.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError as error:
            raise CallError(self._target(method), "deadline_exceeded", f"no answer in {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallError(self._target(method), "unavailable", str(error) or type(error).__name__) from error
        if response.status != 200:
            raise self._refusal(method, response.status, content)
        if response.content_type != "application/proto" or len(content) > MAX_ANSWER_BYTES:
            problem = f"the answer is {response.content_type} of {len(content)} bytes, not a protobuf message"
            raise CallError(self._target(method), "unknown", problem)
        try:
            return answer.FromString(content)
        except ProtobufDecodeError as error:
            raise CallError(self._target(method), "unknown", f"the answer is not one: {error}") from error

    def _refusal(self, method: str, status: int, content: bytes) -> CallError:
        try:
            refusal = _refusals.decode(content)
        except (msgspec.DecodeError, RecursionError):
            refusal = _Refusal(message=content[:_MAX_TOLD_CHARS].decode(errors="replace").strip())
        code = refusal.code or _CODES_OF_HTTP.get(status, "unknown")
        return CallError(self._target(method), code, refusal.message[:_MAX_TOLD_CHARS] or f"HTTP {status}")

    def _target(self, method: str) -> str:
        return f"{method} at {self.url}"


def _base_url(url: str, setting: str) -> str:
    text = url.removeprefix("dns:///")
    if "://" not in text:
        text = f"http://{text}"
    parts = urlsplit(text)
    try:
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(setting, f"{url!r} is no URL of a server, such as http://flyte:8090")
    return text.rstrip("/")
