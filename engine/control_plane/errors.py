"""Errors as the Connect protocol tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeVar

import structlog
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    ConfigError,
    ConflictError,
    DecodeError,
    NotFoundError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PermanentError,
    PropfanError,
    StorageError,
    TaskError,
    TooLargeError,
)

logger = structlog.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


class InvalidRequestError(PropfanError):
    """A request that can never be answered.

    Attributes:
        field: Dotted path in the request.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


_CODES: Final[tuple[tuple[type[PropfanError], Code], ...]] = (
    (InvalidRequestError, Code.INVALID_ARGUMENT),
    (AlreadyExistsError, Code.ALREADY_EXISTS),
    (NotFoundError, Code.NOT_FOUND),
    (ConflictError, Code.ABORTED),
    (TooLargeError, Code.INVALID_ARGUMENT),
    (ApiError, Code.UNAVAILABLE),
    (ObjectNotFoundError, Code.NOT_FOUND),
    (ObjectTooLargeError, Code.RESOURCE_EXHAUSTED),
    (StorageError, Code.UNAVAILABLE),
    (ConfigError, Code.INVALID_ARGUMENT),
    (DecodeError, Code.INVALID_ARGUMENT),
    (PermanentError, Code.FAILED_PRECONDITION),
    (TaskError, Code.INVALID_ARGUMENT),
)


@contextmanager
def as_connect_errors(method: str) -> Iterator[None]:
    """Tells the client what went wrong in a code and a sentence; what nobody foresaw is logged."""
    try:
        yield
    except ConnectError as error:
        if error.code is Code.UNIMPLEMENTED:  # the generated services say no more than that
            raise ConnectError(Code.UNIMPLEMENTED, f"{method} is not offered by this control plane") from None
        raise
    except PropfanError as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)
        raise ConnectError(code, str(error)) from error
    except Exception as error:
        logger.exception("request failed", method=method)
        raise ConnectError(Code.INTERNAL, f"{method} failed: {type(error).__name__}") from error


class ErrorTranslator:
    """An interceptor of all methods, so that every service fails in the same way."""

    async def intercept_unary(
        self, call_next: Callable[[Q, RequestContext[Q, A]], Awaitable[A]], request: Q, ctx: RequestContext[Q, A]
    ) -> A:
        with as_connect_errors(_method(ctx)):
            return await call_next(request, ctx)

    async def intercept_server_stream(
        self, call_next: Callable[[Q, RequestContext[Q, A]], AsyncIterator[A]], request: Q, ctx: RequestContext[Q, A]
    ) -> AsyncIterator[A]:
        with as_connect_errors(_method(ctx)):
            async with aclosing(call_next(request, ctx)) as stream:  # type: ignore[type-var]
                async for message in stream:
                    yield message


def _method(ctx: RequestContext[Any, Any]) -> str:
    method = ctx.method()
    return f"{method.service_name}/{method.name}"
