"""How an object is kept: one JSON text in a fixed order, with the places where it can be cut.

``{"apiVersion":…,"kind":…,"metadata":{…}`` ``,"spec":{…} …`` ``,"status":{…}`` ``}``. A change of the
status splices new metadata and status around a spec that is never decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan.engine.cluster import Kind, ObjectMeta, ObservedObject
from propfan.pluginmachinery.contexts import OwnerReference
from propfan.pluginmachinery.errors import BadRequestError, InvalidError

encode: Final = msgspec.json.Encoder().encode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class StoredObject(ObservedObject, frozen=True, gc=False):
    """An object as of one resourceVersion.

    Attributes:
        id: Row in the database; never reused.
        body_at: Where the members after ``metadata`` begin in ``raw``, at their comma.
        status_at: Where the status begins in ``raw``, at its comma; at the last brace when there is none.
    """

    id: int
    body_at: int
    status_at: int

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name

    @property
    def body(self) -> bytes:
        return self.raw[self.body_at : self.status_at]

    @property
    def status_member(self) -> bytes:
        return self.raw[self.status_at : -1]

    @property
    def status(self) -> bytes:
        """The status alone; an empty object when there is none."""
        return self.raw[self.status_at + len(STATUS) : -1] or b"{}"


STATUS: Final = b',"status":'
_NULL: Final = msgspec.Raw(b"null")


class SentMeta(msgspec.Struct, rename="camel"):
    """``metadata`` as clients send it. Go clients write unset members as ``null``."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    owner_references: Sequence[OwnerReference] | None = None
    finalizers: Sequence[str] | None = None


class Sent(msgspec.Struct):
    """A whole object as a client sends it. ``body`` is laid out as in ``StoredObject``."""

    metadata: SentMeta
    body: bytes


decode_metadata: Final = msgspec.json.Decoder(ObjectMeta).decode
_decode_sent_meta: Final = msgspec.json.Decoder(SentMeta).decode


def head(kind: Kind) -> bytes:
    """All that comes before the metadata of an object of this kind."""
    return encode({"apiVersion": kind.api_version, "kind": kind.kind})[:-1] + b',"metadata":'


def assemble(kind: Kind, head: bytes, row: int, metadata: ObjectMeta, body: bytes, status: bytes) -> StoredObject:
    encoded = encode(metadata)
    body_at = len(head) + len(encoded)
    raw = b"".join((head, encoded, body, status, b"}"))
    return StoredObject(kind, metadata, raw, row, body_at, body_at + len(body))


def parse(kind: Kind, text: bytes) -> Sent:
    """An object to create. A status in it is dropped, as the API server does.

    Raises:
        BadRequestError: it is not JSON, or of another kind.
        InvalidError: its metadata is not ``metav1.ObjectMeta``.
    """
    try:
        str(text, "utf-8")
        if b'": ' in text or b"\n" in text:
            text = msgspec.json.format(text, indent=-1)  # a merge compares texts
        members = _decode_members(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(kind.kind, f"the body is not a JSON object: {error}") from error
    of = members.pop("apiVersion", _NULL), members.pop("kind", _NULL)
    if of != (msgspec.Raw(encode(kind.api_version)), msgspec.Raw(encode(kind.kind))):
        found = " ".join(bytes(text)[:80].decode() for text in of)
        raise BadRequestError(kind.kind, f"it is of kind {found}, not {kind.api_version} {kind.kind}")
    members.pop("status", None)
    meta = parse_meta(kind.kind, members.pop("metadata", msgspec.Raw(b"{}")))
    return Sent(meta, b"," + encode(members)[1:-1] if members else b"")


def parse_meta(target: str, text: bytes | msgspec.Raw) -> SentMeta:
    try:
        return _decode_sent_meta(text)
    except msgspec.DecodeError as error:
        raise InvalidError(target, f"metadata: {error}") from error


def parse_patch(target: str, patch: Mapping[str, Any] | msgspec.Struct) -> dict[str, msgspec.Raw]:
    """The members of the patch as JSON.

    Raises:
        BadRequestError: it is not a JSON object.
    """
    try:
        return _decode_members(encode(patch))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BadRequestError(target, f"the patch is not a JSON object: {error}") from error


def with_version(stored: StoredObject, head: bytes, version: str, status: bytes) -> StoredObject:
    """The same object under another resourceVersion and with another status member."""
    old = stored.metadata
    raw = stored.raw
    # No quote stands in a JSON string as it is, and only such names come before: the first one is it.
    metadata_text = raw[len(head) : stored.body_at].replace(
        b'"resourceVersion":"%b"' % old.resource_version.encode(), b'"resourceVersion":"%b"' % version.encode(), 1
    )
    body_at = len(head) + len(metadata_text)
    status_at = body_at + stored.status_at - stored.body_at
    return StoredObject(
        stored.kind,
        msgspec.structs.replace(old, resource_version=version),
        b"".join((head, metadata_text, raw[stored.body_at : stored.status_at], status, b"}")),
        stored.id,
        body_at,
        status_at,
    )


def seconds(moment: datetime) -> datetime:
    """As precise as ``metav1.Time``."""
    return moment.replace(microsecond=0)
