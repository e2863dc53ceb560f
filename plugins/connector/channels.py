"""Calls of one deployment over gRPC: dialled when first used, answers and errors as propfan knows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from propfan.pluginmachinery.contexts import SecretManager
from propfan.pluginmachinery.errors import PermanentError, TaskError, TransientError, UnansweredError
from propfan.plugins.connector.config import PATH, Deployment, Family
from propfan.plugins.connector.wire import method_path

if TYPE_CHECKING:
    import grpc

FAILED: Final = "TaskFailedWithError"
"""Code of whatever a connector refuses or reports as failed, as in Flyte."""

UNREACHABLE: Final = "ConnectorUnreachable"
TOO_LARGE: Final = "MessageTooLarge"
UNTRUSTED: Final = "CertificateNotTrusted"
NOT_IMPLEMENTED: Final = "MethodNotImplemented"

_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""A connection that a gateway has dropped silently is found out while calls are under way."""

_THROTTLED_S: Final = 10.0
"""Until the next call to a connector that has enough, and does not say for how long."""

_LONGEST_PUSHBACK_S: Final = 600.0
"""However long what is behind a connector wants to be left alone: it may be anything that a task has named."""

_PUSHBACK: Final = "grpc-retry-pushback-ms"
_MAX_DIGITS: Final = 12

_REFUSED: Final = frozenset(
    {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
    }
)
"""Answers that the same request gets again. INTERNAL is not among them: it is whatever a connector raised."""

_CREATING: Final = frozenset({"CreateTask", "ExecuteTaskSync"})

_BROKEN: Final = ("RST_STREAM", "Stream removed", "Socket closed", "Connection reset")
"""In details of INTERNAL and UNKNOWN: the connection broke, and nobody has answered."""

_HINTS: Final = {
    "UNAUTHENTICATED": "give credentials by metadata or metadataSecrets",
    "PERMISSION_DENIED": "give credentials by metadata or metadataSecrets",
    "UNIMPLEMENTED": "is this the endpoint of a connector, and of the right family?",
}


class Channel:
    """One deployment's connection. It may be closed and used again."""

    def __init__(self, name: str, deployment: Deployment, path: str, secrets: SecretManager) -> None:
        self.name: Final = name
        self.deployment: Final = deployment
        self._path: Final = f"{PATH}.{path}"
        self._secrets: Final = secrets
        self._channel: Any = None
        self._calls: Final[dict[str, Any]] = {}
        self._header_names: Final = tuple(deployment.metadata.items())

    async def call(self, family: Family, method: str, request: bytes) -> bytes:
        """One answer.

        Raises:
            TransientError: there is no connection, or the connector wants fewer calls.
            UnansweredError: no answer in time.
            PermanentError: the same call can not succeed: refused, too large, certificate not trusted.
            TaskError: the connector failed.
        """
        path = method_path(family, method)
        made = self._calls.get(path)
        if made is None:
            made = self._calls[path] = (await self._dial()).unary_unary(path)
        try:
            answer: bytes = await made(
                request, timeout=self.deployment.timeout_s(method), metadata=await self._headers()
            )
        except Exception as error:
            raise self._error_of(error, method) from error
        return answer

    async def exchange(self, family: Family, method: str, requests: Iterable[bytes]) -> bytes:
        """The first answer to a stream of requests; errors are as of ``call``."""
        path = method_path(family, method)
        stream = (await self._dial()).stream_stream(path)
        try:
            answers = stream(iter(requests), timeout=self.deployment.timeout_s(method), metadata=await self._headers())
            async for answer in answers:
                first: bytes = answer
                answers.cancel()
                return first
        except Exception as error:
            raise self._error_of(error, method) from error
        raise TaskError(FAILED, f"{self._what(method)} ended without an answer")

    async def close(self) -> None:
        """Calls under way fail."""
        channel, self._channel = self._channel, None
        self._calls.clear()
        if channel is not None:
            await channel.close()

    async def _dial(self) -> Any:
        if self._channel is None:
            try:
                from grpc import aio
            except ImportError as error:
                message = "connectors need gRPC: pip install 'propfan[connectors]'"
                raise PermanentError(UNREACHABLE, message) from error
            deployment = self.deployment
            options: list[tuple[str, Any]] = [
                *_KEEPALIVE,
                ("grpc.max_receive_message_length", deployment.max_message_bytes),
                ("grpc.max_send_message_length", deployment.max_message_bytes),
            ]
            if deployment.default_service_config:
                options.append(("grpc.service_config", deployment.default_service_config))
            if deployment.server_name:
                options.append(("grpc.ssl_target_name_override", deployment.server_name))
            credentials = None if deployment.insecure else await self._credentials()
            if self._channel is None:  # another call may have dialled meanwhile
                if credentials is None:
                    self._channel = aio.insecure_channel(deployment.endpoint, options)
                else:
                    self._channel = aio.secure_channel(deployment.endpoint, credentials, options)
        return self._channel

    async def _credentials(self) -> grpc.ChannelCredentials:
        import grpc

        roots, key, chain = [
            (await self._secrets.get(name)).encode() if name else None
            for name in (self.deployment.ca_secret, self.deployment.key_secret, self.deployment.cert_secret)
        ]
        return grpc.ssl_channel_credentials(roots, key, chain)

    async def _headers(self) -> tuple[tuple[str, str], ...] | None:
        """Read anew for each call, so that a new token is used once it is there."""
        secret = self.deployment.metadata_secrets
        if not secret:
            return self._header_names or None
        return (*self._header_names, *[(name, await self._secrets.get(key)) for name, key in secret.items()])

    def _what(self, method: str) -> str:
        return f"{method} of connector '{self.name}' ({self.deployment.endpoint})"

    def _error_of(self, error: Exception, method: str) -> Exception:
        """A gRPC error as ours; anything else as it is."""
        from grpc.aio import AioRpcError, UsageError

        if isinstance(error, UsageError):  # the channel was closed under the call
            return TransientError(UNREACHABLE, f"{self._what(method)}: the connection was closed")
        if not isinstance(error, AioRpcError):
            return error
        code: str = error.code().name
        details = error.details() or ""
        what = self._what(method)
        if "larger than max" in details:
            message = (
                f"{what}: {details}; have outputs written to the output prefix, or raise {self._path}.maxMessageBytes"
            )
            return PermanentError(TOO_LARGE, message)
        if code == "DEADLINE_EXCEEDED":
            limit_s = self.deployment.timeout_s(method)
            message = f"{what}: no answer within {limit_s:g} s; {self._path}.timeouts.{method} allows more"
            return UnansweredError(code, message)
        if code == "RESOURCE_EXHAUSTED":
            pushback_s = _pushback_s(error.trailing_metadata())
            return TransientError(code, f"{what}: {details}", _THROTTLED_S if pushback_s is None else pushback_s)
        if code == "UNAVAILABLE" and (pushback_s := _pushback_s(error.trailing_metadata())):
            # The connector is there; what is behind it wants to be left alone by jobs of this kind.
            return TransientError(code, f"{what}: {details}", min(pushback_s, _LONGEST_PUSHBACK_S), is_for_all=False)
        if code in ("UNAVAILABLE", "ABORTED", "CANCELLED") or any(sign in details for sign in _BROKEN):
            return self._unreachable(what, code, details)
        text = f"{code}: {details}" + (f" ({hint})" if (hint := _HINTS.get(code)) else "")
        if method in _CREATING:
            text = f"failed to create task from connector with {text}"
            return PermanentError(FAILED, text) if code in _REFUSED else TaskError(FAILED, text)
        if code == "UNIMPLEMENTED":
            return PermanentError(NOT_IMPLEMENTED, f"{what}: {text}")
        return TaskError(FAILED, f"{what}: {text}")

    def _unreachable(self, what: str, code: str, details: str) -> Exception:
        if "CERTIFICATE_VERIFY_FAILED" in details:
            message = (
                f"{what}: its certificate is not trusted; name the secret with its authority as {self._path}.caSecret, "
                f"or the name that it was issued for as serverName: {details}"
            )
            return PermanentError(UNTRUSTED, message)
        hint = ""
        if "WRONG_VERSION_NUMBER" in details:
            hint = f"; a server without TLS needs {self._path}.insecure: true"
        return TransientError(UNREACHABLE, f"{what}: {code}: {details}{hint}")


def _pushback_s(trailing: Any) -> float | None:
    """What the connector asked for, in seconds; ``None`` when it asked for nothing."""
    for key, value in trailing or ():
        if key == _PUSHBACK and len(value) < _MAX_DIGITS and str(value).isdecimal():
            return int(value) / 1000
    return None
