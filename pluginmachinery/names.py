"""Names as Kubernetes and Flyte want them.

Lengths and hashes count UTF-8 bytes. Hashes are FNV-1a (draft-eastlake-fnv), written in the
base-32 alphabet that Flyte uses, so that names equal those of other Flyte executors.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Iterable
from typing import Final

from propfan._speedups import hashing
from propfan.pluginmachinery.errors import NameTooLongError

MAX_LABEL_LENGTH: Final = 63
"""Of a DNS-1123 label and of a label's value (Kubernetes)."""

MAX_SUBDOMAIN_LENGTH: Final = 253
"""Of a DNS-1123 subdomain: most objects' names (Kubernetes)."""

_HASH_ROOM: Final = 30

_DNS1123_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_DNS1123_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_NOT_DNS1123: Final = re.compile(r"[^-.a-z0-9]")
_LABEL_VALUE: Final = re.compile(r"[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")
_NOT_LABEL_VALUE: Final = re.compile(r"[^a-zA-Z0-9._-]")
_CAMEL_HUMP: Final = re.compile(r"([a-z0-9])([A-Z])")
_MIG_PROFILE: Final = re.compile(r"([0-9]+)g\.[0-9]+gb")

_RFC4648_TO_FLYTE: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"abcdefghijklmnopqrstuvwxyz123456")
_FLYTE_TO_RFC4648: Final = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz123456", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_NOT_BASE32: Final = re.compile(r"[^a-z1-6]")


class HashAlgorithm(enum.Enum):
    """FNV-1a by the width of its result; the name has 8, 14 or 27 characters."""

    FNV32A = "fnv32a"
    FNV64A = "fnv64a"
    FNV128A = "fnv128a"


_WIDE_FNV: Final = {
    HashAlgorithm.FNV64A: (8, 0xCBF29CE484222325, 0x100000001B3),
    HashAlgorithm.FNV128A: (16, 0x6C62272E07BB014262B821756295C58D, 0x1000000000000000000013B),
}
"""Bytes of the result, offset basis, prime."""


def fnv1a(content: bytes, algorithm: HashAlgorithm = HashAlgorithm.FNV32A) -> bytes:
    """The hash, most significant byte first."""
    if algorithm is HashAlgorithm.FNV32A:
        return hashing.fnv1a_32(content).to_bytes(4, "big")
    size, digest, prime = _WIDE_FNV[algorithm]
    mask = (1 << 8 * size) - 1
    for byte in content:
        digest = (digest ^ byte) * prime & mask
    return digest.to_bytes(size, "big")


def base32_encode(content: bytes) -> str:
    """Base 32 over ``a-z1-6``, unpadded."""
    return base64.b32encode(content).translate(_RFC4648_TO_FLYTE).rstrip(b"=").decode("ascii")


def base32_decode(text: str) -> bytes:
    """The reverse of `base32_encode`.

    Raises:
        ValueError: a character outside the alphabet, or an impossible length.
    """
    if stray := _NOT_BASE32.search(text):
        raise ValueError(f"character {stray[0]!r} at {stray.start()} is not base 32 over a-z1-6")
    padded = text.encode("ascii").translate(_FLYTE_TO_RFC4648) + b"=" * (-len(text) % 8)
    return base64.b32decode(padded)


def fixed_length_unique_id(value: str, max_length: int, algorithm: HashAlgorithm = HashAlgorithm.FNV32A) -> str:
    """``value`` when it has at most ``max_length`` bytes, else ``f`` and its hash.

    Raises:
        NameTooLongError: the hash is longer than ``max_length`` too; it is in ``result``.
    """
    # ASCII text, the rule, is as long in bytes as in characters.
    if len(value) <= max_length and (value.isascii() or len(value.encode()) <= max_length):
        return value
    result = "f" + base32_encode(fnv1a(value.encode(), algorithm))
    if len(result) > max_length:
        raise NameTooLongError(result)
    return result


def fixed_length_unique_id_for_parts(
    parts: Iterable[str], max_length: int, algorithm: HashAlgorithm = HashAlgorithm.FNV32A
) -> str:
    """`fixed_length_unique_id` of the parts joined by ``-``; empty parts at the head leave no dash.

    Raises:
        NameTooLongError: as there.
    """
    joined = ""
    for part in parts:
        joined = f"{joined}-{part}" if joined else part
    return fixed_length_unique_id(joined, max_length, algorithm)


def is_dns1123_label(value: str) -> bool:
    return len(value) <= MAX_LABEL_LENGTH and _DNS1123_LABEL.fullmatch(value) is not None


def is_dns1123_subdomain(value: str) -> bool:
    return len(value) <= MAX_SUBDOMAIN_LENGTH and _DNS1123_SUBDOMAIN.fullmatch(value) is not None


def camel_to_kebab(value: str) -> str:
    """``PenPineapple`` becomes ``pen-pineapple``; everything is lower case afterwards."""
    hyphenated = _CAMEL_HUMP.sub(r"\1-\2", value)
    if hyphenated.isascii():
        return hyphenated.lower()
    # One character becomes one character, whatever stands beside it: no final sigma, no dot of its own.
    return "".join("i" if c == "\u0130" else c.lower() for c in hyphenated)


def dns1123_subdomain(value: str) -> str:
    """The nearest valid object name; ``value`` itself when it is one.

    Empty when nothing of ``value`` can be kept.
    """
    if is_dns1123_subdomain(value):
        return value
    name = _NOT_DNS1123.sub("", camel_to_kebab(value)).strip(".-")
    if len(name) <= MAX_SUBDOMAIN_LENGTH:
        return name
    return f"{name[: MAX_SUBDOMAIN_LENGTH - _HASH_ROOM - 1]}-{fixed_length_unique_id(name, _HASH_ROOM)}"


def sanitize_label_value(value: str) -> str:
    """The nearest valid value of a Kubernetes label; ``value`` itself when it is one."""
    if not value or _LABEL_VALUE.fullmatch(value):
        return value
    text = _NOT_LABEL_VALUE.sub("-", value)[:MAX_LABEL_LENGTH]
    if not text[0].isalnum():
        text = "x" + text[1:]
    return text if text[-1].isalnum() else text[:-1] + "x"


def mig_slices(partition_size: str) -> str:
    """Compute slices of an NVIDIA MIG profile, ``3`` of ``3g.20gb``; empty for anything else."""
    profile = _MIG_PROFILE.fullmatch(partition_size)
    return profile[1] if profile else ""
