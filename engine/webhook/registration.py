"""What replicas share in the cluster: the Secret with the certificate, and the word to the API server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster, Kind
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.webhook import authority
from propfan.engine.webhook.authority import Identity
from propfan.engine.webhook.config import WebhookSection
from propfan.pluginmachinery.errors import AlreadyExistsError, ConfigError, ConflictError, NotFoundError
from propfan.pluginmachinery.secrets import INJECT_LABEL

logger = structlog.get_logger(__name__)

CONFIGURATION: Final = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
MUTATE_PATH: Final = "/mutate--v1-pod"
WEBHOOK_NAME: Final = "secrets.propfan.dev"
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "propfan"}
"""On everything that is made here; an object of the same name without it is not touched."""


class _Stored(msgspec.Struct, frozen=True):
    data: Mapping[str, bytes] | None = None


class Registration:
    """Any number of replicas may call everything at the same time."""

    def __init__(
        self, cluster: Cluster, config: WebhookSection, namespace: str, clock: Clock, task_namespaces: Sequence[str]
    ) -> None:
        self._cluster: Final = cluster
        self._config: Final = config
        self._namespace: Final = namespace
        self._clock: Final = clock
        self._task_namespaces: Final = task_namespaces
        self._names: Final = _names(config, namespace)

    async def identity(self) -> Identity:
        """The certificate of all replicas; made, or renewed, by the one that comes first.

        Raises:
            ConfigError: there is another Secret by that name.
            ApiError: the cluster does not take or give it.
        """
        while True:
            try:
                seen = await self._cluster.get(SECRET, self._namespace, self._config.secret_name)
            except NotFoundError:
                made = self._issue(None)
                try:
                    await self._cluster.create(SECRET, msgspec.json.encode(self._secret(made)))
                except AlreadyExistsError:
                    continue  # that of another replica counts
                logger.info("webhook certificate made", secret=self._target)
                return made
            self._check_own(seen.metadata.labels, f"Secret {self._target}", "webhook.secret-name")
            known = _identity_in(seen.raw)
            if known is not None and authority.is_good(known, self._names, self._clock.now()):
                return known
            made = self._issue(known)
            data = msgspec.to_builtins(made)
            try:
                await self._cluster.patch(
                    SECRET,
                    self._namespace,
                    self._config.secret_name,
                    {"data": data},
                    resource_version=seen.metadata.resource_version,
                )
            except (ConflictError, NotFoundError):
                continue
            logger.info("webhook certificate renewed", secret=self._target)
            return made

    async def register(self, bundle: bytes) -> None:
        """Tells the API server of the webhook, unless it knows.

        Args:
            bundle: PEM of those that it is to trust.

        Raises:
            ConfigError: there is another configuration by that name.
            ApiError: the cluster does not take or give it.
        """
        if not self._config.manage_configuration:
            return
        wanted = configuration(self._config, self._namespace, bundle, self._task_namespaces)
        name = wanted["metadata"]["name"]
        while True:
            try:
                seen = await self._cluster.get(CONFIGURATION, "", name)
            except NotFoundError:
                try:
                    await self._cluster.create(CONFIGURATION, msgspec.json.encode(wanted))
                except AlreadyExistsError:
                    continue
                logger.info("webhook registered", configuration=name)
                return
            self._check_own(seen.metadata.labels, f"{CONFIGURATION.kind} {name}", "webhook.configuration-name")
            try:  # changes nothing when it is as it should be
                left = await self._cluster.patch(
                    CONFIGURATION,
                    "",
                    name,
                    {"webhooks": wanted["webhooks"]},
                    resource_version=seen.metadata.resource_version,
                )
            except (ConflictError, NotFoundError):
                continue
            if left.metadata.resource_version != seen.metadata.resource_version:
                logger.info("webhook registered anew", configuration=name)
            return

    @property
    def _target(self) -> str:
        return f"{self._namespace}/{self._config.secret_name}"

    def _issue(self, before: Identity | None) -> Identity:
        lasts = timedelta(days=self._config.certificate_days)
        return authority.issue(self._names, lasts, self._clock.now(), before)

    def _secret(self, identity: Identity) -> Mapping[str, Any]:
        metadata = {"name": self._config.secret_name, "namespace": self._namespace, "labels": MANAGED_BY}
        data = msgspec.to_builtins(identity)
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data}

    def _check_own(self, labels: Mapping[str, str], target: str, field: str) -> None:
        if not MANAGED_BY.items() <= labels.items():
            raise ConfigError(
                field, f"{target} is not propfan's: it has no label {_text(MANAGED_BY)}; use another name"
            )


def configuration(
    config: WebhookSection, namespace: str, bundle: bytes, task_namespaces: Sequence[str]
) -> Mapping[str, Any]:
    """The MutatingWebhookConfiguration: pods with the label, in the namespaces of tasks, when they are created."""
    client: dict[str, Any] = {"caBundle": b64encode(bundle).decode()}
    if config.url:
        client["url"] = config.url.rstrip("/") + MUTATE_PATH
    else:
        service = {"name": config.service_name, "namespace": namespace, "port": config.service_port}
        client["service"] = {**service, "path": MUTATE_PATH}
    webhook: dict[str, Any] = {
        "name": WEBHOOK_NAME,
        "clientConfig": client,
        "rules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"}
        ],
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "sideEffects": "NoneOnDryRun",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": config.timeout_s,
        "reinvocationPolicy": "Never",
        "objectSelector": {"matchLabels": {INJECT_LABEL: "true"}},
        "namespaceSelector": {},
    }
    if task_namespaces:
        only = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": sorted(task_namespaces)}
        webhook["namespaceSelector"] = {"matchExpressions": [only]}
    metadata = {"name": config.configuration_in(namespace), "labels": MANAGED_BY}
    return {
        "apiVersion": CONFIGURATION.api_version,
        "kind": CONFIGURATION.kind,
        "metadata": metadata,
        "webhooks": [webhook],
    }


def _names(config: WebhookSection, namespace: str) -> Sequence[str]:
    """What the API server calls the webhook."""
    if config.url:
        return [urlsplit(config.url).hostname or ""]
    service = f"{config.service_name}.{namespace}"
    return [f"{service}.svc", service, config.service_name]


def _identity_in(raw: bytes) -> Identity | None:
    try:
        data = msgspec.json.decode(raw, type=_Stored).data or {}
        return msgspec.convert(data, Identity)
    except msgspec.MsgspecError:
        return None


def _text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())
