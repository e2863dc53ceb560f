"""Tokens for Google's APIs, of the keys that tasks bring and of the service's own account.

The library that gets them, google-auth, blocks: it works in threads. Tokens are kept until shortly before
their end.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import msgspec

from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.plugins.connectors.http_answers import NOT_ALLOWED

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

SECRET: Final = "google_application_credentials"  # noqa: S105 - its name
"""Logical name of the secret with a service account's key, as JSON."""

_SCOPES: Final = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")
_MAX_ACCOUNTS: Final = 200
"""Keys whose tokens are kept; of more, those used last."""
_REFRESH_LIMIT_S: Final = 20.0


class Account:
    """Whom BigQuery is asked as.

    Attributes:
        project: That it belongs to; empty when it does not say.
    """

    def __init__(self, credentials: Credentials, project: str) -> None:
        self.project: Final = project
        self._credentials: Final = credentials
        self._turn: Final = anyio.Lock()

    async def token(self, refused: str) -> str:
        """A token that is good for some minutes more.

        Args:
            refused: One that BigQuery does not take any more, so that another is needed; empty for none.

        Raises:
            TransientError: the token endpoint does not answer.
            PermanentError: it does not take the account's key.
        """
        from google.auth.credentials import TokenState

        async with self._turn:
            known = self._credentials.token
            if known is None or known == refused or self._credentials.token_state is not TokenState.FRESH:
                await anyio.to_thread.run_sync(self._refresh)
            return str(self._credentials.token)

    def _refresh(self) -> None:
        import requests
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        try:
            with requests.Session() as session:
                request = partial(Request(session), timeout=_REFRESH_LIMIT_S)
                self._credentials.refresh(request)  # type: ignore[no-untyped-call]
        except exceptions.RefreshError as error:
            problem = f"no token for BigQuery: {error.args[0] if error.args else 'no reason given'}"
            if error.retryable:
                raise TransientError("", problem) from error
            raise PermanentError(NOT_ALLOWED, f"{problem}; check the key in the secret '{SECRET}'") from error
        except (exceptions.TransportError, requests.RequestException) as error:
            raise TransientError("", f"no token for BigQuery: {error}") from error
        except exceptions.GoogleAuthError as error:  # its text may show parts of the key
            problem = f"no token for BigQuery: the key in the secret '{SECRET}' can not be used: {type(error).__name__}"
            raise PermanentError(NOT_ALLOWED, problem) from None


class Accounts:
    """Makes each account once.

    Args:
        token_endpoints: Where keys of tasks may be used. The service asks there, so a task must not choose.
    """

    def __init__(self, token_endpoints: Sequence[str]) -> None:
        self._token_endpoints: Final = frozenset(token_endpoints)
        self._accounts: Final[OrderedDict[str, Account]] = OrderedDict()
        self._turn: Final = anyio.Lock()

    async def of_task(self, key: str) -> Account:
        """The account of a key that a task brings: a service account's only.

        Other kinds name files and programs of the machine that they are used on, which is not the task's.

        Raises:
            PermanentError: it is no such key, or of a foreign token endpoint.
        """
        return await self._account(key, partial(self._from_key, key, is_foreign=True))

    async def of_service(self, key: str | None) -> Account:
        """The account of the service's own key, else of its surroundings (Application Default Credentials).

        Raises:
            PermanentError: there are none, or the key is no key.
        """
        made = partial(_from_surroundings) if key is None else partial(self._from_key, key, is_foreign=False)
        return await self._account("own" + (key or ""), made)

    async def _account(self, identity: str, make: Callable[[], Account]) -> Account:
        digest = hashlib.sha256(identity.encode()).hexdigest()
        async with self._turn:
            if digest not in self._accounts:
                self._accounts[digest] = await anyio.to_thread.run_sync(make)
            self._accounts.move_to_end(digest)
            if len(self._accounts) > _MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
            return self._accounts[digest]

    def _from_key(self, key: str, *, is_foreign: bool) -> Account:
        import google.auth
        from google.auth import exceptions
        from google.oauth2 import service_account

        try:
            info = msgspec.json.decode(key, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError):
            raise _bad_key("is no JSON object") from None
        kind = info.get("type")
        if is_foreign and kind != "service_account":
            raise _bad_key(f"must be of type service_account, is of type {kind!r}")
        if is_foreign and (endpoint := info.get("token_uri")) not in self._token_endpoints:
            way_out = "add it to connectors.bigquery.token-endpoints"
            raise _bad_key(f"has the token_uri {endpoint!r}, which the service does not ask; {way_out}")
        try:
            if kind == "service_account":
                made = service_account.Credentials.from_service_account_info
                credentials = made(info, scopes=_SCOPES)  # type: ignore[no-untyped-call]
            else:
                loaded = google.auth.load_credentials_from_dict
                credentials, _ = loaded(info, scopes=_SCOPES)  # type: ignore[no-untyped-call]
        except exceptions.MalformedError as error:
            raise _bad_key(str(error)) from None
        except (exceptions.GoogleAuthError, ValueError, TypeError) as error:  # their texts may show parts of it
            raise _bad_key(f"can not be used: {type(error).__name__}") from None
        return Account(credentials, _text(info, "project_id"))


def _from_surroundings() -> Account:
    import google.auth
    from google.auth import exceptions

    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    except exceptions.DefaultCredentialsError as error:
        way_out = f"let the task bring '{SECRET}', or give the connector service that secret or an account of its own"
        raise PermanentError(NOT_ALLOWED, f"no credentials for BigQuery: {way_out} ({error})") from error
    return Account(credentials, project or "")


def _text(info: Mapping[str, Any], name: str) -> str:
    value = info.get(name)
    return value if isinstance(value, str) else ""


def _bad_key(problem: str) -> PermanentError:
    return PermanentError(NOT_ALLOWED, f"secret '{SECRET}' must be the key of a service account as JSON: it {problem}")
