"""Names under which values are kept by scope, as Flyte 2's backend writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec


class SecretScope(msgspec.Struct, frozen=True):
    """Whose secret it is. Without a project it is for all of a domain, without both for all of an organisation."""

    organization: str
    project: str = ""
    domain: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.organization, self.project, self.domain)))

    def cascade(self) -> Sequence[SecretScope]:
        """Where a secret is looked for, the closest scope first."""
        wider = (SecretScope(self.organization, "", self.domain), SecretScope(self.organization))
        return tuple(dict.fromkeys((self, *wider)))

    def id_of(self, name: str) -> str:
        """The secret's id: the key of its value in the Secret that holds it."""
        return f"u__org__{self.organization}__domain__{self.domain}__project__{self.project}__key__{name}"


def object_name(identifier: str) -> str:
    """Of the Kubernetes Secret that holds the value with this id, or of a group without a name."""
    return hashlib.md5(identifier.encode(), usedforsecurity=False).hexdigest()
