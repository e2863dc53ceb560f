"""Settings of a control plane."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from propfan.engine.config import Seconds


class ControlPlaneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What a control plane needs to know beside its engine.

    Attributes:
        database: ``sqlite:///path`` or ``postgresql://user:password@host/name``; empty for a file beside the
            engine's own, or memory where the engine has none.
        endpoint: Where tasks and clients reach it, ``http://host:port``; a server with a socket of its own knows.
        upload_url: Where clients reach it with uploads, when that is another address.
        on_kubernetes: Tasks run as pods of the cluster that the engine's section ``kubernetes`` names, instead of as
            processes here. They must reach ``endpoint`` and the store.
        organization: Of runs whose clients name none.
        token: Clients must show it as a bearer token; empty lets everybody in.
        secrets_key: Fernet key that secrets are encrypted with; empty for a key file beside the database.
        max_message_bytes: Of one request.
        max_upload_bytes: Of one uploaded file.
        upload_ttl_s: How long a URL for an upload or a download is good.
    """

    database: str = ""
    endpoint: str = ""
    upload_url: str = ""
    on_kubernetes: bool = False
    organization: str = "local"
    token: str = ""
    secrets_key: str = ""
    max_message_bytes: Annotated[int, Meta(ge=64 * 1024)] = 16 * 1024 * 1024
    max_upload_bytes: Annotated[int, Meta(ge=1024)] = 1024 * 1024 * 1024
    upload_ttl_s: Seconds = 3600.0
