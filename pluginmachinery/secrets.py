"""Secrets that a pod asks for, as annotations that a mutating webhook reads.

Each secret is one annotation: protobuf text format of ``core.Secret`` in base 32 over ``a-z1-6``,
so that it survives any tool that handles annotations. The webhooks of Flyte read the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from flyteidl2.core.security_pb2 import Secret
from google.protobuf import text_format

from propfan.pluginmachinery.errors import DecodeError, PermanentError
from propfan.pluginmachinery.names import base32_decode, base32_encode

ANNOTATION_PREFIX: Final = "flyte.secrets/s"
"""Followed by the secret's index."""

INJECT_LABEL: Final = "inject-flyte-secrets"
"""With the value ``true`` on each pod that the webhook shall look at."""

MAX_DESCRIPTOR_BYTES: Final = 262_144
"""Of one encoded secret: all annotations of an object together may have as many (Kubernetes)."""

_MOUNT_REQUIREMENTS: Final = ("ANY", "ENV_VAR", "FILE")
_ESCAPES: Final = {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x22: '\\"', 0x5C: "\\\\"}


def to_annotations(secrets: Sequence[Secret]) -> dict[str, str]:
    """One annotation for each secret, in order.

    Raises:
        PermanentError: a secret has no valid mount requirement, or is too large. The first one ends it.
    """
    return {f"{ANNOTATION_PREFIX}{index}": _encode(secret) for index, secret in enumerate(secrets)}


def from_annotations(annotations: Mapping[str, str]) -> list[Secret]:
    """The secrets in a pod's annotations, by index; other annotations are passed over.

    Raises:
        DecodeError: one is no encoded secret; names the annotation.
    """
    encoded = [key for key in annotations if key.startswith(ANNOTATION_PREFIX)]
    return [_decode(key, annotations[key]) for key in sorted(encoded, key=_index)]


def _encode(secret: Secret) -> str:
    if not 0 <= secret.mount_requirement < len(_MOUNT_REQUIREMENTS):
        raise PermanentError("", f"invalid mount requirement [{secret.mount_requirement}]")
    lines = [
        _string_field("group", secret.group),
        _string_field("group_version", secret.group_version),
        _string_field("key", secret.key),
        f"mount_requirement: {_MOUNT_REQUIREMENTS[secret.mount_requirement]}\n" if secret.mount_requirement else "",
        _string_field("env_var", secret.env_var),
    ]
    encoded = base32_encode("".join(lines).encode("ascii"))
    if len(encoded) > MAX_DESCRIPTOR_BYTES:
        raise PermanentError("", f"secret descriptor cannot exceed [{MAX_DESCRIPTOR_BYTES}]")
    return encoded


def _string_field(name: str, value: str) -> str:
    if not value:
        return ""
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return f'{name}: "{value}"\n'
    return f'{name}: "{"".join(map(_escaped, value.encode()))}"\n'


def _escaped(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 0x20 <= byte <= 0x7E else f"\\{byte:03o}"


def _decode(key: str, value: str) -> Secret:
    try:
        return text_format.Parse(base32_decode(value), Secret())
    except (ValueError, text_format.ParseError) as error:
        raise DecodeError(f"annotation {key}", f"error unmarshaling secret [{key}]. Error: {error}") from error


def _index(key: str) -> tuple[int, str]:
    """Indexes in numeric order, then whatever else has the prefix."""
    suffix = key[len(ANNOTATION_PREFIX) :]
    return (int(suffix), "") if suffix.isascii() and suffix.isdigit() and len(suffix) < 10 else (10**9, suffix)
