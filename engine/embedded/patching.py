"""What a patch makes of an object: the rules of the API server's update strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from propfan.engine.cluster import ObjectMeta
from propfan.engine.embedded import admission, objects
from propfan.engine.embedded.merge_patch import is_object, merge
from propfan.engine.embedded.objects import STATUS, StoredObject
from propfan.pluginmachinery.errors import BadRequestError, ConflictError, InvalidError

Members = Mapping[str, msgspec.Raw]

_NOT_BODY: Final = frozenset({"apiVersion", "kind", "metadata", "status"})


class Revision(msgspec.Struct, frozen=True, gc=False):
    """What becomes of an object. Members of ``None`` stay as they are."""

    metadata: ObjectMeta | None = None
    body: bytes | None = None
    status: bytes | None = None

    def apply(self, before: StoredObject, head: bytes, version: str) -> StoredObject:
        """The object under its next resourceVersion; a change of the body is a new generation."""
        status = before.status_member if self.status is None else self.status
        if self.metadata is None and self.body is None:
            return objects.with_version(before, head, version, status)
        old = self.metadata or before.metadata
        if self.body is None:
            metadata = msgspec.structs.replace(old, resource_version=version)
            body = before.body
        else:
            metadata = msgspec.structs.replace(old, resource_version=version, generation=old.generation + 1)
            body = self.body
        return objects.assemble(before.kind, head, before.id, metadata, body, status)


def check_conditions(before: StoredObject, patch: Members, resource_version: str, target: str) -> None:
    """Raises InvalidError when the object is not the one that is to be patched, ConflictError when it is another version."""
    wanted, uid = resource_version, ""
    if "metadata" in patch and is_object(patch["metadata"]):
        try:
            conditions = _decode_conditions(patch["metadata"])
        except msgspec.ValidationError as error:
            raise InvalidError(target, f"metadata: {error}") from error
        wanted, uid = wanted or conditions.resource_version or "", conditions.uid or ""
    metadata = before.metadata
    if wanted and wanted != metadata.resource_version:
        raise ConflictError(target, f"its resourceVersion is {metadata.resource_version}, not {wanted}: read it again")
    if uid and uid != metadata.uid:
        raise InvalidError(target, f"metadata.uid: is {metadata.uid}, not {uid}, and can not be changed")


def revise_status(before: StoredObject, patch: Members, target: str) -> Revision | None:
    """``None`` when nothing changes."""
    status = patch.get("status")
    if status is None:
        return None
    if not is_object(status):
        raise InvalidError(target, f"status: must be an object, not {bytes(status)[:40].decode()}")
    merged = merge(before.status, status)
    return None if merged is None else Revision(status=STATUS + merged)


def revise(before: StoredObject, patch: Members, known: admission.Admission, target: str) -> Revision | None:
    """All but the status. ``None`` when nothing changes."""
    metadata = _revised_metadata(before, patch["metadata"], known, target) if "metadata" in patch else None
    members = {key: value for key, value in patch.items() if key not in _NOT_BODY}
    body = merge(b"{" + before.body[1:] + b"}", objects.encode(members)) if members else None
    if body is None:
        return None if metadata is None else Revision(metadata)
    return Revision(metadata, b"," + body[1:-1] if len(body) > 2 else b"")


def _revised_metadata(
    before: StoredObject, patch: msgspec.Raw, known: admission.Admission, target: str
) -> ObjectMeta | None:
    old = before.metadata
    if not is_object(patch):
        raise InvalidError(target, f"metadata: must be an object, not {bytes(patch)[:40].decode()}")
    merged = merge(objects.encode(old), patch)
    if merged is None:
        return None
    sent = objects.parse_meta(target, merged)
    for field, value, current in (("name", sent.name, old.name), ("namespace", sent.namespace, old.namespace)):
        if (value or "") != current:
            raise BadRequestError(target, f"metadata.{field}: can not be changed to {value!r}")
    new = msgspec.structs.replace(
        old,
        labels=_kept(old.labels, known.labels(target, sent.labels)),
        annotations=_kept(old.annotations, known.annotations(target, sent.annotations)),
        owner_references=_kept(old.owner_references, known.owners(target, sent.owner_references)),
        finalizers=_kept(old.finalizers, known.finalizers(target, sent.finalizers)),
    )
    if new == old:
        return None
    added = set(new.finalizers) - set(old.finalizers)
    if added and old.deletion_timestamp is not None:
        raise InvalidError(
            target, f"metadata.finalizers: {sorted(added)} can not be added, the object is being deleted"
        )
    return new


class _Conditions(msgspec.Struct, rename="camel"):
    resource_version: str | None = None
    uid: str | None = None


_decode_conditions: Final = msgspec.json.Decoder(_Conditions).decode

_V = TypeVar("_V")


def _kept(old: _V, new: _V) -> _V:
    """The old value when both are equal: indexes see by its identity that nothing changed."""
    return old if old == new else new
