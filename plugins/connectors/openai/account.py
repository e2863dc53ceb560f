"""One key at one address of OpenAI's API, and what the errors of its calls mean for a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio.to_thread
import msgspec
from msgspec import Meta

from propfan.pluginmachinery.connector import Connection, Connector, ConnectorSetup, HttpResponse
from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.pluginmachinery.phases import MessageFormat, TaskLog
from propfan.plugins.connectors.http_answers import NOT_ALLOWED, checked
from propfan.plugins.connectors.redaction import redacted

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from openai import DefaultAsyncHttpxClient as Pool

KEY: Final = "FLYTE_OPENAI_API_KEY"
"""Name of the secret, as the SDK's connectors have it."""

OPENAI_URL: Final = "https://api.openai.com/v1"

QUOTA_USED_UP: Final = "QuotaUsedUp"
"""Code of a task whose account has no money left: unlike other 429s it is no use to wait."""

_CONNECT_S: Final = 10.0
"""For a connection to be made, which takes long only where nobody is."""

_NO_LIST: Final = frozenset({404, 405, 501})
"""Statuses of services that do not know the path of a list, or its method."""

_NO_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


class OpenAIConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``connectors.openai``.

    Attributes:
        base_url: Of the API; empty takes ``OPENAI_BASE_URL`` of the environment, and without it OpenAI's own.
        project: Sent as ``OpenAI-Project``; empty leaves the choice to the key.
        console_url: Of the pages that log links lead to; empty shows links for OpenAI's own API only.
        timeout_s: Of one request, and of a pause within a file. The service's own limits end most calls sooner.
            600 is the vendor library's default.
        search_batches: So many of the newest batches are looked through for one that an earlier call made.
        search_files: The same of files.
        max_file_bytes: Of files of requests and of answers. 200 MB is what OpenAI takes for a batch; answers may be
            longer than their requests.
        max_transfers: Files that are moved at once, of each kind; each takes its size on the disk for temporary files.
    """

    base_url: str = ""
    project: str = ""
    console_url: str = ""
    timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    search_batches: Annotated[int, Meta(ge=0, le=10_000)] = 500
    search_files: Annotated[int, Meta(ge=0, le=10_000)] = 1000
    max_file_bytes: Annotated[int, Meta(ge=1)] = 2 * 1024 * 1024 * 1024
    max_transfers: Annotated[int, Meta(ge=1, le=1000)] = 8


class SecretName(msgspec.Struct, frozen=True):
    """``custom.secret_arg``: the secret that a task names, as the SDK writes it."""

    key: str | None = None
    group: str | None = None


class _NoApiError(Exception):
    """An answer came, and it is none of the API."""


class Account:
    """What a call of the API needs.

    Attributes:
        client: Of the vendor. It repeats nothing by itself: what was lost is looked for first.
    """

    def __init__(self, client: AsyncOpenAI, key: str, secret: str, setup: ConnectorSetup) -> None:
        self.client: Final = client
        self._key: Final = key
        self._secret: Final = secret
        self._setup: Final = setup

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turns errors of the vendor's library into ours.

        Args:
            what: What is asked for, with its names, for messages: ``look at batch batch_1``.

        Raises:
            TransientError: the service can not be reached, is busy, throttles, or has a fault of its own.
            PermanentError: it does not take the key (``ServiceNotAllowed``), or the account is used up.
            BadTaskSpecificationError: it will never do what was asked.
        """
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise self._status_error(error, what) from None  # the cause has the request's headers
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            told = f"openai: {what}: no answer of {self.client.base_url}: {str(reason) or type(reason).__name__}"
            raise TransientError("", self._without_key(told)) from None
        except _NoApiError as error:
            raise TransientError("", f"openai: {what}: {error}") from None
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            told = f"openai: {what}: the answer of {self.client.base_url} can not be read: {error}"
            raise TransientError("", self._without_key(told)) from None

    @contextmanager
    def looking_for(self, what: str) -> Iterator[None]:
        """As ``asking``, in a list that some services which speak OpenAI's language do not have: then it is empty."""
        import openai

        with self.asking(f"look for {what}"):
            try:
                yield
            except openai.APIStatusError as error:
                if error.status_code not in _NO_LIST:
                    raise

    def _status_error(self, error: APIStatusError, what: str) -> Exception:
        """What ``checked`` says of the status, but for keys that are refused and accounts that are used up."""
        response = error.response
        url = str(response.url).partition("?")[0]
        code = error.code or ""
        if error.status_code == 401:
            # Not the service's words: they show a part of the key.
            problem = f"openai: {what}: {url} does not take the key (status 401{code and f', {code}'})"
            return PermanentError(NOT_ALLOWED, f"{problem}: correct the secret {self._secret}, or the organization")
        told = self._without_key(error.message)
        if code in _NO_MONEY or error.type in _NO_MONEY:
            way_out = f"add credit to the account of the secret {self._secret} or raise its limit"
            problem = f"openai: {what}: status {error.status_code} of {url}: {told}"
            return PermanentError(QUOTA_USED_UP, f"{problem}: {way_out}")
        if error.status_code == 403:
            told += f" (the key is the secret {self._secret})"
        headers = {name.lower(): value for name, value in response.headers.items()}
        try:
            checked(HttpResponse(error.status_code, headers, b"", url), f"openai: {what}", self._setup, told)
        except (TransientError, PermanentError) as ours:
            return ours
        return TransientError("", f"openai: {what}: status {error.status_code} of {url}: {told}")

    def _without_key(self, text: str) -> str:
        return redacted(text, [self._key])


class Accounts:
    """Gives a connector its accounts, which share connections. Belongs to the connector's event loop."""

    def __init__(self, connector: Connector) -> None:
        self.config: Final = connector.setup.section("openai", OpenAIConfig)
        self._connector: Final = connector
        self._pool: Pool | None = None

    @property
    def base_url(self) -> str:
        return self.config.base_url or self._connector.setup.environment.get("OPENAI_BASE_URL", "") or OPENAI_URL

    async def open(self, connection: Connection, organization: str = "", secret: SecretName | None = None) -> Account:
        """The account of a task.

        The key is what the task brings, else the secret that it names, else the service's own.

        Args:
            organization: Empty takes the key's own, or ``OPENAI_ORG_ID``.

        Raises:
            PermanentError: there is no key, or it can not be one; the secret is named.
        """
        name, key = await self._key(connection, secret)
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            problem = "is empty, or has characters that no key has"
            raise PermanentError(NOT_ALLOWED, f"openai: the secret {name} is no key: it {problem}")
        if self._pool is None:
            await anyio.to_thread.run_sync(_import_library)  # takes seconds, in which others want to be answered
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

        timeout = Timeout(self.config.timeout_s, connect=min(self.config.timeout_s, _CONNECT_S))
        if self._pool is None:  # still
            self._pool = DefaultAsyncHttpxClient(timeout=timeout, event_hooks={"response": [self._check_kind]})
        client = AsyncOpenAI(
            api_key=key,
            organization=organization or None,
            project=self.config.project or None,
            base_url=self.base_url,
            timeout=timeout,
            max_retries=0,
            http_client=self._pool,
        )
        return Account(client, key, name, self._connector.setup)

    async def _key(self, connection: Connection, secret: SecretName | None) -> tuple[str, str]:
        """The secret's name for messages, and its value."""
        if KEY in connection.secrets or secret is None or not secret.key:
            return KEY, await self._connector.get_secret(KEY, connection)
        group = secret.group or ""
        name = f"{group}/{secret.key}" if group else secret.key
        try:
            return name, await self._connector.get_secret(secret.key, connection, group)
        except PermanentError as error:
            try:
                return KEY, await self._connector.get_secret(KEY)
            except PermanentError:
                problem = f"nor is {KEY}, which would serve in its place"
                raise PermanentError(error.code, f"openai: {error.message}; {problem}") from error

    async def _check_kind(self, response: Any) -> None:
        """Of the HTTP library's response: the vendor's would hand a page of a web server on as if it were an object.

        Raises:
            _NoApiError: which the vendor's library lets pass, or makes the cause of its own error.
        """
        kind = response.headers.get("content-type", "")
        if response.is_success and "json" not in kind and not response.url.path.endswith("/content"):
            problem = f"{self.base_url} answered with something else than OpenAI's API does ({kind or 'no type'})"
            raise _NoApiError(f"{problem}: correct openai.base-url or OPENAI_BASE_URL")

    def log_links(self, path: str, name: str) -> tuple[TaskLog, ...]:
        """To a page of the console; none for services that have no known one."""
        console = self.config.console_url
        if not console and self.base_url.startswith("https://api.openai.com/"):
            console = "https://platform.openai.com"
        return (TaskLog(f"{console.rstrip('/')}/{path}", name, MessageFormat.UNKNOWN, ready=True),) if console else ()

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()


def _import_library() -> None:
    """With what it would otherwise import at the first call of each kind."""
    for name in ("chat.completions", "batches", "files"):
        import_module(f"openai.resources.{name}")
