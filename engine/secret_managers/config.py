"""Section ``secrets``."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta


class Place(enum.Enum):
    """LOCAL: the environment and files of the engine. KUBERNETES: Secrets of one namespace."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


class SecretsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``secrets``: where the engine's own calls of other services find their secrets.

    Attributes:
        types: Places that are asked, in this order.
        env_prefix: Of variables: ``FLYTE_SECRET_<key>``.
        secrets_prefix: Folder of files: ``/etc/secrets/<key>``.
        namespace: Of the Kubernetes Secrets that hold values by scope; the admission webhook reads them too.
        organization: Part of their names. Flyte 2 without organisations calls its only one ``flyte``.
        expiry_s: A value that was read from Kubernetes is believed for so long; 0 reads it each time.
    """

    types: tuple[Place, ...] = (Place.LOCAL,)
    env_prefix: str = "FLYTE_SECRET_"
    secrets_prefix: str = "/etc/secrets"
    namespace: Annotated[str, Meta(min_length=1)] = "flyte"
    organization: str = "flyte"
    expiry_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
