"""``flyteidl2.secret.SecretService``: values go in and never come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyteidl2.secret import definition_pb2, payload_pb2
from flyteidl2.secret.secret_connect import SecretService

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.services.context import Context
from propfan.engine.control_plane.store.secret_store import SecretEntry, SecretId

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane

_PAGE: Final = 100


class Secrets(SecretService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def create_secret(
        self, request: payload_pb2.CreateSecretRequest, ctx: Context
    ) -> payload_pb2.CreateSecretResponse:
        spec = request.secret_spec
        await self._plane.secrets.create(_id(request.id), _value(spec), spec.type)
        return payload_pb2.CreateSecretResponse()

    async def update_secret(
        self, request: payload_pb2.UpdateSecretRequest, ctx: Context
    ) -> payload_pb2.UpdateSecretResponse:
        spec = request.secret_spec
        await self._plane.secrets.update(_id(request.id), _value(spec), spec.type)
        return payload_pb2.UpdateSecretResponse()

    async def get_secret(self, request: payload_pb2.GetSecretRequest, ctx: Context) -> payload_pb2.GetSecretResponse:
        entry = await self._plane.secrets.entry(_id(request.id))
        return payload_pb2.GetSecretResponse(secret=_shown(entry, request.id.organization))

    async def delete_secret(
        self, request: payload_pb2.DeleteSecretRequest, ctx: Context
    ) -> payload_pb2.DeleteSecretResponse:
        await self._plane.secrets.delete(_id(request.id))
        return payload_pb2.DeleteSecretResponse()

    async def list_secrets(
        self, request: payload_pb2.ListSecretsRequest, ctx: Context
    ) -> payload_pb2.ListSecretsResponse:
        token = request.token
        if token and not (token.isascii() and token.isdigit()):
            raise InvalidRequestError("token", f"{token!r} is no token of an earlier answer")
        limit, offset = min(request.limit or _PAGE, _PAGE), int(token or 0)
        found = await self._plane.secrets.list(request.project, request.domain, limit=limit + 1, offset=offset)
        return payload_pb2.ListSecretsResponse(
            secrets=[_shown(entry, request.organization) for entry in found[:limit]],
            token=str(offset + limit) if len(found) > limit else "",
        )


def _id(identifier: definition_pb2.SecretIdentifier) -> SecretId:
    if not identifier.name:
        raise InvalidRequestError("id.name", "is required")
    return SecretId(identifier.name, identifier.project, identifier.domain)


def _value(spec: definition_pb2.SecretSpec) -> str | bytes:
    match spec.WhichOneof("value"):
        case "string_value":
            return str(spec.string_value)
        case "binary_value":
            return bytes(spec.binary_value)
        case _:
            raise InvalidRequestError("secret_spec.value", "is required: string_value or binary_value")


def _shown(entry: SecretEntry, organization: str) -> definition_pb2.Secret:
    made = definition_pb2.Secret()
    made.id.name, made.id.organization = entry.id.name, organization
    made.id.project, made.id.domain = entry.id.project, entry.id.domain
    made.secret_metadata.MergeFrom(definition_pb2.SecretMetadata(type=definition_pb2.SecretType.Name(entry.type)))
    made.secret_metadata.created_time.FromDatetime(entry.created_at)
    made.secret_metadata.secret_status.overall_status = definition_pb2.FULLY_PRESENT
    return made
