"""The connector service beside the daemon. It speaks to services outside, and has no rights in the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import yaml

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.manifests.documents import (
    CONTAINER_SECURITY,
    DRAIN_MARGIN_S,
    LABELS,
    POD_SECURITY,
    Document,
    Installation,
    spread_over_nodes,
)

NAME: Final = "propfan-connectors"

_LABELS: Final = {"app.kubernetes.io/name": NAME}
_SETTINGS: Final = ConnectorServiceConfig(host="0.0.0.0")  # noqa: S104  # the network policy says who reaches it
_SECTION: Final = "connector-service"
_CONFIG_FOLDER: Final = "/etc/propfan"
_REPLICAS: Final = 2
"""All that is known of a job is in its meta, so any replica can look at it."""


def told(installation: Installation) -> Installation:
    """The installation whose engine sends its tasks to the service, unless the settings name a default already."""
    plugins = installation.config.get("plugins") or {}
    section = plugins.get(_SECTION) or {}
    default = {"endpoint": f"{NAME}.{installation.namespace}:{_SETTINGS.port}", "insecure": True}
    plugins = {**plugins, _SECTION: {"defaultConnector": default, **section}}
    return msgspec.structs.replace(installation, config={**installation.config, "plugins": plugins})


def documents(installation: Installation) -> Sequence[Document]:
    """Everything of the connector service, in the order in which it is applied."""
    settings = {"host": _SETTINGS.host, "port": _SETTINGS.port, "metrics-port": _SETTINGS.metrics_port}
    content = yaml.safe_dump(settings, sort_keys=False)
    selector = {"matchLabels": _LABELS}
    ports = [{"name": name, "port": port, "targetPort": name} for name, port in _ports().items()]
    return [
        _object("v1", "ServiceAccount", installation, automountServiceAccountToken=False),
        _object("v1", "ConfigMap", installation, data={"config.yaml": content}),
        _deployment(installation),
        _object("policy/v1", "PodDisruptionBudget", installation, spec={"maxUnavailable": 1, "selector": selector}),
        _object("v1", "Service", installation, spec={"selector": _LABELS, "ports": ports}),
        _object("networking.k8s.io/v1", "NetworkPolicy", installation, spec=_policy()),
    ]


def _object(version: str, kind: str, installation: Installation, **fields: Any) -> Document:
    metadata = {"name": NAME, "namespace": installation.namespace, "labels": _LABELS}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _ports() -> Mapping[str, int]:
    return {"grpc": _SETTINGS.port, "metrics": _SETTINGS.metrics_port}


def _deployment(installation: Installation) -> Document:
    probe = {"grpc": {"port": _SETTINGS.port}}
    container = {
        "name": NAME,
        "image": installation.image,
        "args": ["connector", "serve", "--config", f"{_CONFIG_FOLDER}/config.yaml", "--log-format", "json"],
        "ports": [{"name": name, "containerPort": port} for name, port in _ports().items()],
        # Its health is bad while it drains: that must not last long enough for it to be killed.
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**probe, "periodSeconds": 5},
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True},
            {"name": "secrets", "mountPath": _SETTINGS.secrets.folder, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # in the container
        ],
    }
    pod = {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(_SETTINGS.drain_s) + DRAIN_MARGIN_S,
        "securityContext": POD_SECURITY,
        "topologySpreadConstraints": [spread_over_nodes(_LABELS)],
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": NAME}},
            {"name": "secrets", "secret": {"secretName": NAME, "optional": True}},
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    spec = {
        "replicas": _REPLICAS,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": _LABELS},
        "template": {"metadata": {"labels": _LABELS}, "spec": pod},
    }
    return _object("apps/v1", "Deployment", installation, spec=spec)


def _policy() -> Mapping[str, Any]:
    """Callers are not asked who they are, so only the engine's pods reach the port; anyone may read metrics."""
    engine = {"podSelector": {"matchLabels": LABELS}}
    return {
        "podSelector": {"matchLabels": _LABELS},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [engine], "ports": [{"port": "grpc"}]}, {"ports": [{"port": "metrics"}]}],
    }
