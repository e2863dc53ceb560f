"""Objects on the wire: their paths, and the partial decoding of what comes back.

Of an object only the metadata are decoded; the whole is kept as the bytes that came, but for
``metadata.managedFields``, which can be half of it and is of no use here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from propfan.engine.cluster import Kind, ObjectList, ObjectMeta, ObservedObject
from propfan.pluginmachinery.errors import BadRequestError, InvalidError, NotFoundError, UnavailableError


class _Meta(ObjectMeta, frozen=True, rename="camel", gc=False):
    managed_fields: msgspec.Raw = msgspec.Raw(b"")


class _Partial(msgspec.Struct, gc=False):
    metadata: _Meta


class _Loose(msgspec.Struct):
    metadata: dict[str, Any]


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    """Both members are required: what is no list must not be taken for an empty one."""

    metadata: _ListMeta
    items: Sequence[msgspec.Raw] | None


class _SentMeta(msgspec.Struct, frozen=True):
    name: str | None = None
    namespace: str | None = None


class _Sent(msgspec.Struct):
    metadata: _SentMeta = _SentMeta()


_decode: Final = msgspec.json.Decoder(_Partial).decode
_decode_loose: Final = msgspec.json.Decoder(_Loose).decode
_decode_list: Final = msgspec.json.Decoder(_List).decode
_decode_sent: Final = msgspec.json.Decoder(_Sent).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NO_SEGMENT: Final = frozenset({"", ".", ".."})
_BEYOND_PYTHON: Final = datetime.max.replace(microsecond=0, tzinfo=UTC)


# -- Paths -----------------------------------------------------------------------------------------


def collection(kind: Kind, namespace: str = "") -> str:
    """The path of all objects of the kind, or of those in one namespace."""
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    if kind.namespaced and namespace:
        return f"{root}/namespaces/{_segment(f'{kind.plural} in {namespace}', namespace)}/{kind.plural}"
    return f"{root}/{kind.plural}"


def item(kind: Kind, namespace: str, name: str, subresource: str = "") -> str:
    """The path of one object.

    Raises:
        NotFoundError: no object can have such a name.
    """
    target = f"{kind.kind} {namespace}/{name}"
    if kind.namespaced and not namespace:
        raise NotFoundError(target, "objects of this kind are in a namespace, and none is given")
    path = f"{collection(kind, namespace)}/{_segment(target, name)}"
    return f"{path}/{subresource}" if subresource else path


def with_query(path: str, query: Mapping[str, str]) -> str:
    """Members without a value are left out."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def _segment(target: str, name: str) -> str:
    """A name must not lead to another path than that of the object."""
    if name in _NO_SEGMENT or "/" in name:
        raise NotFoundError(target, f"no object can be called {name!r}")
    return quote(name, safe="")


# -- What is sent ----------------------------------------------------------------------------------


def place(kind: Kind, body: bytes) -> tuple[str, str]:
    """Namespace and name in an object to create.

    Raises:
        BadRequestError: the body is not a JSON object.
        InvalidError: it has no namespace where the kind needs one, or one where it has none.
    """
    try:
        metadata = _decode_sent(body).metadata
    except _UNREADABLE as error:
        raise BadRequestError(kind.kind, f"the body is not a JSON object with metadata: {error}") from error
    namespace, name = metadata.namespace or "", metadata.name or ""
    if kind.namespaced != bool(namespace):
        rule = "required" if kind.namespaced else "must be empty, the kind has none"
        raise InvalidError(f"{kind.kind} {namespace}/{name}", f"metadata.namespace: {rule}")
    return namespace, name


def merge_patch(target: str, patch: Mapping[str, Any] | msgspec.Struct, resource_version: str) -> bytes:
    """The patch as JSON, with the resourceVersion as its condition where one is given.

    Raises:
        BadRequestError: it is not a JSON object.
    """
    try:
        text = _encode(patch)
        if not resource_version:
            if text[:1] != b"{":
                raise BadRequestError(target, "the patch is not a JSON object")
            return text
        members = _decode_members(text)
        metadata = _decode_members(members.get("metadata", b"{}"))
    except (TypeError, ValueError, *_UNREADABLE) as error:
        raise BadRequestError(target, f"the patch is not a JSON object: {error}") from error
    metadata["resourceVersion"] = msgspec.Raw(_encode(resource_version))
    members["metadata"] = msgspec.Raw(_encode(metadata))
    return _encode(members)


# -- What comes back -------------------------------------------------------------------------------


def observed(kind: Kind, raw: bytes, target: str) -> ObservedObject:
    """An object from its JSON.

    Raises:
        UnavailableError: it is none; whatever answered, it was no API server.
    """
    if raw[-1:] == b"\n":
        raw = raw[:-1]
    try:
        found = _decode(raw).metadata
    except _UNREADABLE:
        return ObservedObject(kind, _unusual(raw, target), raw)
    if not found.name:
        raise _no_object(target, raw, "it has no name")
    metadata = ObjectMeta(
        found.name,
        found.namespace,
        found.uid,
        found.resource_version,
        found.generation,
        found.creation_timestamp,
        found.deletion_timestamp,
        found.deletion_grace_period_seconds,
        found.labels,
        found.annotations,
        found.owner_references,
        found.finalizers,
    )
    return ObservedObject(kind, metadata, _without(raw, memoryview(found.managed_fields)))


_MANAGED_FIELDS: Final = b'"managedFields":'
_COMMA: Final = ord(",")


def _without(raw: bytes, managed_fields: memoryview) -> bytes:
    """The object without this member of its metadata. Its name can stand in no string without a backslash."""
    start = raw.find(_MANAGED_FIELDS)
    value_at = start + len(_MANAGED_FIELDS)
    end = value_at + len(managed_fields)
    if not managed_fields or raw[value_at:end] != managed_fields:
        return raw
    if raw[end] == _COMMA:
        return raw[:start] + raw[end + 1 :]
    return raw[: start - 1] + raw[end:]


def page(kind: Kind, body: bytes, target: str) -> ObjectList:
    """A page of a list.

    Raises:
        UnavailableError: it is none.
    """
    try:
        found = _decode_list(body)
    except _UNREADABLE as error:
        raise _no_object(target, body, str(error)) from error
    # Objects of the built-in kinds do not say in lists what they are; with it they are as in a get.
    head = _encode({"kind": kind.kind, "apiVersion": kind.api_version})[:-1] + b","
    items = []
    for text in found.items or ():
        raw = bytes(text)
        if raw.startswith(b'{"metadata":'):
            raw = head + raw[1:]
        items.append(observed(kind, raw, target))
    return ObjectList(items, found.metadata.resource_version, found.metadata.continue_)


def _unusual(raw: bytes, target: str) -> ObjectMeta:
    """Metadata with members of null, or with times that only Go can count to.

    A pod whose grace period is longer than history has such a deletionTimestamp.
    """
    try:
        members = {name: value for name, value in _decode_loose(raw).metadata.items() if value is not None}
        for name in ("creationTimestamp", "deletionTimestamp"):
            if name in members:
                members[name] = _time(members[name])
        metadata = msgspec.convert(members, ObjectMeta)
    except _UNREADABLE as error:
        raise _no_object(target, raw, str(error)) from error
    if not metadata.name:
        raise _no_object(target, raw, "it has no name")
    return metadata


def _time(text: object) -> object:
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return _BEYOND_PYTHON


def _no_object(target: str, body: bytes, problem: str) -> UnavailableError:
    begin = body[:80].decode(errors="replace")
    return UnavailableError(target, f"the answer is not what the API defines: {problem}; it begins with {begin!r}")
