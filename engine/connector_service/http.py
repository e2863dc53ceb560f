"""The HTTP client that connectors are given."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from propfan.engine.connector_service.config import HttpConfig
from propfan.pluginmachinery.connector import HttpResponse
from propfan.pluginmachinery.errors import ConfigError, PermanentError, TransientError


class AiohttpClient:
    """``HttpClient`` with pooled connections; of the event loop that makes the first request."""

    def __init__(self, config: HttpConfig) -> None:
        """Raises ``ConfigError`` when the authorities can not be read."""
        self._config: Final = config
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
        shown = url.partition("?")[0]
        sent = dict(headers or {})
        if json is not None:
            body = msgspec.json.encode(json)
            if not any(name.lower() == "content-type" for name in sent):
                sent["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._config.timeout_s)
        try:
            async with self._opened().request(
                method,
                url,
                params=params,
                headers=sent,
                data=body,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                content = await self._body(answer, shown)
                received = {name.lower(): value for name, value in answer.headers.items()}
                return HttpResponse(answer.status, received, content, shown)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            raise PermanentError("", f"{method} {shown}: no URL that can be asked: {type(error).__name__}") from error
        except TimeoutError as error:
            raise TransientError("", f"{method} {shown}: no answer within {timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError("", f"{method} {shown}: {str(error) or type(error).__name__}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._config.connections, ssl=self._ssl)
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def _body(self, answer: aiohttp.ClientResponse, shown: str) -> bytes:
        parts, size = [], 0
        async for part in answer.content.iter_chunked(256 * 1024):
            size += len(part)
            if size > self._config.max_answer_bytes:
                limit = f"the limit is {self._config.max_answer_bytes} (http.max-answer-bytes)"
                raise PermanentError("", f"{answer.method} {shown}: the answer is too large, {limit}")
            parts.append(part)
        return b"".join(parts)
