"""The webhook's server, and the upkeep of what the API server knows of it."""

from __future__ import annotations

import hmac
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import structlog
from aiohttp import web

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster
from propfan.engine.daemon import probes
from propfan.engine.secret_managers.config import SecretsSection
from propfan.engine.secret_managers.kubernetes import KubernetesSecrets
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.secrets import FileEnvSecrets
from propfan.engine.webhook.admission import Admission
from propfan.engine.webhook.authority import Identity
from propfan.engine.webhook.config import SecretManagerType, WebhookSection
from propfan.engine.webhook.managers import EmbeddedSource, GlobalSource, KubernetesSource, SecretSource
from propfan.engine.webhook.registration import MUTATE_PATH, Registration
from propfan.pluginmachinery.errors import ApiError, ConfigError, DecodeError, ForbiddenError

logger = structlog.get_logger(__name__)

INVALIDATE_PATH: Final = "/invalidate-secret"

_MOST_BYTES: Final = 8 * 2**20
"""Of a review; etcd takes objects of 1.5 MiB."""
_AGAIN_S: Final = 2.0


class _Invalidation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    org: str = ""
    project: str = ""
    domain: str = ""


class Webhook:
    """What is the same for all questions.

    Args:
        namespace: Of the Service and the certificate.
        task_namespaces: Pods of others are left alone; all are looked at when empty.
    """

    def __init__(
        self,
        config: WebhookSection,
        secrets: SecretsSection,
        cluster: Cluster,
        clock: Clock,
        *,
        namespace: str,
        task_namespaces: tuple[str, ...],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        config.check()
        self._config: Final = config
        self._section: Final = secrets
        self._kubernetes: Final = KubernetesSecrets(cluster, clock, secrets.expiry_s)
        self._registration: Final = Registration(cluster, config, namespace, clock, task_namespaces)
        self._token: Final = _token(config)
        prefix = config.secret_env_var_prefix
        local = FileEnvSecrets(environ, Path(secrets.secrets_prefix), secrets.env_prefix)
        served: Mapping[SecretManagerType, SecretSource] = {
            SecretManagerType.GLOBAL: GlobalSource(local, prefix),
            SecretManagerType.K8S: KubernetesSource(self._kubernetes, prefix),
            SecretManagerType.EMBEDDED: EmbeddedSource(self._kubernetes, secrets.namespace, prefix),
        }
        kinds = dict.fromkeys((SecretManagerType.GLOBAL, *config.secret_manager_types))
        self._admission: Final = Admission(cluster, [served[kind] for kind in kinds], secrets.organization)
        self._shown: Identity | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Answers while the block runs; registered when it begins. Gives ``host:port``.

        Raises:
            ConfigError: the address can not be listened on, or objects in the cluster belong to somebody else.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        bundle = await self._renewed(context)
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_post(MUTATE_PATH, self._mutate)
        if self._token:
            app.router.add_post(INVALIDATE_PATH, self._invalidate)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            host, port = probes.split(self._config.address)
            try:
                await web.TCPSite(runner, host or None, port, ssl_context=context).start()
            except OSError as error:
                problem = f"{self._config.address}: {error.strerror or error}"
                raise ConfigError("webhook.address", problem) from error
            await self._patiently(bundle)
            taken = runner.addresses[0]
            logger.info("serving the webhook of secrets", address=f"{taken[0]}:{taken[1]}")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_up, context)
                yield f"{taken[0]}:{taken[1]}"
                tasks.cancel_scope.cancel()
        finally:
            await runner.cleanup()

    # -- Certificate and registration --------------------------------------------------------------

    async def _renewed(self, context: ssl.SSLContext) -> bytes:
        """Shows the certificate of all replicas from now on; whom the API server is to trust for it."""
        while True:
            try:
                identity = await self._registration.identity()
            except ApiError as error:
                _check_rights(error)
                logger.warning("waiting for the webhook's certificate", error=str(error))
                await anyio.sleep(_AGAIN_S)
                continue
            if identity != self._shown:
                _load(context, identity)
                self._shown = identity
            return identity.authority

    async def _patiently(self, bundle: bytes) -> None:
        while True:
            try:
                return await self._registration.register(bundle)
            except ApiError as error:
                _check_rights(error)
                logger.warning("the webhook is not registered yet", error=str(error))
                await anyio.sleep(_AGAIN_S)

    async def _keep_up(self, context: ssl.SSLContext) -> None:
        """Renews what ends, takes over what another replica renewed, and mends what others have changed."""
        while True:
            await anyio.sleep(self._config.check_s)
            try:
                identity = await self._registration.identity()
                await self._registration.register(identity.authority)  # before anybody sees the new certificate
            except (ApiError, ConfigError) as error:
                logger.warning("the webhook's registration can not be checked", error=str(error))
                continue
            if identity != self._shown:
                _load(context, identity)
                self._shown = identity

    # -- Pages -------------------------------------------------------------------------------------

    async def _mutate(self, request: web.Request) -> web.Response:
        try:
            answer = await self._admission.review(await request.read())
        except DecodeError as error:
            return web.Response(text=f"{error}\n", status=400)
        return web.Response(body=answer, content_type="application/json")

    async def _invalidate(self, request: web.Request) -> web.Response:
        """``{"org", "domain", "project", "name"}``: what is known of the secret in all of its scopes is forgotten."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token):
            return web.Response(text="a bearer token is needed\n", status=401)
        try:
            asked = msgspec.json.decode(await request.read(), type=_Invalidation)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return web.Response(text=f"{error}\n", status=400)
        if not asked.name:
            return web.Response(text="name: must not be empty\n", status=400)
        scope = SecretScope(asked.org or self._section.organization, asked.project, asked.domain)
        for each in scope.cascade():
            self._kubernetes.forget(self._section.namespace, object_name(each.id_of(asked.name)))
        return web.Response(text="ok\n")


def _check_rights(error: ApiError) -> None:
    """Raises ``ConfigError`` for what waiting does not mend."""
    if isinstance(error, ForbiddenError):
        raise ConfigError("webhook", f"{error}; 'propfan manifests' prints the rights that are needed") from error


def _token(config: WebhookSection) -> bytes:
    file = config.invalidation_token_file
    if file is None:
        return b""
    try:
        token = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError("webhook.invalidation-token-file", f"{file}: {error.strerror or error}") from error
    if not token:
        raise ConfigError("webhook.invalidation-token-file", f"{file} is empty")
    return token


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    """New connections see it. The ssl module reads files only: they exist for a moment, for this user alone.

    Not in a thread: a connection that begins between the certificate and its key would have no use for either.
    """
    with tempfile.TemporaryDirectory(prefix="propfan-webhook-") as folder:
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        certificate.write_bytes(identity.certificate)
        key.touch(mode=0o600)
        key.write_bytes(identity.key)
        context.load_cert_chain(certificate, key)
