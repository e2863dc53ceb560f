"""Whom Databricks is asked as: tokens of tasks and of the service, and where each may be sent.

Personal access tokens are sent as they are. A service principal's secret buys tokens of an hour (OAuth
machine-to-machine, https://docs.databricks.com/dev-tools/auth/oauth-m2m), which are kept until shortly before
their end.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from datetime import timedelta
from typing import Final

import anyio
import msgspec

from propfan.pluginmachinery.connector import ConnectorSetup, HttpClient
from propfan.plugins.connectors.bearer import TokenOf
from propfan.plugins.connectors.http_answers import checked

PERSONAL: Final = "pat"
SERVICE_PRINCIPAL: Final = "oauth_m2m"
"""Values of ``databricksAuthType`` that are known here; nothing means the first one."""

_MARGIN: Final = timedelta(minutes=5)
"""A token is not used when it ends within this: a call may wait for its turn."""
_MAX_PRINCIPALS: Final = 200
"""Whose tokens are kept; of more, those used last."""


class _Issued(msgspec.Struct, frozen=True):
    """Of ``/oidc/v1/token``."""

    access_token: str
    expires_in: float = 3600.0


def personal(token: str) -> TokenOf:
    """A personal access token, which is all there is."""

    async def told(refused: str) -> str:
        return token

    return told


class ServicePrincipals:
    """Those that were asked for, with their tokens."""

    def __init__(self, setup: ConnectorSetup) -> None:
        self._setup: Final = setup
        self._known: Final[OrderedDict[str, _ServicePrincipal]] = OrderedDict()

    def tokens_of(self, http: HttpClient, workspace: str, client_id: str, client_secret: str) -> TokenOf:
        """Tokens of one principal for one workspace.

        Args:
            workspace: Base of its URLs.
        """
        key = hashlib.sha256(f"{workspace}\0{client_id}\0{client_secret}".encode()).hexdigest()
        if key not in self._known:
            self._known[key] = _ServicePrincipal(self._setup, http, workspace, client_id, client_secret)
        self._known.move_to_end(key)
        if len(self._known) > _MAX_PRINCIPALS:
            self._known.popitem(last=False)
        return self._known[key].token


class _ServicePrincipal:
    def __init__(
        self, setup: ConnectorSetup, http: HttpClient, workspace: str, client_id: str, client_secret: str
    ) -> None:
        self._setup: Final = setup
        self._http: Final = http
        self._url: Final = f"{workspace}/oidc/v1/token"
        self._client_id: Final = client_id
        self._credentials: Final = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._turn: Final = anyio.Lock()
        self._token = ""
        self._ends_at = setup.now()

    async def token(self, refused: str) -> str:
        """Raises as ``http_answers.checked`` where Databricks gives none."""
        async with self._turn:
            if self._token == refused or self._ends_at - self._setup.now() < _MARGIN:
                issued = await self._issued()
                self._token = issued.access_token
                self._ends_at = self._setup.now() + timedelta(seconds=issued.expires_in)
            return self._token

    async def _issued(self) -> _Issued:
        headers = {
            "Authorization": f"Basic {self._credentials}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        form = b"grant_type=client_credentials&scope=all-apis"
        answer = await self._http.request("POST", self._url, headers=headers, body=form)
        what = f"databricks: get a token for the service principal '{self._client_id}'"
        return checked(answer, what, self._setup).json(_Issued)
