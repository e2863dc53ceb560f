"""What statuses of an HTTP API mean for a task; the same for all vendors."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

from propfan.pluginmachinery.connector import ConnectorSetup, HttpResponse
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError

NOT_ALLOWED: Final = "ServiceNotAllowed"
"""Code of a task whose credentials the service does not take."""

_MAX_TEXT_CHARS: Final = 1000
_TRANSIENT: Final = frozenset({408, 409, 425, 429})
"""Beside 5xx. A connector for which 409 means "exists already" looks at it before it asks here."""


def checked(response: HttpResponse, what: str, setup: ConnectorSetup, problem: str = "") -> HttpResponse:
    """The response of a call that the service has carried out.

    Args:
        what: What was asked for, for messages: ``databricks: submit the run``.
        problem: What the service says is wrong, where the connector can read it; else the answer's text.

    Raises:
        TransientError: the service is busy, throttles, or has a fault of its own.
        PermanentError: it does not take the credentials; code ``ServiceNotAllowed``.
        BadTaskSpecificationError: it will never do what was asked.
    """
    if response.is_success:
        return response
    told = f"{what}: status {response.status} of {response.url}: {(problem or response.text())[:_MAX_TEXT_CHARS]}"
    if response.status in _TRANSIENT or response.status >= 500:
        raise TransientError("", told, retry_after_s(response, setup))
    if response.status in (401, 403):
        raise PermanentError(NOT_ALLOWED, told)
    raise BadTaskSpecificationError(told)


def retry_after_s(response: HttpResponse, setup: ConnectorSetup) -> float:
    """What ``Retry-After`` asks for, as seconds or as a date; 0 when it says nothing that can be read."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - setup.now()).total_seconds())
    except (ValueError, TypeError):
        return 0.0
