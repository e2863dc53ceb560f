"""Where the API server is and who we are there: from a kubeconfig, or from a pod's service account.

The ``kubernetes`` package knows the formats: contexts, tokens and their files, client certificates,
identity providers. It is imported when credentials are first made, for it takes half a second.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from propfan.engine.kubernetes import exec_plugin
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.pluginmachinery.errors import ConfigError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token, the CA's certificate and the namespace of a pod's service account."""

FRESH_S: Final = 60.0
"""Age from which files are read again. Kubernetes renews mounted tokens long before they expire."""

RENEW_EARLIER: Final = timedelta(seconds=90)
"""Before a token expires, so that it does not on its way."""


class Tls(msgspec.Struct, frozen=True):
    """How the server is verified, and the client certificate.

    Attributes:
        ca, certificate, key: Paths of PEM files; empty where there is none.
        digest: Of what was in them; when it changes they are loaded again.
        server_name: To expect in the server's certificate, in place of its host name.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    digest: str = ""
    is_verified: bool = True
    server_name: str = ""


class Access(msgspec.Struct, frozen=True):
    """Credentials at one moment.

    Attributes:
        server: URL without a slash at its end.
        headers: That say who we are: ``Authorization``, ``Impersonate-…``. A name may come more than once.
        proxy: URL; empty for none.
        namespace: That of the context or of the pod; empty where none is named.
        fresh_for_s: After which ``load`` may know better ones.
    """

    server: str
    headers: Sequence[tuple[str, str]]
    tls: Tls
    proxy: str = ""
    namespace: str = ""
    fresh_for_s: float = FRESH_S


class Credentials(Protocol):
    """Where credentials come from."""

    async def load(self, *, anew: bool = False) -> Access:
        """The present credentials.

        Args:
            anew: Those that were given last are not accepted: take nothing from memory.

        Raises:
            ConfigError: they can not be had; says where they are missing or wrong.
        """
        ...


def find(config: KubernetesConfig) -> Credentials:
    """The credentials that the configuration means."""
    if config.in_cluster:
        return ServiceAccount(SERVICE_ACCOUNT)
    named = config.kubeconfig or os.environ.get("KUBECONFIG", "")
    if not named and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return ServiceAccount(SERVICE_ACCOUNT)
    return Kubeconfig(named or "~/.kube/config", config.context)


class ServiceAccount:
    """Of the pod that this runs in.

    Args:
        folder: Has ``token`` and ``ca.crt``, perhaps ``namespace``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    async def load(self, *, anew: bool = False) -> Access:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config.incluster_config import InClusterConfigLoader

        read = Configuration()
        token, ca = self._folder / "token", self._folder / "ca.crt"
        try:
            loader: Any = InClusterConfigLoader(str(token), str(ca), try_refresh_token=False)
            loader.load_and_set(read)
            namespace = self._folder / "namespace"
            return _access(read, {}, namespace.read_text().strip() if namespace.exists() else "")
        except Exception as error:  # the package documents none
            raise ConfigError("kubernetes.in-cluster", f"no service account in {self._folder}: {error}") from error


class Kubeconfig:
    """Of one context of a kubeconfig.

    Args:
        paths: One or several, as in the variable ``KUBECONFIG``.
        context: The current one when empty.
    """

    def __init__(self, paths: str, context: str) -> None:
        self._paths: Final = paths
        self._context: Final = context
        self._config: Any = None
        """All files merged, by the package; what an identity provider gave is kept there too."""
        self._exec: Mapping[str, Any] | None = None
        """Of the user. Its place in the configuration is taken by what the plugin gave."""
        self._given: exec_plugin.Credential | None = None

    async def load(self, *, anew: bool = False) -> Access:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

        read = Configuration()
        try:
            if anew or self._config is None:
                self._check_paths()
                self._config = KubeConfigMerger(self._paths).config
                self._exec = self._given = None
            loader: Any = KubeConfigLoader(self._config, self._context or None, config_base_path=None)
            context = loader.current_context["context"]
            entry = self._user(context)
            await self._ask_plugin(entry, self._config["clusters"].get_with_name(context["cluster"]))
            await loader.load_and_set(read)
            access = _access(read, entry.value["user"], context.get("namespace") or "")
        except ConfigError as error:
            raise self._wrong(error.problem) from error
        except Exception as error:  # the package raises whatever comes of a file that is wrong
            raise self._wrong(f"can not be used: {error}") from error
        if self._given is not None and self._given.expiration_timestamp is None:
            return msgspec.structs.replace(access, fresh_for_s=math.inf)
        return access

    async def _ask_plugin(self, entry: Any, cluster: Any) -> None:
        """Puts what the user's exec plugin gives in its place, unless what it gave last still holds."""
        user = entry.value["user"]
        self._exec = user.pop("exec", self._exec)
        if self._exec is None or (self._given is not None and not _is_expiring(self._given.expiration_timestamp)):
            return
        folder = Path(entry.path or ".").parent
        self._given = await exec_plugin.run(self._exec, cluster.value["cluster"], folder)
        for name in ("token", "tokenFile", "client-certificate-data", "client-key-data"):
            user.pop(name, None)
        user.update(self._given.as_user())

    def _user(self, context: Mapping[str, Any]) -> Any:
        """The entry of the context's user."""
        if not context.get("user"):
            raise ConfigError("", "the context names no user")
        entry = self._config["users"].get_with_name(context["user"])
        if not isinstance(entry.value.get("user"), dict):
            raise ConfigError("", f"users: '{context['user']}' is empty")
        return entry

    def _check_paths(self) -> None:
        paths = [Path(path).expanduser() for path in self._paths.split(os.pathsep) if path]
        if not any(path.exists() for path in paths):
            raise ConfigError("", "there is no such file")

    def _wrong(self, problem: str) -> ConfigError:
        context = f", context '{self._context}'" if self._context else ""
        return ConfigError("kubernetes.kubeconfig", f"{self._paths}{context}: {problem}")


def _access(read: Any, user: Mapping[str, Any], namespace: str) -> Access:
    """What the package has read, as it is used here."""
    parts = urlsplit(read.host)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"server '{read.host}' is not the URL of an API server")
    ca, certificate, key = (path or "" for path in (read.ssl_ca_cert, read.cert_file, read.key_file))
    headers = [*_authorization(read.api_key.get("BearerToken")), *_impersonation(user)]
    for name, value in headers:
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value for header {name} has characters that no header can have")
    return Access(
        server=read.host.rstrip("/"),
        headers=headers,
        tls=Tls(
            ca,
            certificate,
            key,
            digest="".join(_digest(path) for path in (ca, certificate, key)),
            is_verified=bool(read.verify_ssl),
            server_name=read.tls_server_name or "",
        ),
        proxy=_proxy(read.proxy, parts.scheme, parts.netloc),
        namespace=namespace,
        fresh_for_s=FRESH_S,
    )


def _is_expiring(at: datetime | None) -> bool:
    if at is None:
        return False
    return datetime.now(UTC) >= (at if at.tzinfo else at.replace(tzinfo=UTC)) - RENEW_EARLIER


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else "-"


def _authorization(credential: str | None) -> Iterator[tuple[str, str]]:
    scheme, _, token = (credential or "").partition(" ")
    if token.strip():
        yield "Authorization", f"{scheme.capitalize()} {token.strip()}"


def _impersonation(user: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """As kubectl does for ``as``, ``as-uid``, ``as-groups`` and ``as-user-extra``."""
    if user.get("as"):
        yield "Impersonate-User", str(user["as"])
    if user.get("as-uid"):
        yield "Impersonate-Uid", str(user["as-uid"])
    for group in user.get("as-groups") or ():
        yield "Impersonate-Group", str(group)
    for key, values in (user.get("as-user-extra") or {}).items():
        for value in values:
            yield f"Impersonate-Extra-{key}", str(value)


def _proxy(url: str | None, scheme: str, host: str) -> str:
    """The proxy that is configured, else that of ``HTTPS_PROXY`` and ``NO_PROXY``."""
    if not url and not proxy_bypass(host):
        url = getproxies().get(scheme)
    if url and urlsplit(url).scheme not in {"http", "https"}:
        raise ValueError(f"proxy '{url}': only http and https proxies are supported")
    return url or ""
