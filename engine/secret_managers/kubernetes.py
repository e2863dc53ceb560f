"""Values of Kubernetes Secrets, read one by one: no right to list them is needed."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster, Kind
from propfan.pluginmachinery.errors import NotFoundError, PermanentError

SECRET: Final = Kind("", "v1", "Secret", "secrets")

SECRET_READ_FAILURE: Final = "SecretReadFailure"  # noqa: S105 - an error code

_KEPT: Final = 4096


class _Secret(msgspec.Struct, frozen=True):
    data: Mapping[str, str] | None = None


_decode: Final = msgspec.json.Decoder(_Secret).decode


class KubernetesSecrets:
    """Reads through a cache. What is not there is asked for each time: it may be made any moment.

    Args:
        expiry_s: A value that was read is believed for so long.
    """

    def __init__(self, cluster: Cluster, clock: Clock, expiry_s: float) -> None:
        self._cluster: Final = cluster
        self._clock: Final = clock
        self._expiry: Final = timedelta(seconds=expiry_s)
        self._known: Final[OrderedDict[tuple[str, str], tuple[datetime, Mapping[str, str]]]] = OrderedDict()

    async def value(self, namespace: str, name: str, key: str) -> bytes | None:
        """What a Secret has under a key; ``None`` when there is no such Secret or key.

        Raises:
            ApiError: the cluster does not say.
            PermanentError: code ``SecretReadFailure``; it is no base64.
        """
        known = self._known.get((namespace, name))
        if known is not None and known[0] > self._clock.now() and key in known[1]:
            return _decoded(namespace, name, key, known[1][key])
        try:
            seen = await self._cluster.get(SECRET, namespace, name)
        except NotFoundError:
            self._known.pop((namespace, name), None)
            return None
        try:
            data = _decode(seen.raw).data or {}
        except msgspec.DecodeError:  # whose text might show what is there
            raise PermanentError(SECRET_READ_FAILURE, f"Secret {namespace}/{name} is not as Secrets are") from None
        self._known[namespace, name] = (self._clock.now() + self._expiry, data)
        self._known.move_to_end((namespace, name))
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return _decoded(namespace, name, key, data[key]) if key in data else None

    def forget(self, namespace: str, name: str) -> None:
        """The next read asks the cluster."""
        self._known.pop((namespace, name), None)


def _decoded(namespace: str, name: str, key: str, encoded: str) -> bytes:
    try:
        return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise PermanentError(SECRET_READ_FAILURE, f"Secret {namespace}/{name}, key {key} is no base64") from None
