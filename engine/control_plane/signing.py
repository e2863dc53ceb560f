"""URLs that are good for one object and a while, and that nobody else can make."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from propfan.engine.control_plane.errors import InvalidRequestError


class UploadGrant(msgspec.Struct, frozen=True, tag="upload"):
    """May put one object.

    Attributes:
        uri: Of the object.
        expires_s: Since 1970.
        md5: Of the content, when it is known.
        max_bytes: The content may not be longer.
    """

    uri: str
    expires_s: float
    md5: bytes
    max_bytes: int


class DownloadGrant(msgspec.Struct, frozen=True, tag="download"):
    """May get one object."""

    uri: str
    expires_s: float


Grant = UploadGrant | DownloadGrant

_decoder: Final = msgspec.msgpack.Decoder(Grant)
_MAC_BYTES: Final = 16


class Signer:
    """Makes and checks such grants."""

    def __init__(self, key: bytes) -> None:
        self._key: Final = hashlib.sha256(b"propfan grants" + key).digest()

    def sign(self, grant: Grant) -> str:
        """The grant as a part of a URL."""
        content = msgspec.msgpack.encode(grant)
        return base64.urlsafe_b64encode(self._mac(content) + content).decode().rstrip("=")

    def read(self, token: str, now_s: float) -> Grant:
        """Raises ``InvalidRequestError`` for what this signer has not made, or what is over."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        mac, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(content)):
            raise InvalidRequestError("url", "its signature is not right: ask for a new one")
        grant: Grant = _decoder.decode(content)
        if grant.expires_s < now_s:
            raise InvalidRequestError("url", "has expired: ask for a new one")
        return grant

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")[:_MAC_BYTES]
