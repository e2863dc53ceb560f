"""What the API server refuses: names, labels, annotations, owners, finalizers, sizes.

The rules and limits are those of apimachinery's ``pkg/util/validation`` and
``pkg/api/validation``; the size limit is etcd's ``--max-request-bytes``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from propfan.engine.cluster import Kind
from propfan.engine.labels import MAX_LABEL_CHARACTERS, is_label_value, is_qualified_name, is_subdomain
from propfan.pluginmachinery.contexts import OwnerReference
from propfan.pluginmachinery.errors import InvalidError, TooLargeError

MAX_OBJECT_BYTES: Final = 1_572_864
MAX_NAME_CHARACTERS: Final = 253
MAX_ANNOTATIONS_BYTES: Final = 262_144
MAX_KNOWN_STRINGS: Final = 65_536

_label = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?").fullmatch

EMPTY: Final[Mapping[str, str]] = {}
"""Shared by all objects without labels or annotations."""


class Admission:
    """Validates, and lets objects share the strings that they have in common."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._annotation_keys: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    def labels(self, target: str, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        if not labels:
            return EMPTY
        keys, values = self._keys, self._values
        shared = {}
        for key, value in labels.items():
            known_key, known_value = keys.get(key), values.get(value)
            if known_key is None:
                known_key = self._learn(keys, is_qualified_name, target, "metadata.labels", key)
            if known_value is None:
                known_value = self._learn(values, is_label_value, target, f"metadata.labels['{key}']", value)
            shared[known_key] = known_value
        return shared

    def annotations(self, target: str, annotations: Mapping[str, str] | None) -> Mapping[str, str]:
        if not annotations:
            return EMPTY
        shared = {}
        size = 0
        for key, value in annotations.items():
            known_key = self._annotation_keys.get(key)
            if known_key is None:
                known_key = self._learn(self._annotation_keys, is_annotation_key, target, "metadata.annotations", key)
            shared[known_key] = value
            size += len(key) + len(value if value.isascii() else value.encode())
        if size > MAX_ANNOTATIONS_BYTES:
            raise InvalidError(
                target, f"metadata.annotations: {size} bytes in all, the limit is {MAX_ANNOTATIONS_BYTES}"
            )
        return shared

    def finalizers(self, target: str, finalizers: Sequence[str] | None) -> Sequence[str]:
        if not finalizers:
            return ()
        keys = self._keys
        return tuple(
            keys.get(name) or self._learn(keys, is_qualified_name, target, "metadata.finalizers", name)
            for name in finalizers
        )

    def owners(self, target: str, references: Sequence[OwnerReference] | None) -> Sequence[OwnerReference]:
        if not references:
            return ()
        controllers = 0
        for index, owner in enumerate(references):
            controllers += owner.controller
            for field, value in (
                ("apiVersion", owner.api_version),
                ("kind", owner.kind),
                ("name", owner.name),
                ("uid", owner.uid),
            ):
                if not value:
                    raise InvalidError(target, f"metadata.ownerReferences[{index}].{field}: must not be empty")
        if controllers > 1:
            raise InvalidError(target, "metadata.ownerReferences: only one may have controller set to true")
        return tuple(
            msgspec.structs.replace(owner, api_version=self.shared(owner.api_version), kind=self.shared(owner.kind))
            for owner in references
        )

    def shared(self, text: str) -> str:
        """The same text, as it is kept already."""
        known = self._texts.get(text)
        if known is None:
            if len(self._texts) >= MAX_KNOWN_STRINGS:
                self._texts.clear()
            known = self._texts[text] = text
        return known

    def _learn(self, known: dict[str, str], is_valid: Callable[[str], bool], target: str, field: str, text: str) -> str:
        if not is_valid(text):
            raise InvalidError(target, f"{field}: {text[:80]!r} is not a {_MEANING[is_valid]}")
        if len(known) >= MAX_KNOWN_STRINGS:
            known.clear()
        known[text] = text
        return text


def name(kind: Kind, namespace: str, name: str) -> None:
    """Raises InvalidError when the object can not have this name, or not in this namespace."""
    if not name:
        raise InvalidError(kind.kind, "metadata.name: required")
    if len(name) > MAX_NAME_CHARACTERS or is_subdomain(name) is None:
        raise InvalidError(
            f"{kind.kind} {namespace}/{name[:80]}",
            "metadata.name: must be a DNS-1123 subdomain: lower case letters, digits, '-' and '.', "
            f"at most {MAX_NAME_CHARACTERS} characters",
        )
    if not kind.namespaced:
        if namespace:
            raise InvalidError(f"{kind.kind} {name}", "metadata.namespace: must be empty, the kind has none")
    elif not namespace or len(namespace) > MAX_LABEL_CHARACTERS or _label(namespace) is None:
        raise InvalidError(
            f"{kind.kind} {namespace[:80]}/{name}", "metadata.namespace: must be a DNS-1123 label of 1 to 63 characters"
        )


def size(target: str, raw: bytes) -> None:
    if len(raw) > MAX_OBJECT_BYTES:
        raise TooLargeError(target, f"{len(raw)} bytes, the limit is {MAX_OBJECT_BYTES}")


def is_annotation_key(text: str) -> bool:
    """Unlike in a label, capitals are allowed in the prefix."""
    return is_qualified_name(text.lower())


_QUALIFIED_NAME: Final = (
    "qualified name: an optional DNS-1123 subdomain and '/', then at most 63 letters, digits, '-', '_' and '.', "
    "a letter or digit at both ends"
)
_MEANING: Final[dict[Callable[[str], bool], str]] = {
    is_label_value: "label value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends",
    is_qualified_name: _QUALIFIED_NAME,
    is_annotation_key: _QUALIFIED_NAME,
}
