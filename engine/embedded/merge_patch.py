"""JSON merge patch (RFC 7396) on JSON texts: only what the patch names is ever decoded."""

from __future__ import annotations

from typing import Final

import msgspec

_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode
_BRACE: Final = ord("{")
_N: Final = ord("n")


def merge(target: bytes | msgspec.Raw, patch: bytes | msgspec.Raw) -> bytes | None:
    """The object ``target`` with the object ``patch`` merged in; ``None`` when that changes nothing.

    Values are compared as text. Both come from one encoder, so equal values are equal texts.
    """
    members = _decode_members(target)
    changed = False
    for name, value in _decode_members(patch).items():
        old = members.get(name)
        begin = memoryview(value)[0]
        if begin == _N:  # of null: no other JSON text begins so
            if old is None:
                continue
            del members[name]
        elif begin == _BRACE:
            merged = merge(old, value) if old is not None and is_object(old) else _without_nulls(bytes(value))
            if merged is None:
                continue
            members[name] = msgspec.Raw(merged)
        elif old is not None and old == value:
            continue
        else:
            members[name] = value
        changed = True
    return _encode(members) if changed else None


def is_object(text: bytes | msgspec.Raw) -> bool:
    return memoryview(text)[0] == _BRACE


def _without_nulls(text: bytes) -> bytes:
    return merge(b"{}", text) or b"{}" if b"null" in text else text
