"""Clients of AWS's services: who one is there, and the clients that are kept.

Making a client reads the service's whole model, which takes a large part of a second, so they are kept.
Clients may be used by several threads at once; the sessions that make them may not.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio.from_thread
import msgspec

from propfan.pluginmachinery.connector import Connection, Connector
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PermanentError
from propfan.plugins.connectors.aws.config import AwsConfig, CredentialSource
from propfan.plugins.connectors.aws.failures import told
from propfan.plugins.connectors.http_answers import NOT_ALLOWED

if TYPE_CHECKING:
    import boto3

K = TypeVar("K")

ACCESS_KEY_ID: Final = "aws_access_key_id"
SECRET_ACCESS_KEY: Final = "aws_secret_access_key"  # noqa: S105 - its name
SESSION_TOKEN: Final = "aws_session_token"  # noqa: S105

MAX_IDENTITIES: Final = 64
"""Of which clients are kept: each task may bring credentials of its own."""

MAX_CLIENTS: Final = 64
"""Of one identity that are kept: tasks name services and regions."""

_MAX_CONNECTIONS: Final = 50
"""Of one client to its service, as many as the connectors have calls at once."""

_OWN: Final = ""
"""Identity of the service itself."""


class _Keys(msgspec.Struct, frozen=True):
    """Credentials as they are; never shown.

    Attributes:
        owner: ``task`` or ``service``.
    """

    owner: str
    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return "_Keys(...)"

    @property
    def identity(self) -> str:
        """Tells them from others and does not give them away."""
        return hashlib.sha256("\0".join(msgspec.structs.astuple(self)).encode()).hexdigest()


class _Identity:
    """One session, and its clients by service and region."""

    def __init__(self, session: boto3.Session) -> None:
        self.session: Final = session
        self.clients: Final[OrderedDict[tuple[str, str], Any]] = OrderedDict()


class Clients:
    """What a connector asks AWS through. Its methods are called in threads of the connector."""

    def __init__(self, connector: Connector) -> None:
        self.config: Final = connector.setup.section("aws", AwsConfig)
        if self.config.external_id and not self.config.role_arn:
            raise ConfigError("connectors.aws.external-id", "is of no use without connectors.aws.role-arn")
        self._connector: Final = connector
        self._identities: Final[OrderedDict[str, _Identity]] = OrderedDict()
        self._lock: Final = Lock()

    def client(self, service: str, region: str, connection: Connection) -> Any:
        """A client of ``service``; the same for the same region and credentials.

        Args:
            region: The task's own; empty for the one of the connection's settings, else the configured one.

        Raises:
            PermanentError: credentials are missing.
            BadTaskSpecificationError: there is no such service or region; or none is named.
        """
        keys = self._keys(connection)
        identity = _OWN if keys is None else keys.identity
        region = region or connection.configs.get("region", "") or self.config.region
        region = region or self._connector.setup.environment.get("AWS_REGION", "")
        with self._lock, told(f"aws: make a client of '{service}'", self._connector.setup):
            known = self._identities.get(identity)
            if known is None:
                known = self._identities[identity] = _Identity(self._session(keys))
            _use(self._identities, identity, MAX_IDENTITIES)
            client = known.clients.get((service, region))
            if client is None:
                client = known.clients[service, region] = self._made(known.session, service, region)
            _use(known.clients, (service, region), MAX_CLIENTS)
        return client

    def close(self) -> None:
        """Closes what is open."""
        with self._lock:
            for identity in self._identities.values():
                for client in identity.clients.values():
                    client.close()
            self._identities.clear()

    def _keys(self, connection: Connection) -> _Keys | None:
        """What the task brings, else the service's own secrets; ``None`` leaves it to AWS's chain."""
        brought = connection.secrets
        if ACCESS_KEY_ID in brought or SECRET_ACCESS_KEY in brought:
            # Half of a task's credentials is never completed with the service's.
            missing = [key for key in (ACCESS_KEY_ID, SECRET_ACCESS_KEY) if not brought.get(key)]
            if missing:
                problem = f"the task brings credentials of AWS without '{missing[0]}': add it to custom.secrets"
                raise PermanentError(NOT_ALLOWED, problem)
            return _Keys("task", brought[ACCESS_KEY_ID], brought[SECRET_ACCESS_KEY], brought.get(SESSION_TOKEN, ""))
        if self.config.credentials is CredentialSource.CHAIN:
            return None
        own = (self._secret(ACCESS_KEY_ID), self._secret(SECRET_ACCESS_KEY))
        try:
            token = self._secret(SESSION_TOKEN)
        except PermanentError:  # keys that do not expire have none
            token = ""
        return _Keys("service", *own, token)

    def _secret(self, key: str) -> str:
        return anyio.from_thread.run(self._connector.get_secret, key)

    def _session(self, keys: _Keys | None) -> boto3.Session:
        import boto3

        if keys is None:
            session = boto3.Session(botocore_session=_new_session())
        else:
            session = boto3.Session(
                aws_access_key_id=keys.access_key_id,
                aws_secret_access_key=keys.secret_access_key,
                aws_session_token=keys.session_token or None,
                botocore_session=_new_session(),
            )
        is_tasks = keys is not None and keys.owner == "task"
        return self._in_role(session) if self.config.role_arn and not is_tasks else session

    def _in_role(self, source: boto3.Session) -> boto3.Session:
        """A session with the role's credentials, which are renewed before they expire."""
        import boto3
        from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials

        sts = self._made(source, "sts", self.config.region or source.region_name or "us-east-1")
        request = {"RoleArn": self.config.role_arn, "RoleSessionName": "propfan"}
        if self.config.external_id:
            request["ExternalId"] = self.config.external_id

        def assumed() -> Mapping[str, str]:
            made = sts.assume_role(**request)["Credentials"]
            keys = {"access_key": made["AccessKeyId"], "secret_key": made["SecretAccessKey"]}
            return {**keys, "token": made["SessionToken"], "expiry_time": made["Expiration"].isoformat()}

        class RoleProvider(CredentialProvider):  # type: ignore[misc] # untyped
            METHOD = "assume-role"
            CANONICAL_NAME = "custom-propfan-role"

            def load(self) -> Any:
                return DeferredRefreshableCredentials(refresh_using=assumed, method=self.METHOD)

        within = _new_session()
        within.register_component("credential_provider", CredentialResolver([RoleProvider()]))
        return boto3.Session(botocore_session=within)

    def _made(self, session: boto3.Session, service: str, region: str) -> Any:
        from botocore.config import Config
        from botocore.exceptions import UnknownServiceError

        config = Config(
            retries={"mode": "standard", "total_max_attempts": self.config.attempts},
            connect_timeout=self.config.connect_timeout_s,
            read_timeout=self.config.read_timeout_s,
            max_pool_connections=_MAX_CONNECTIONS,
            user_agent_extra="propfan",
        )
        try:
            return session.client(
                service, region_name=region or None, endpoint_url=self.config.endpoint_url or None, config=config
            )
        except UnknownServiceError:
            service = service[:100]  # looking for similar ones takes its time
            similar = difflib.get_close_matches(service, session.get_available_services())
            hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise BadTaskSpecificationError(f"custom.service: boto3 knows no service '{service}'{hint}") from None
        except ValueError as error:
            if type(error) is not ValueError:  # a kind of boto3's own, which is told as such
                raise
            raise PermanentError("", f"aws: no client of '{service}' in region '{region}': {error}") from None


def _use(kept: OrderedDict[K, Any], key: K, limit: int) -> None:
    """Of what is kept, this is the last used; what was used longest ago goes. Who still works with that may go on."""
    kept.move_to_end(key)
    if len(kept) > limit:
        kept.popitem(last=False)


def _new_session() -> Any:
    """With the models of services that other sessions have read: they are the same for everybody."""
    import botocore.session

    session = botocore.session.get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return session


@cache
def _loader(data_path: str | None) -> Any:
    from botocore.loaders import create_loader

    return create_loader(data_path)
