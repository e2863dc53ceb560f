"""FNV-1a with 32 bits (draft-eastlake-fnv): the hash in names and shards."""

from __future__ import annotations


def fnv1a_32(content: bytes) -> int:
    """From 0 to 2**32 - 1."""
    digest = 0x811C9DC5
    for byte in content:
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return digest
