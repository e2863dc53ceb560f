"""The HTTP client that connectors are given."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from propfan.engine.connector_service.config import HttpConfig
from propfan.pluginmachinery.connector import HostRule, HttpResponse
from propfan.pluginmachinery.errors import ConfigError, PermanentError, TransientError, UnansweredError

_USER_INFO: Final = re.compile(r"//[^/?#]*@")


class AiohttpClient:
    """``HttpClient`` with pooled connections; of the event loop that makes the first request."""

    def __init__(
        self, config: HttpConfig, rule: HostRule | None = None, unrestricted: AiohttpClient | None = None
    ) -> None:
        """Raises ``ConfigError`` when the authorities can not be read.

        Args:
            rule: See ``restricted``, which makes the clients that have one.
            unrestricted: The client that such a one is made by.
        """
        self._config: Final = config
        self._rule: Final = rule
        self._unrestricted: Final = unrestricted or self
        self._restricted: Final[list[AiohttpClient]] = []
        self._ssl: ssl.SSLContext | bool = True
        if config.ca:
            try:
                self._ssl = ssl.create_default_context(cafile=config.ca)
            except OSError as error:
                raise ConfigError("http.ca", f"{config.ca} can not be read: {error}") from error
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        json: Any = None,
        timeout_s: float | None = None,
    ) -> HttpResponse:
        """See ``HttpClient.request``."""
        shown = _USER_INFO.sub("//", url.partition("?")[0])
        sent = dict(headers or {})
        if json is not None:
            body = msgspec.json.encode(json)
            if not any(name.lower() == "content-type" for name in sent):
                sent["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._config.timeout_s)
        try:
            target = URL(url)
            session, proxy = self._way_to(target)
            async with session.request(
                method,
                target,
                params=params,
                headers=sent,
                data=body,
                timeout=timeout,
                allow_redirects=False,
                proxy=proxy,
            ) as answer:
                content = await self._body(answer, shown)
                received = {name.lower(): value for name, value in answer.headers.items()}
                return HttpResponse(answer.status, received, content, shown)
        except _RefusedError as error:
            raise PermanentError("", f"{method} {shown}: {error}") from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            raise PermanentError("", f"{method} {shown}: no URL that can be asked: {type(error).__name__}") from error
        except aiohttp.ClientConnectorError as error:
            raise TransientError("", f"{method} {shown}: {str(error) or type(error).__name__}") from error
        except TimeoutError as error:
            raise UnansweredError("", f"{method} {shown}: no answer within {timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnansweredError("", f"{method} {shown}: {str(error) or type(error).__name__}") from error

    def restricted(self, rule: HostRule) -> AiohttpClient:
        """See ``HttpClient.restricted``. It shares no connections: ours were made without the rule."""
        above = self._rule
        both = rule if above is None else lambda host, address: above(host, address) or rule(host, address)
        client = AiohttpClient(self._config, both, self._unrestricted)
        self._restricted.append(client)
        return client

    async def close(self) -> None:
        for client in self._restricted:
            await client.close()
        if self._session is not None:
            await self._session.close()

    def opened(self) -> aiohttp.ClientSession:
        """Its session, for the event loop that asks first."""
        if self._session is None:
            resolver = None if self._rule is None else _RestrictedResolver(self._rule)
            connector = aiohttp.TCPConnector(limit=self._config.connections, ssl=self._ssl, resolver=resolver)
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=self._rule is None, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    def _way_to(self, url: URL) -> tuple[aiohttp.ClientSession, str | None]:
        """The session and, under a rule, the proxy. Checks what no resolver sees.

        That is addresses that URLs are written with, and hosts that a proxy looks up. The proxy itself is the
        operator's, so it is reached without the rule.
        """
        host = (url.raw_host or "").lower()
        if self._rule is None or not host:
            return self.opened(), None
        address = _written_address(host)
        proxy = None if proxy_bypass(host) else getproxies().get(url.scheme)
        if (address is not None or proxy) and (problem := self._rule(host, address)):
            raise _RefusedError(problem)
        return (self._unrestricted if proxy else self).opened(), proxy

    async def _body(self, answer: aiohttp.ClientResponse, shown: str) -> bytes:
        parts, size = [], 0
        async for part in answer.content.iter_chunked(256 * 1024):
            size += len(part)
            if size > self._config.max_answer_bytes:
                limit = f"the limit is {self._config.max_answer_bytes} (http.max-answer-bytes)"
                raise PermanentError("", f"{answer.method} {shown}: the answer is too large, {limit}")
            parts.append(part)
        return b"".join(parts)


class _RefusedError(Exception):
    """A rule does not let the host be asked."""


class _RestrictedResolver(AbstractResolver):
    """Finds the addresses of a host that the rule allows; what is connected to is what it answers."""

    def __init__(self, rule: HostRule) -> None:
        self._rule: Final = rule
        self._resolver: Final = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        problems = [self._rule(host.lower(), _address(each["host"])) for each in found]
        allowed = [each for each, problem in zip(found, problems, strict=True) if not problem]
        if found and not allowed:
            raise _RefusedError(problems[0])
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


def _written_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a URL is written with; ``None`` for a name.

    Raises:
        ValueError: a number that is none, such as ``2130706433`` or ``127.1``, which libraries of C complete.
    """
    if ":" in host or host.replace(".", "").isdigit():
        return _address(host)
    return None


def _address(text: str) -> IPv4Address | IPv6Address:
    """Without the zone of a link-local one."""
    return ip_address(text.partition("%")[0])
