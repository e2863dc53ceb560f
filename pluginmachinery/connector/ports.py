"""What a connector is given to reach the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeVar

import msgspec

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.contexts import DataStore, SecretManager
from propfan.pluginmachinery.errors import DecodeError

T = TypeVar("T")

HostRule = Callable[[str, IPv4Address | IPv6Address | None], str]
"""Why a host must not be asked at an address; empty when it may.

The host is in lower case. The address is ``None`` where a proxy looks it up.
"""


class HttpResponse(msgspec.Struct, frozen=True):
    """An answer, whatever its status.

    Attributes:
        headers: Names in lower case; of a repeated one the last value.
        url: As it was asked for, without its query, for messages.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def text(self) -> str:
        """As UTF-8; other bytes are replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self, shape: type[T]) -> T:
        """The body as a Struct, or any other type that msgspec knows.

        Raises:
            DecodeError: it is not JSON, or of another shape.
        """
        try:
            return msgspec.json.decode(self.body, type=shape)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise DecodeError(f"answer of {self.url or 'the service'} (status {self.status})", str(error)) from error


class HttpClient(Protocol):
    """HTTP with pooled connections, verified TLS and bounded answers."""

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
        """One request; redirects are not followed, and no status is an error.

        Args:
            params: Added to the query of the URL.
            json: Sent as JSON, in place of ``body``; what msgspec can encode.
            timeout_s: Of the whole exchange, in place of the client's own.

        Raises:
            UnansweredError: no answer, or none in time; the request may have been carried out.
            TransientError: it was not sent.
            PermanentError: the URL can not be asked, or the answer is larger than the client's limit.
        """
        ...

    def restricted(self, rule: HostRule) -> HttpClient:
        """A client for URLs of others: it connects to no address that the rule has not seen, whatever names mean.

        A request that the rule refuses raises ``PermanentError`` with its reason. Closed with this client.
        """
        ...


class ConnectorSetup(msgspec.Struct, frozen=True):
    """What a connector is made with; all of it may be kept.

    Attributes:
        secrets: The service's own; those that a task brings are in its ``Connection``.
        http: Belongs to the connector's event loop: use it from there only.
        store: For outputs that the job does not write itself.
        now: The time, with a zone.
        sections: Configuration of connectors, by name.
        environment: Variables of the service's process.
    """

    secrets: SecretManager
    http: HttpClient
    store: DataStore
    now: Callable[[], datetime]
    sections: Mapping[str, Mapping[str, Any]] = {}
    environment: Mapping[str, str] = {}

    def section(self, name: str, shape: type[T]) -> T:
        """The section ``name`` as a Struct; its defaults where the section is absent.

        Raises:
            ConfigError: values have a wrong type or keys are unknown; each is named by its dotted path.
        """
        return decode_config(shape, self.sections.get(name), f"connectors.{name}")
