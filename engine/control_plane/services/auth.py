"""``flyteidl2.auth.AuthMetadataService``: how clients are to show their token."""

from __future__ import annotations

from flyteidl2.auth import auth_service_pb2
from flyteidl2.auth.auth_service_connect import AuthMetadataService

from propfan.engine.control_plane.services.context import Context


class AuthMetadata(AuthMetadataService):
    """There is no authorization server: the token is handed out by people, and shown as it is."""

    async def get_o_auth2_metadata(
        self, request: auth_service_pb2.GetOAuth2MetadataRequest, ctx: Context
    ) -> auth_service_pb2.GetOAuth2MetadataResponse:
        return auth_service_pb2.GetOAuth2MetadataResponse()

    async def get_public_client_config(
        self, request: auth_service_pb2.GetPublicClientConfigRequest, ctx: Context
    ) -> auth_service_pb2.GetPublicClientConfigResponse:
        return auth_service_pb2.GetPublicClientConfigResponse(authorization_metadata_key="authorization")
