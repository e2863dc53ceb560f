"""What the API server says when it refuses, as errors of propfan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from propfan.engine.cluster import Kind
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KindNotServedError,
    NotFoundError,
    QuotaExceededError,
    ThrottledError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)

_MOST_CHARACTERS: Final = 4096
"""Of what a server says: proxies answer with whole pages."""

_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    410: ExpiredError,
    413: TooLargeError,
    422: InvalidError,
    429: ThrottledError,
}

_ETCD_REFUSES_SIZE: Final = ("etcdserver: request is too large", "trying to send message larger than max")
"""What etcd and its client say of an object that the API server itself took; it comes as a 500."""

_EXCEEDED_QUOTA: Final = "exceeded quota"
"""In the message of the ResourceQuota admission plugin, which has no reason of its own."""

_FUTURE_VERSION: Final = "ResourceVersionTooLarge"
"""Cause of a timeout: the server has not come to that resourceVersion, perhaps never will (a restored etcd)."""


class Cause(msgspec.Struct, frozen=True):
    """``metav1.StatusCause``."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """``metav1.StatusDetails``."""

    name: str = ""
    kind: str = ""
    causes: Sequence[Cause] | None = None
    retry_after_seconds: float = 0


class Status(msgspec.Struct, frozen=True):
    """``metav1.Status``."""

    kind: str = ""
    message: str = ""
    reason: str = ""
    details: Details | None = None
    code: int = 0


_decode: Final = msgspec.json.Decoder(Status).decode
_seconds: Final = re.compile(r"\s*(\d{1,9})\s*").fullmatch


def status_of(body: bytes | msgspec.Raw) -> Status | None:
    """The ``Status`` that the body is, if it is one."""
    try:
        status = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return status if status.kind == "Status" else None


def error_of(code: int, body: bytes, target: str, *, kind: Kind | None = None, retry_after: str = "") -> ApiError:
    """The error that an answer means.

    Args:
        code: HTTP's; an ERROR event of a watch has it in its Status.
        target: ``<kind> <namespace>/<name>``, or what else was asked for.
        kind: Of the objects that were asked for.
        retry_after: The header of that name.
    """
    status = status_of(body)
    details = (status.details if status else None) or Details()
    problem = _problem(code, status, body)
    retry_after_s = _retry_after_s(retry_after) or details.retry_after_seconds
    if code == 404 and kind is not None and not (details.kind or details.name):
        return KindNotServedError(target, not_served(kind))
    return _class_of(code, status, details, problem)(target, problem, retry_after_s)


def not_served(kind: Kind) -> str:
    name = f"{kind.plural}.{kind.group}/{kind.version}" if kind.group else f"{kind.plural}/{kind.version}"
    return (
        f"the cluster does not serve {name}: install the operator that defines {kind.kind}, "
        "or disable the plugin whose tasks run as one"
    )


def _class_of(code: int, status: Status | None, details: Details, problem: str) -> type[ApiError]:
    if status is not None and status.reason == "AlreadyExists":
        return AlreadyExistsError
    if code == 403 and _EXCEEDED_QUOTA in problem:
        return QuotaExceededError
    if code >= 500:
        if any(text in problem for text in _ETCD_REFUSES_SIZE):
            return TooLargeError
        if any(cause.reason == _FUTURE_VERSION for cause in details.causes or ()):
            return ExpiredError
        return UnavailableError
    return _BY_STATUS.get(code, BadRequestError if code >= 400 else UnavailableError)


def _problem(code: int, status: Status | None, body: bytes) -> str:
    """What the server says, and what of the causes it has not said there."""
    if status is None:
        said = " ".join(body[:_MOST_CHARACTERS].decode(errors="replace").split())
        return f"HTTP status {code}: {said[:300]}" if said else f"HTTP status {code}"
    message = status.message or status.reason or f"HTTP status {code}"
    details = status.details or Details()
    missing = [
        f"{cause.field}: {cause.message}" if cause.field else cause.message
        for cause in details.causes or ()
        if cause.message not in message
    ]
    return "; ".join([message, *missing])[:_MOST_CHARACTERS]


def _retry_after_s(header: str) -> float:
    """Seconds; the header's other form, a date, is not used by Kubernetes."""
    found = _seconds(header)
    return float(found[1]) if found else 0.0
