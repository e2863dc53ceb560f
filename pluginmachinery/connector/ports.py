"""What a connector is given to reach the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.contexts import DataStore, SecretManager
from propfan.pluginmachinery.errors import DecodeError

T = TypeVar("T")


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
            TransientError: no answer, or none in time.
            PermanentError: the URL can not be asked, or the answer is larger than the client's limit.
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
