"""Admission webhooks of operators that run beside the API server instead of in the cluster."""

from __future__ import annotations

import base64
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.cluster.api import Object, read_manifests
from tests.cluster.control_plane import ControlPlane

PATH = "/apis/admissionregistration.k8s.io/v1"
PLURALS = {
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


def reached_by_url(path: Path, *, name: str, port: int, ca: Path, pods_with: str = "") -> Sequence[Object]:
    """An operator's webhook configurations, for a server on a port of loopback in place of its Service.

    Args:
        path: The configurations as ``controller-gen`` writes them.
        name: Of each configuration.
        ca: Whose certificate the server has.
        pods_with: A label without which pods are none of the webhooks' business, as the operator's installation says.
    """
    found = read_manifests(path)
    for configuration in found:
        configuration["metadata"]["name"] = name
        for webhook in configuration["webhooks"]:
            url = f"https://127.0.0.1:{port}{webhook['clientConfig']['service']['path']}"
            webhook["clientConfig"] = {"url": url, "caBundle": base64.b64encode(ca.read_bytes()).decode()}
            if pods_with and any("pods" in rule["resources"] for rule in webhook["rules"]):
                webhook["objectSelector"] = {"matchExpressions": [{"key": pods_with, "operator": "Exists"}]}
    return found


def register(cluster: ControlPlane, configurations: Sequence[Object]) -> None:
    """From now on the API server refuses what a webhook does not answer."""
    for configuration in configurations:
        cluster.api.apply(configuration)


def unregister(cluster: ControlPlane, configurations: Sequence[Object]) -> None:
    for configuration in configurations:
        cluster.api.delete(f"{PATH}/{PLURALS[configuration['kind']]}/{configuration['metadata']['name']}")


def are_served(configurations: Sequence[Object]) -> bool:
    """Whether all paths are known to the server: operators call themselves ready before they know them."""
    all_webhooks = (webhook for configuration in configurations for webhook in configuration["webhooks"])
    return all(_is_served(webhook["clientConfig"]["url"]) for webhook in all_webhooks)


def _is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, b"{}", timeout=5, context=ssl._create_unverified_context()):
            return True
    except urllib.error.HTTPError as error:
        return error.code != HTTPStatus.NOT_FOUND
    except OSError:
        return False


def secret(name: str, namespace: str, files: Mapping[str, Path]) -> Mapping[str, Any]:
    """A Secret with the content of files."""
    content = {key: base64.b64encode(path.read_bytes()).decode() for key, path in files.items()}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": content}
