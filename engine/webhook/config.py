"""Section ``webhook``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from propfan.pluginmachinery.errors import ConfigError


class SecretManagerType(enum.Enum):
    """Flyte's names."""

    EMBEDDED = "Embedded"
    K8S = "K8s"
    GLOBAL = "Global"
    AWS = "AWS"
    GCP = "GCP"
    AZURE = "Azure"
    VAULT = "Vault"


_SERVED = (SecretManagerType.EMBEDDED, SecretManagerType.K8S, SecretManagerType.GLOBAL)

_Name = Annotated[str, Meta(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class WebhookSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``webhook``: secrets for pods, by a mutating admission webhook within ``propfan serve``.

    Attributes:
        enabled: Whether it is served and registered.
        address: ``host:port`` that it listens on, by TLS; all addresses without a host.
        namespace: Of its Service and of the Secret with its certificate; that of the pod, or of the kubeconfig's
            context, when empty.
        service_name, service_port: By which the API server reaches it.
        url: By which the API server reaches it instead, such as ``https://10.0.0.1:9443``; for a webhook that runs
            outside of the cluster.
        secret_name: Of the Secret with the certificate, which all replicas share.
        configuration_name: Of the MutatingWebhookConfiguration; ``<service-name>.<namespace>`` when empty.
        manage_configuration: Whether that is written here. Otherwise the certificate's authority, ``ca.crt`` of the
            Secret, has to be put there by others.
        secret_manager_types: Who is asked for a secret, in this order; Global always is, and first.
        secret_env_var_prefix: Of variables that a secret names no other for.
        timeout_s: The API server refuses a pod when it has waited for so long.
        certificate_days: How long a certificate is valid. It is renewed when a third of that is left.
        check_s: Certificate and registration are looked at this often.
        invalidation_token_file: Its content is the bearer token of ``POST /invalidate-secret``; without a file there
            is no such page.
    """

    enabled: bool = False
    address: str = ":9443"
    namespace: str = ""
    service_name: _Name = "propfan-webhook"
    service_port: Annotated[int, Meta(ge=1, le=65_535)] = 443
    url: str = ""
    secret_name: _Name = "propfan-webhook"  # noqa: S105 - of an object
    configuration_name: str = ""
    manage_configuration: bool = True
    secret_manager_types: tuple[SecretManagerType, ...] = (SecretManagerType.EMBEDDED,)
    secret_env_var_prefix: str = "_UNION_"  # noqa: S105 - of variables
    timeout_s: Annotated[int, Meta(ge=1, le=30)] = 10
    certificate_days: Annotated[float, Meta(ge=0.01, le=3650)] = 90.0
    check_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 600.0
    invalidation_token_file: Path | None = None

    def check(self) -> None:
        """Raises ``ConfigError`` for what can not be served."""
        for kind in self.secret_manager_types:
            if kind not in _SERVED:
                served = ", ".join(known.value for known in _SERVED)
                raise ConfigError(
                    "webhook.secret-manager-types",
                    f"{kind.value} is not served: its sidecars would hold the secret in clear. There are {served}; "
                    "bring values of other stores into Kubernetes Secrets, for example with the External Secrets operator",
                )
        if self.url and not self.url.startswith("https://"):
            raise ConfigError("webhook.url", f"{self.url!r} does not begin with https://: API servers call no other")

    def configuration_in(self, namespace: str) -> str:
        """Name of the MutatingWebhookConfiguration of a webhook in a namespace."""
        return self.configuration_name or f"{self.service_name}.{namespace}"
