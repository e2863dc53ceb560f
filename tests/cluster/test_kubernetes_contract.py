"""The promises of every ``Cluster``, on a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from propfan.engine.cluster import Cluster, Kind
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.kubernetes.config import KubernetesConfig
from tests.cluster.control_plane import ControlPlane
from tests.contract.cluster_contract import ClusterContract

THING = Kind("contract.propfan.test", "v1", "Thing", "things")

_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{THING.plural}.{THING.group}"},
    "spec": {
        "group": THING.group,
        "scope": "Namespaced",
        "names": {"kind": THING.kind, "plural": THING.plural},
        "versions": [
            {
                "name": THING.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def kind(control_plane: ControlPlane) -> Kind:
    """The garbage collector knows it when it collects the first one."""
    control_plane.install_crds([_CRD])
    namespace = control_plane.create_namespace()
    orphan = {
        "apiVersion": THING.api_version,
        "kind": THING.kind,
        "metadata": {
            "name": "orphan",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "none"}],
        },
    }
    control_plane.api.create(orphan, namespace=namespace)
    path = control_plane.api.collection(orphan, namespace)
    control_plane.api.await_objects(path, lambda left: not left, timeout_s=90)
    control_plane.delete_namespace(namespace)
    return THING


class TestKubernetesCluster(ClusterContract):
    @pytest.fixture
    async def cluster(self, control_plane: ControlPlane) -> AsyncIterator[Cluster]:
        async with KubernetesCluster.connect(KubernetesConfig(kubeconfig=str(control_plane.kubeconfig))) as cluster:
            yield cluster
