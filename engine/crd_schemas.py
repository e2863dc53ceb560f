"""What the CustomResourceDefinitions of the cluster say of the fields of their kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster, Kind
from propfan.pluginmachinery.errors import DecodeError, ForbiddenError, NotFoundError

DEFINITION: Final = Kind(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)

LOOK_AGAIN_AFTER: Final = timedelta(minutes=1)
"""An operator may be upgraded while the engine runs; a definition with pods in it has half a megabyte."""


class _Schema(msgspec.Struct, frozen=True):
    properties: Mapping[str, msgspec.Raw] = {}


class _Validation(msgspec.Struct, frozen=True):
    schema: _Schema = msgspec.field(default=_Schema(), name="openAPIV3Schema")


class _Version(msgspec.Struct, frozen=True):
    name: str
    served: bool = False
    schema: _Validation = _Validation()


class _Spec(msgspec.Struct, frozen=True):
    versions: Sequence[_Version] = ()


class _Definition(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


_definition: Final = msgspec.json.Decoder(_Definition)
_schema: Final = msgspec.json.Decoder(_Schema)


class ClusterCrdSchemas:
    """``CrdSchemas`` of a cluster. An answer counts for a minute."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster: Final = cluster
        self._clock: Final = clock
        self._answers: Final[dict[tuple[Kind, str], tuple[bool, datetime]]] = {}

    async def has_field(self, kind: Kind, path: str) -> bool:
        """As the protocol says; also ``False`` where the definition may not be read."""
        now = self._clock.now()
        answer, until = self._answers.get((kind, path), (False, now))
        if now >= until:
            answer = await self._look(kind, path)
            self._answers[kind, path] = answer, now + LOOK_AGAIN_AFTER
        return answer

    async def _look(self, kind: Kind, path: str) -> bool:
        try:
            found = await self._cluster.get(DEFINITION, "", definition_name(kind))
        except (NotFoundError, ForbiddenError):
            return False
        try:
            versions = _definition.decode(found.raw).spec.versions
            served = next((v.schema.schema for v in versions if v.name == kind.version and v.served), None)
            return served is not None and _has(served, path.split("."))
        except msgspec.DecodeError as error:
            raise DecodeError(str(found), str(error)) from error


def definition_name(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}"


def _has(schema: _Schema, names: Sequence[str]) -> bool:
    for name in names:
        inner = schema.properties.get(name)
        if inner is None:
            return False
        schema = _schema.decode(inner)
    return True
