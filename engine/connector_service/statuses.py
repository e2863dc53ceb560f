"""Which gRPC status an error has, and what its caller is told."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Final

import grpc

from propfan.engine.connector_service.hosts import HostStoppedError
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    ConnectorNotFoundError,
    PermanentError,
    PropfanError,
    StorageError,
    TransientError,
)

MAX_DETAIL_CHARS: Final = 4000
"""Of a status' message: it travels in a trailer, of which clients take 8 KiB with all that is in it."""

_MIN_SECRET_CHARS: Final = 4
"""Shorter values are no secrets worth the name, and would make any message unreadable."""

HTTP_STATUSES: Final = {
    grpc.StatusCode.OK: "200",
    grpc.StatusCode.INVALID_ARGUMENT: "400",
    grpc.StatusCode.NOT_FOUND: "404",
    grpc.StatusCode.FAILED_PRECONDITION: "412",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "429",
    grpc.StatusCode.CANCELLED: "499",
    grpc.StatusCode.INTERNAL: "500",
    grpc.StatusCode.UNIMPLEMENTED: "501",
    grpc.StatusCode.UNAVAILABLE: "503",
    grpc.StatusCode.DEADLINE_EXCEEDED: "504",
}
"""As ``error_code`` of the metrics has them."""


MAX_RETRY_AFTER_S: Final = 86_400.0

PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Of gRPC's own, in trailers: how long to wait before the call is made again."""


class CallError(Exception):
    """How a call ends that does not end well.

    Attributes:
        retry_after_s: When to ask again at the earliest, seconds; 0 leaves it to the caller.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def trailers(self) -> tuple[tuple[str, str], ...]:
        """What goes with the status."""
        wait_s = min(self.retry_after_s, MAX_RETRY_AFTER_S)
        return ((PUSHBACK, str(int(wait_s * 1000))),) if wait_s > 0 else ()


def call_error(error: Exception, doing: str) -> CallError:
    """The status of what a connector raised.

    Args:
        doing: e.g. ``create task of type 'sum'``.
    """
    if isinstance(error, CallError):
        return error
    code = _code_of(error)
    if isinstance(error, ConnectorNotFoundError):
        return CallError(code, str(error))
    if isinstance(error, PropfanError):
        retry_after_s = error.retry_after_s if isinstance(error, TransientError) else 0.0
        return CallError(code, f"failed to {doing}: {error}", retry_after_s)
    return CallError(code, f"failed to {doing} with error:\n{type(error).__name__}: {error}{_where(error)}")


def _code_of(error: Exception) -> grpc.StatusCode:
    match error:
        case ConnectorNotFoundError():
            return grpc.StatusCode.NOT_FOUND
        case BadTaskSpecificationError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case PermanentError():
            return grpc.StatusCode.FAILED_PRECONDITION
        case TransientError() | StorageError() | HostStoppedError():
            return grpc.StatusCode.UNAVAILABLE
        case NotImplementedError():
            return grpc.StatusCode.UNIMPLEMENTED
        case _:
            return grpc.StatusCode.INTERNAL


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" (at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Without the values of secrets, and short enough to be sent."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        if len(secret) >= _MIN_SECRET_CHARS:
            text = text.replace(secret, "***")
    if len(text) > MAX_DETAIL_CHARS:
        half = MAX_DETAIL_CHARS // 2 - 4
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return text.encode("utf-8", "replace").decode()
