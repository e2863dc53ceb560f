"""``propfan up --kubeconfig``: the released SDK's runs as pods of a real API server, on a node of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.local_node import TOLERATIONS, LocalNode
from tests.peers.control_plane import RunningPlane

pytest.importorskip("flyte", reason="needs the 'flyte' extra")


class OnCluster:
    """A control plane whose tasks are pods of a namespace."""

    def __init__(self, plane: RunningPlane, cluster: ControlPlane, namespace: str, node: str) -> None:
        self.plane = plane
        self.node = node
        self._api = cluster.api
        self._namespace = namespace

    def pods(self) -> list[Object]:
        found: list[Object] = self._api.get(f"/api/v1/namespaces/{self._namespace}/pods")["items"]
        return found


@pytest.fixture(scope="module")
def up(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    folder: Path = tmp_path_factory.mktemp("up")
    namespace = control_plane.create_namespace("up")
    node = LocalNode(control_plane, f"local-{namespace}", folder / "node", "--cpu", "32", "--memory", "128Gi")
    settings = {
        "plugins": {
            "k8s": {
                "default-tolerations": TOLERATIONS,
                "default-node-selector": {"kubernetes.io/hostname": node.name},
            }
        }
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    node.start()
    plane = RunningPlane(folder)
    options = ("--kubeconfig", str(control_plane.kubeconfig), "-n", namespace, "-c", str(config))
    try:
        plane.start(*options, "--store", f"file://{folder}/store")
        try:
            yield OnCluster(plane, control_plane, namespace, node.name)
        finally:
            plane.stop()
    finally:
        control_plane.delete_namespace(namespace)
        node.process.stop()
        control_plane.api.delete(node.path)


def test_a_nested_program_completes_with_its_tasks_as_pods(up: OnCluster) -> None:
    assert up.plane.run_program("nesting") == ["3", "KeyError", "'negative'"]
    pods = {pod["metadata"]["name"].split("-")[1]: pod for pod in up.pods()}
    assert pods["a0"]["status"]["phase"] == "Succeeded"
    assert len(pods) > 1
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == {up.node}


def test_a_raw_containers_data_goes_in_and_out(up: OnCluster) -> None:
    said = up.plane.run_program("containers")
    assert said[1:4] == ["3", "True", "'two words!'"]
    assert said[7:] == [
        "QUIETend",
        "first,second",
        "source.txt",
        "OutputUploadFailed, output 'missing': no such file",
        "Error, exit code (3), broken",
    ]
