"""Accounts of Snowflake: where their API is, who asks it, and where people see a query."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Final
from urllib.parse import quote

import anyio.to_thread
import msgspec
from msgspec import Meta

from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.plugins.connectors.http_answers import NOT_ALLOWED

PRIVATE_KEY: Final = "snowflake_private_key"
PASSPHRASE: Final = "snowflake_private_key_passphrase"  # noqa: S105 - the secret's name

_DOMAINS: Final = ("*.snowflakecomputing.com", "*.snowflakecomputing.cn")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_LIFETIME: Final = timedelta(minutes=10)
"""Of a token; Snowflake takes at most an hour."""
_MARGIN: Final = timedelta(minutes=2)
"""A token that lives no longer is not used for another request."""
_MAX_TOKENS: Final = 1000
_EARLIER: Final = timedelta(seconds=30)
"""How far the clocks may differ."""


class SnowflakeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``connectors.snowflake``.

    Attributes:
        endpoint: URL of a proxy that is asked in place of ``https://<account>.snowflakecomputing.com``.
        hosts: Servers beside Snowflake's own domains that a task's ``connection_kwargs`` may name, as patterns
            such as ``snowflake.example.com``: tokens are sent there.
        statement_timeout_s: Snowflake cancels a statement that takes longer; 0 leaves it to the account.
        role: Of statements whose task names none; empty takes the user's own.
    """

    endpoint: str = ""
    hosts: Sequence[str] = ()
    statement_timeout_s: Annotated[int, Meta(ge=0, le=604_800)] = 0
    role: str = ""


class Account(msgspec.Struct, frozen=True):
    """One user of one account, at the server that has it.

    Attributes:
        name: As the task says: ``organization-name``, or a locator with its region, ``xy12345.eu-central-1``.
        server: Scheme, host and port.
    """

    name: str
    user: str
    server: str

    @classmethod
    def at(
        cls, name: str, user: str, config: SnowflakeConfig, *, host: str = "", port: int = 443, protocol: str = "https"
    ) -> Account:
        """The account as a task names it.

        Raises:
            BadTaskSpecificationError: something is no name of its kind, or the host may not be asked.
        """
        if not _ACCOUNT.fullmatch(name):
            way_out = "write organization-account, or a locator with its region such as xy12345.eu-central-1"
            raise BadTaskSpecificationError(f"account: '{name}' is no account identifier: {way_out}")
        if not user:
            raise BadTaskSpecificationError("user: is empty")
        if config.endpoint and not host:
            return cls(name, user, config.endpoint.rstrip("/"))
        host = (host or f"{name.replace('_', '-')}.snowflakecomputing.com").lower()
        is_own = any(fnmatchcase(host, pattern) for pattern in _DOMAINS)
        is_allowed = is_own or any(fnmatchcase(host, pattern.lower()) for pattern in config.hosts)
        if not _HOST.fullmatch(host) or not is_allowed:
            allowed = ", ".join((*_DOMAINS, *config.hosts))
            raise BadTaskSpecificationError(
                f"connection_kwargs.host: '{host}' is not among connectors.snowflake.hosts: {allowed}"
            )
        if protocol not in ("https", "http") or (protocol == "http" and is_own):
            raise BadTaskSpecificationError(f"connection_kwargs.protocol: '{protocol}' must be https")
        return cls(name, user, f"{protocol}://{host}" if port == 443 else f"{protocol}://{host}:{port}")

    @property
    def issuer(self) -> str:
        """``ACCOUNT.USER``, as Snowflake's key-pair authentication wants it: locators go without their region."""
        separator = "-" if ".global" in self.name else "."
        return f"{self.name.partition(separator)[0]}.{self.user}".upper()

    def token(self, private_key: str, passphrase: str, now: datetime) -> str:
        """A JSON Web Token for this user, signed with the user's key.

        Raises:
            PermanentError: the key can not be read; its name is told and nothing of it.
        """
        import jwt
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        try:
            key = serialization.load_pem_private_key(_pem(private_key), passphrase.encode() or None)
        except (ValueError, TypeError, binascii.Error) as error:
            hint = f"; set the secret '{PASSPHRASE}'" if "encrypted" in str(error) else ""
            problem = f"secret '{PRIVATE_KEY}' is no private key as PEM that can be read{hint}"
            raise PermanentError(NOT_ALLOWED, problem) from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise PermanentError(NOT_ALLOWED, f"secret '{PRIVATE_KEY}' is no RSA key, which Snowflake asks for")
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        fingerprint = base64.b64encode(hashlib.sha256(public).digest()).decode()
        claims = {
            "iss": f"{self.issuer}.SHA256:{fingerprint}",
            "sub": self.issuer,
            "iat": now - _EARLIER,
            "exp": now + _LIFETIME,
        }
        return jwt.encode(claims, key, algorithm="RS256")

    def query_page(self, query_id: str) -> str:
        """Snowsight's page about a query."""
        locator, is_locator, region = self.name.partition(".")
        if is_locator:
            place = f"{region}/{locator}"
        else:
            organization, has_organization, name = self.name.partition("-")
            place = f"{organization}/{name}" if has_organization else f"us-west-2/{locator}"
        return f"https://app.snowflake.com/{quote(place.lower())}/#/compute/history/queries/{quote(query_id)}/detail"


class Tokens:
    """Tokens that are still good: reading and using a key takes tens of milliseconds of CPU."""

    def __init__(self) -> None:
        self._made: Final[dict[tuple[Account, bytes], tuple[datetime, str]]] = {}

    async def of(self, account: Account, private_key: str, passphrase: str, now: datetime) -> str:
        """As of ``Account.token``, made in a thread."""
        identity = account, hashlib.sha256(f"{passphrase}\0{private_key}".encode()).digest()
        expires_at, token = self._made.get(identity, (now, ""))
        if expires_at - now <= _MARGIN:
            token = await anyio.to_thread.run_sync(account.token, private_key, passphrase, now)
            if len(self._made) >= _MAX_TOKENS:
                self._made.clear()
            self._made[identity] = now + _LIFETIME, token
        return token


def _pem(text: str) -> bytes:
    """PEM whose lines may have been lost on the way through a variable, or a key without its frame."""
    text = text.replace("\\n", "\n").strip()
    if not text.startswith("-----BEGIN"):
        return f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n".encode()
    return text.encode()
