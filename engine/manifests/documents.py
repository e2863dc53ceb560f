"""The objects, as ``kubectl apply`` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import groupby
from typing import Any, Final

import msgspec
import yaml

from propfan.engine.daemon import probes
from propfan.engine.daemon.preflight import Right
from propfan.engine.webhook.config import WebhookSection

CRD_FILE: Final = "taskaction-crd.yaml"

NAME: Final = "propfan"
CONFIG_PATH: Final = "/etc/propfan/config.yaml"
METRICS_PORT: Final = 10254

Document = Mapping[str, Any]

LABELS: Final = {"app.kubernetes.io/name": NAME}
_USER: Final = 65532
"""The ``nonroot`` user of distroless images."""

POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Both as the profile ``restricted`` of Pod Security asks for, which the namespace enforces."""

DRAIN_MARGIN_S: Final = 10
"""Of a pod's time to end, beyond what the program takes to drain."""


class Installation(msgspec.Struct, frozen=True):
    """What is installed where.

    Attributes:
        namespace: Of the daemon.
        rights: Everything it does, from ``preflight.rights``.
        config: Its settings as in the configuration file.
        drain_s: How long it takes to stop.
        webhook: Of pods' secrets; has a Service when it is enabled.
    """

    namespace: str
    image: str
    replicas: int
    rights: Sequence[Right]
    config: Mapping[str, Any]
    drain_s: float
    webhook: WebhookSection = WebhookSection()


def definition() -> Document:
    """The CustomResourceDefinition of TaskActions."""
    text = resources.files(__package__).joinpath(CRD_FILE).read_text(encoding="utf-8")
    document: Document = yaml.safe_load(text)
    return document


def all_documents(installation: Installation) -> Sequence[Document]:
    """Everything but the definition, in the order in which it is applied."""
    return [
        _namespace(installation),
        _object("v1", "ServiceAccount", installation, automountServiceAccountToken=True),
        *_roles(installation),
        _config(installation),
        _deployment(installation),
        _disruption_budget(installation),
        _service(installation),
        *([_webhook_service(installation)] if installation.webhook.enabled else []),
    ]


def as_yaml(documents: Sequence[Document]) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, explicit_start=True, width=120)


class _Plain(yaml.SafeDumper):
    """Writes what is there twice as it is, not as a reference: people read it."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _object(version: str, kind: str, installation: Installation, name: str = NAME, **fields: Any) -> Document:
    metadata = {"name": name, "namespace": installation.namespace, "labels": LABELS}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _namespace(installation: Installation) -> Document:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": installation.namespace, "labels": {**LABELS, **enforced}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _roles(installation: Installation) -> Sequence[Document]:
    """A Role in each namespace that it has rights in, a ClusterRole for those in all of them, and who has them."""
    documents: list[Document] = []
    subjects = [{"kind": "ServiceAccount", "name": NAME, "namespace": installation.namespace}]
    for namespace, rights in groupby(sorted(installation.rights, key=_where), key=_where):
        kind = "Role" if namespace else "ClusterRole"
        name = NAME if namespace else f"{NAME}:{installation.namespace}"
        metadata = {"name": name, **({"namespace": namespace} if namespace else {}), "labels": LABELS}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        documents += [
            {"apiVersion": _RBAC, "kind": kind, "metadata": metadata, "rules": rules(list(rights))},
            {
                "apiVersion": _RBAC,
                "kind": f"{kind}Binding",
                "metadata": metadata,
                "roleRef": reference,
                "subjects": subjects,
            },
        ]
    return documents


_RBAC: Final = "rbac.authorization.k8s.io/v1"


def _where(right: Right) -> str:
    return right.namespace


def rules(rights: Sequence[Right]) -> Sequence[Mapping[str, Sequence[str]]]:
    """Policy rules; resources of a group that have the same verbs share one."""
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource, right.name), []).append(right.verb)
    shared: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (group, resource, name), asked in sorted(verbs.items()):
        shared.setdefault((group, name, tuple(asked)), []).append(resource)
    return [
        {"apiGroups": [group], "resources": found, **({"resourceNames": [name]} if name else {}), "verbs": list(asked)}
        for (group, name, asked), found in shared.items()
    ]


def _config(installation: Installation) -> Document:
    content = yaml.safe_dump(dict(installation.config), sort_keys=False)
    return _object("v1", "ConfigMap", installation, data={"config.yaml": content})


def _deployment(installation: Installation) -> Document:
    probe = {"port": METRICS_PORT}
    container = {
        "name": NAME,
        "image": installation.image,
        "args": ["serve", "--config", CONFIG_PATH, "--replica", "$(POD_NAME)"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}, *_webhook_ports(installation)],
        "livenessProbe": {"httpGet": {"path": "/healthz", **probe}, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {"path": "/readyz", **probe}, "periodSeconds": 5},
        "startupProbe": {"httpGet": {"path": "/healthz", **probe}, "periodSeconds": 2, "failureThreshold": 60},
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_PATH.rpartition("/")[0], "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # in the container
        ],
    }
    pod = {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": int(installation.drain_s) + DRAIN_MARGIN_S,
        "securityContext": POD_SECURITY,
        "topologySpreadConstraints": [spread_over_nodes(LABELS)],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "scratch", "emptyDir": {}}],
    }
    return _object(
        "apps/v1",
        "Deployment",
        installation,
        spec={
            "replicas": installation.replicas,
            # A replica that leaves gives up its shards at once, so new ones may come before old ones go.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    )


def spread_over_nodes(labels: Mapping[str, str]) -> Mapping[str, Any]:
    """As far as there are nodes for it."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }


def _disruption_budget(installation: Installation) -> Document:
    selector = {"matchLabels": LABELS}
    return _object("policy/v1", "PodDisruptionBudget", installation, spec={"maxUnavailable": 1, "selector": selector})


def _service(installation: Installation) -> Document:
    ports = [{"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}]
    return _object("v1", "Service", installation, f"{NAME}-metrics", spec={"selector": LABELS, "ports": ports})


def _webhook_ports(installation: Installation) -> Sequence[Mapping[str, Any]]:
    webhook = installation.webhook
    if not webhook.enabled:
        return ()
    return [{"name": "webhook", "containerPort": probes.split(webhook.address)[1]}]


def _webhook_service(installation: Installation) -> Document:
    webhook = installation.webhook
    ports = [{"name": "webhook", "port": webhook.service_port, "targetPort": "webhook"}]
    return _object("v1", "Service", installation, webhook.service_name, spec={"selector": LABELS, "ports": ports})
