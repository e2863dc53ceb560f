"""The objects in memory, and the indexes that are kept with them.

``Tables.replace`` is the one place where anything changes, and it undoes itself when called with
its arguments swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from propfan.engine.cluster import Kind
from propfan.engine.embedded import objects
from propfan.engine.embedded.objects import StoredObject
from propfan.engine.embedded.watching import History, Selector
from propfan.pluginmachinery.contexts import OwnerReference

MIN_INDEXED_OBJECTS: Final = 64
"""Below, looking at every object is as quick."""

INDEXED_FRACTION: Final = 8
"""A label value that more than one in so many objects has is not worth an index."""


class Table:
    """The objects of one kind, by namespace and name."""

    def __init__(self, kind: Kind, version: int) -> None:
        self.kind = kind
        self.head = objects.head(kind)
        self.stored_kind = msgspec.json.encode(kind).decode()
        self.history = History(version)
        self.namespaces: dict[str, dict[str, StoredObject]] = {}
        self.by_label: dict[str, dict[str, set[tuple[str, str]]]] = {}
        """Label key to value to the objects that have it; only for keys that were asked for."""

    def get(self, namespace: str, name: str) -> StoredObject | None:
        names = self.namespaces.get(namespace)
        return names.get(name) if names is not None else None

    def __iter__(self) -> Iterator[StoredObject]:
        for names in self.namespaces.values():
            yield from names.values()

    def select(self, selector: Selector, unseen: Mapping[tuple[str, str], StoredObject | None]) -> list[StoredObject]:
        """In the order of namespace and name. ``unseen`` is what to show in place of what is pending."""
        found = [stored for stored in self._candidates(selector) if selector.matches(stored.metadata)]
        if unseen:
            found = [stored for stored in found if stored.key not in unseen]
            found += [stored for stored in unseen.values() if stored is not None and selector.matches(stored.metadata)]
        return sorted(found, key=_key)

    def _candidates(self, selector: Selector) -> Iterable[StoredObject]:
        """A superset of what matches, small when a label or the namespace is selective."""
        if selector.namespace:
            names = self.namespaces.get(selector.namespace, {})
            if not selector.items or len(names) < MIN_INDEXED_OBJECTS:
                return names.values()
        if not selector.items:
            return self
        if not any(key in self.by_label for key, _ in selector.items) and not self._index(selector):
            return self
        indexed = [
            [self.by_label[key].get(value, ()) for value in values]
            for key, values in selector.items
            if key in self.by_label
        ]
        fewest = min(indexed, key=lambda found: sum(map(len, found)))
        return [self.namespaces[namespace][name] for found in fewest for namespace, name in found]

    def _index(self, selector: Selector) -> bool:
        """Indexes the most selective label of the selector, when one is worth it."""
        labels = [stored.metadata.labels for stored in self]
        counts = {key: sum(found.get(key) in values for found in labels) for key, values in selector.items}
        key = min(counts, key=counts.__getitem__)
        if len(labels) < MIN_INDEXED_OBJECTS or counts[key] * INDEXED_FRACTION > len(labels):
            return False
        values: dict[str, set[tuple[str, str]]] = {}
        for stored in self:
            value = stored.metadata.labels.get(key)
            if value is not None:
                values.setdefault(value, set()).add(stored.key)
        self.by_label[key] = values
        return True

    def relabel(self, key: tuple[str, str], before: Mapping[str, str], after: Mapping[str, str]) -> None:
        for label, values in self.by_label.items():
            old, new = before.get(label), after.get(label)
            if old == new:
                continue
            if old is not None:
                values[old].discard(key)
                if not values[old]:
                    del values[old]
            if new is not None:
                values.setdefault(new, set()).add(key)


_NO_LABELS: Final[Mapping[str, str]] = {}


def _key(stored: StoredObject) -> tuple[str, str]:
    return stored.key


class Tables:
    """All objects, also by uid and by the uid of their owners."""

    def __init__(self, version: int) -> None:
        """``version`` is where the histories begin."""
        self._version = version
        self.by_kind: dict[Kind, Table] = {}
        self.by_uid: dict[str, StoredObject] = {}
        self._dependants: dict[str, str | set[str]] = {}
        """Owner's uid to the uids of what it owns; most own one object, which needs no set."""

    def table(self, kind: Kind) -> Table:
        table = self.by_kind.get(kind)
        if table is None:
            table = self.by_kind[kind] = Table(kind, self._version)
        return table

    def replace(self, table: Table, before: StoredObject | None, after: StoredObject | None) -> None:
        """Puts ``after`` in the place of ``before``; either may be missing."""
        if after is None:
            if before is not None:
                self._remove(table, before)
            return
        metadata = after.metadata
        if before is None:
            table.namespaces.setdefault(metadata.namespace, {})[metadata.name] = after
        else:
            table.namespaces[metadata.namespace][metadata.name] = after
        self.by_uid[metadata.uid] = after
        old_labels = before.metadata.labels if before is not None else _NO_LABELS
        if table.by_label and old_labels is not metadata.labels:
            table.relabel(after.key, old_labels, metadata.labels)
        old_owners = before.metadata.owner_references if before is not None else ()
        if old_owners is not metadata.owner_references:
            for owner in old_owners:
                self._disown(owner.uid, metadata.uid)
            for owner in metadata.owner_references:
                self._own(owner.uid, metadata.uid)

    def _remove(self, table: Table, gone: StoredObject) -> None:
        metadata = gone.metadata
        names = table.namespaces[metadata.namespace]
        del names[metadata.name]
        if not names:
            del table.namespaces[metadata.namespace]
        del self.by_uid[metadata.uid]
        if table.by_label:
            table.relabel(gone.key, metadata.labels, _NO_LABELS)
        for owner in metadata.owner_references:
            self._disown(owner.uid, metadata.uid)

    def dependants(self, uid: str) -> Sequence[str]:
        found = self._dependants.get(uid)
        if found is None:
            return ()
        return (found,) if isinstance(found, str) else sorted(found)

    def has_owner(self, stored: StoredObject) -> bool:
        """Whether one of its owners lives, or it never had any. An owner is of its own namespace, or of none."""
        references = stored.metadata.owner_references
        return not references or any(self.is_owner(reference.uid, stored) for reference in references)

    def is_owner(self, uid: str, stored: StoredObject) -> bool:
        owner = self.by_uid.get(uid)
        return owner is not None and owner.metadata.namespace in ("", stored.metadata.namespace)

    def shared(self, references: Sequence[OwnerReference]) -> Sequence[OwnerReference]:
        """The same references, with the strings that their owners have already."""
        if not references:
            return ()
        shared = []
        for reference in references:
            owner = self.by_uid.get(reference.uid)
            if owner is not None and owner.metadata.name == reference.name:
                shared.append(msgspec.structs.replace(reference, uid=owner.metadata.uid, name=owner.metadata.name))
            else:
                shared.append(reference)
        return tuple(shared)

    def _own(self, owner: str, uid: str) -> None:
        found = self._dependants.get(owner)
        if found is None:
            self._dependants[owner] = uid
        elif isinstance(found, set):
            found.add(uid)
        elif found != uid:
            self._dependants[owner] = {found, uid}

    def _disown(self, owner: str, uid: str) -> None:
        found = self._dependants.get(owner)
        if isinstance(found, set):
            found.discard(uid)
        if found == uid or not found:
            self._dependants.pop(owner, None)
