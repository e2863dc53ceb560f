"""JSON merge patch (RFC 7396) on JSON texts: only what the patch names is ever decoded."""

from __future__ import annotations

from typing import Final

import msgspec

_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode
_NULL: Final = b"null"


def merge(target: bytes | msgspec.Raw, patch: bytes | msgspec.Raw) -> bytes | None:
    """The object ``target`` with the object ``patch`` merged in; ``None`` when that changes nothing.

    Values are compared as text. Both come from one encoder, so equal values are equal texts.
    """
    members = _decode_members(target)
    changed = False
    for name, value in _decode_members(patch).items():
        text = bytes(value)
        old = members.get(name)
        if text == _NULL:
            if old is None:
                continue
            del members[name]
        elif text[0] == 0x7B:  # an object
            if old is not None and is_object(old):
                merged = merge(old, text)
                if merged is None:
                    continue
            else:
                merged = _without_nulls(text)
            members[name] = msgspec.Raw(merged)
        elif old is not None and bytes(old) == text:
            continue
        else:
            members[name] = value
        changed = True
    return _encode(members) if changed else None


def is_object(text: bytes | msgspec.Raw) -> bool:
    return bytes(memoryview(text)[:1]) == b"{"


def _without_nulls(text: bytes) -> bytes:
    return merge(b"{}", text) or b"{}" if _NULL in text else text
