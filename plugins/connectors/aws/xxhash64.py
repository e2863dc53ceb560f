"""XXH64, the hash that names resources which Flyte's own connectors made; for texts of a few kilobytes.

Source: the XXHash fast digest algorithm, format specification, version 0.2.0 (2024).
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 2**64 - 1
_P1: Final = 0x9E3779B185EBCA87
_P2: Final = 0xC2B2AE3D27D4EB4F
_P3: Final = 0x165667B19E3779F9
_P4: Final = 0x85EBCA77C2B2AE63
_P5: Final = 0x27D4EB2F165667C5
_STRIPE_BYTES: Final = 32


def hexdigest(content: bytes) -> str:
    """16 hexadecimal digits; the seed is 0."""
    end = len(content)
    position = 0
    if end >= _STRIPE_BYTES:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        while end - position >= _STRIPE_BYTES:
            for lane in range(4):
                lanes[lane] = _round(lanes[lane], _number(content, position + 8 * lane, 8))
            position += _STRIPE_BYTES
        digest = sum(_rotated(lanes[lane], bits) for lane, bits in enumerate((1, 7, 12, 18))) & _MASK
        for lane in lanes:
            digest = ((digest ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        digest = _P5
    digest = (digest + end) & _MASK
    while end - position >= 8:
        digest = (_rotated(digest ^ _round(0, _number(content, position, 8)), 27) * _P1 + _P4) & _MASK
        position += 8
    if end - position >= 4:
        digest = (_rotated(digest ^ (_number(content, position, 4) * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        position += 4
    for byte in content[position:]:
        digest = _rotated(digest ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    digest = (digest ^ digest >> 33) * _P2 & _MASK
    digest = (digest ^ digest >> 29) * _P3 & _MASK
    return f"{digest ^ digest >> 32:016x}"


def _number(content: bytes, start: int, size: int) -> int:
    return int.from_bytes(content[start : start + size], "little")


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _round(lane: int, value: int) -> int:
    return _rotated((lane + value * _P2) & _MASK, 31) * _P1 & _MASK
