"""One call of one of boto3's methods, with arguments that come from a task."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from propfan.pluginmachinery.errors import BadTaskSpecificationError

MAX_RESULT_BYTES: Final = 2 * 1024 * 1024
"""Of one body in an answer. Callers take 10 MiB with everything around it; more belongs into a store."""

_MAX_NAME_CHARS: Final = 100
"""Of a wrong name, in messages and where similar ones are looked for."""


def operation(client: Any, method: str) -> Any:
    """The model of the operation behind a method; nothing else of a client can be called.

    Raises:
        BadTaskSpecificationError: the method is none of the service's operations.
    """
    known: Mapping[str, str] = client.meta.method_to_api_mapping
    name = known.get(method)
    if name is None:
        similar = difflib.get_close_matches(method[:_MAX_NAME_CHARS], known)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        service = client.meta.service_model.service_name
        raise BadTaskSpecificationError(
            f"custom.method: '{service}' has no operation '{method[:_MAX_NAME_CHARS]}'{hint}"
        )
    return client.meta.service_model.operation_model(name)


def call(client: Any, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answer; errors are boto3's.

    Args:
        method: One for which ``operation`` has a model.
    """
    if "self" in arguments:  # the one name that Python's own call takes; no operation has it
        raise BadTaskSpecificationError("custom.config.self: no operation of AWS has such an argument")
    answer: dict[str, Any] = getattr(client, method)(**arguments)
    return answer


def result(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as JSON can say it, without what the transport adds: times as ISO 8601, bytes as text or base64.

    Raises:
        BadTaskSpecificationError: it is too large, or a stream of events.
    """
    return {name: _native(value, name) for name, value in answer.items() if name != "ResponseMetadata"}


def _native(value: Any, path: str) -> Any:
    match value:
        case Mapping():
            return {str(name): _native(member, f"{path}.{name}") for name, member in value.items()}
        case list() | tuple():
            return [_native(item, f"{path}[{index}]") for index, item in enumerate(value)]
        case set() | frozenset():
            return sorted(_native(item, path) for item in value)
        case datetime():
            return value.isoformat()
        case bytes() | bytearray():
            return _text(bytes(value), path)
        case Decimal():
            return float(value)
        case None | bool() | int() | float() | str():
            return value
    if not hasattr(value, "read"):
        problem = f"is a stream ({type(value).__name__}), which no output can hold; call a method that answers at once"
        raise BadTaskSpecificationError(f"result.{path} {problem}")
    try:
        return _text(value.read(MAX_RESULT_BYTES + 1), path)
    finally:
        value.close()


def _text(content: bytes, path: str) -> str:
    if len(content) > MAX_RESULT_BYTES:
        problem = f"has more than {MAX_RESULT_BYTES} bytes, which is the limit of an output; keep it in a store"
        raise BadTaskSpecificationError(f"result.{path} {problem}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return base64.b64encode(content).decode()
