"""``flyteidl2.auth.IdentityService``."""

from __future__ import annotations

import getpass

from flyteidl2.auth import identity_pb2
from flyteidl2.auth.identity_connect import IdentityService

from propfan.engine.control_plane.services.context import Context


class Identity(IdentityService):
    """There are no accounts: everybody who comes in is whoever started the control plane."""

    async def user_info(self, request: identity_pb2.UserInfoRequest, ctx: Context) -> identity_pb2.UserInfoResponse:
        name = user_name()
        return identity_pb2.UserInfoResponse(subject=name, name=name, preferred_username=name)


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry, as in many containers
        return "propfan"
