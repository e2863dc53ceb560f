"""``propfan node`` on a real API server, its scheduler and ``propfan serve``: pods are processes of this machine."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from propfan.engine.storage import ObjectStore
from propfan.pluginmachinery.testing.builders import task_template
from tests.cluster.control_plane import ControlPlane
from tests.cluster.local_node import TOLERATIONS, LocalNode
from tests.cluster.pods import in_phase
from tests.cluster.replicas import Control, Replica, Tasks, until, verdict_of
from tests.unit.engine.flyte.services import served


class Stage:
    def __init__(self, node: LocalNode, tasks: Tasks, folder: Path) -> None:
        self.node = node
        self.tasks = tasks
        self.api = tasks.api
        self.folder = folder

    def run(self, run: str, script: str, **more: Any) -> str:
        template = task_template("container", image="none", args=["sh", "-c", script])
        return self.tasks.submit(run, template=template.SerializeToString(), **more)

    def pod(self, run: str) -> str:
        return f"/api/v1/namespaces/{self.tasks.namespace}/pods/{run}-a0-0"

    def begun(self, run: str) -> Path:
        """Waits for the file that a script writes when it has begun."""
        file = self.folder / f"{run}.begun"
        until(file.exists, f"{run} has begun")
        return file

    def counting(self, run: str) -> str:
        """A script that tells how often it has begun and goes on until its file ``go`` is there."""
        base = self.folder / run
        return f"echo begun >> {base}.begun; while [ ! -e {base}.go ]; do sleep 0.1; done"

    def let_go(self, run: str) -> None:
        (self.folder / f"{run}.go").touch()


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("node")
    namespace = control_plane.create_namespace("node")
    node = LocalNode(control_plane, f"local-{namespace}", folder / "data", "--detach", "--pods", "20")
    with served(Control().app) as url:
        settings = {
            "namespaces": [namespace],
            "max-system-failures": 1,
            "flyte": {"events-url": url},
            "sharding": {"group": namespace},
            "plugins": {
                "k8s": {
                    "default-tolerations": TOLERATIONS,
                    "default-node-selector": {"kubernetes.io/hostname": node.name},
                }
            },
        }
        replica = Replica("one", folder, control_plane.kubeconfig, settings)
        replica.start()
        try:
            node.start()
            replica.await_ready()
            yield Stage(node, Tasks(control_plane.api, namespace, f"file://{folder}/outputs"), folder)
        finally:
            replica.stop()
            control_plane.delete_namespace(namespace)
            node.process.stop()
            control_plane.api.delete(node.path)


def test_the_node_is_there_with_its_capacity_taint_and_lease(stage: Stage) -> None:
    node = stage.node.object
    assert node["metadata"]["labels"]["propfan.dev/runtime"] == "process"
    assert [(taint["key"], taint["effect"]) for taint in node["spec"]["taints"]] == [
        ("propfan.dev/process", "NoSchedule")
    ]
    assert node["status"]["allocatable"]["pods"] == "20"
    assert [(c["type"], c["status"]) for c in node["status"]["conditions"]] == [("Ready", "True")]
    lease = stage.api.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{stage.node.name}")
    assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
    renewed = lease["spec"]["renewTime"]
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{stage.node.name}"
    stage.api.await_object(path, lambda lease: bool(lease["spec"]["renewTime"] != renewed))


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Support for class-based `config`:DeprecationWarning")
async def test_a_task_of_the_real_sdk_goes_from_its_inputs_to_its_outputs(stage: Stage) -> None:
    pytest.importorskip("flyte", reason="needs the 'flyte' extra")
    from propfan.engine import sdk_tasks
    from tests.peers import sdk_functions

    task = await sdk_tasks.task_of(sdk_functions.double, 21, name="world")
    store, base = ObjectStore(), f"file://{stage.folder}/outputs"
    await store.put(f"{base}/sdk/inputs.pb", task.inputs or b"")
    stage.tasks.submit("sdk", type=task.task_type, template=task.template)
    assert verdict_of(stage.tasks.await_over("sdk")) == "Completed"
    outputs = (stage.folder / "outputs" / "sdk" / "a0" / "1" / "outputs.pb").read_bytes()
    assert await sdk_tasks.read_outputs(sdk_functions.double, outputs) == (42, "hello world")
    pod = stage.api.get(stage.pod("sdk"))
    assert (pod["spec"]["nodeName"], pod["status"]["phase"]) == (stage.node.name, "Succeeded")


@pytest.mark.parametrize(
    ("name", "script", "exit_code", "code"),
    [
        ("exits", "exit 3", 3, "Error"),
        ("killed", "kill -9 $$$$", 137, "MaxSystemFailuresExceeded"),  # in arguments of a pod $$ is one dollar
    ],
)
def test_an_exit_code_is_that_of_the_process(stage: Stage, name: str, script: str, exit_code: int, code: str) -> None:
    stage.run(name, script)
    status = stage.tasks.await_over(name)
    assert (verdict_of(status), status["errorState"]["code"]) == ("PermanentFailure", code)
    pods = stage.api.list(f"/api/v1/namespaces/{stage.tasks.namespace}/pods", labelSelector=f"run={name}")
    ends = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in pods]
    assert set(ends) == {exit_code}


def test_a_deleted_task_ends_its_process_with_its_grace(stage: Stage) -> None:
    ended = stage.folder / "deleted.ended"
    stage.run("deleted", f"trap 'echo term > {ended}; exit 0' TERM; {stage.counting('deleted')}")
    stage.begun("deleted")
    stage.tasks.delete("deleted")
    stage.api.await_gone(stage.pod("deleted"))
    stage.api.await_gone(stage.tasks.path("deleted"))
    assert ended.read_text() == "term\n"


def test_an_evicted_pod_ends_and_its_task_goes_on_in_another(stage: Stage) -> None:
    stage.run("evicted", stage.counting("evicted"))
    begun = stage.begun("evicted")
    first = stage.api.get(stage.pod("evicted"))["metadata"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": first["name"], "namespace": stage.tasks.namespace},
        "deleteOptions": {"gracePeriodSeconds": 1},
    }
    stage.api.request("POST", f"{stage.pod('evicted')}/eviction", eviction)
    until(lambda: begun.read_text() == "begun\nbegun\n", "it has begun again")
    stage.let_go("evicted")
    assert verdict_of(stage.tasks.await_over("evicted")) == "Completed"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_outlive_the_node_process_and_the_next_one_takes_them_over(
    stage: Stage, number: signal.Signals
) -> None:
    goes, ends = f"goes-{number.name.lower()}", f"ends-{number.name.lower()}"
    for run in (goes, ends):
        stage.run(run, stage.counting(run))
        stage.begun(run)
    assert stage.node.end(number) == (0 if number is signal.SIGTERM else 128 + number)
    stage.let_go(ends)  # nobody looks
    stage.node.start()
    assert verdict_of(stage.tasks.await_over(ends)) == "Completed"
    assert verdict_of(stage.tasks.get(goes)["status"]) == ""
    stage.let_go(goes)
    assert verdict_of(stage.tasks.await_over(goes)) == "Completed"
    assert [stage.begun(run).read_text() for run in (goes, ends)] == ["begun\n", "begun\n"]
    made = stage.tasks.pods_ever()
    assert (made[f"{goes}-a0-0"], made[f"{ends}-a0-0"]) == (1, 1)


def test_variables_come_from_secrets_and_config_maps_of_the_cluster(stage: Stage) -> None:
    namespace, file = stage.tasks.namespace, stage.folder / "variables"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    stage.api.create({**secret, "data": {"k": base64.b64encode(b"hidden").decode()}}, namespace=namespace)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "shown"}}
    stage.api.create(config, namespace=namespace)
    variables = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]
    stage.api.create(bound(stage.node.name, "variables", f"echo $A $B > {file}", env=variables), namespace=namespace)
    stage.api.await_object(f"/api/v1/namespaces/{namespace}/pods/variables", in_phase("Succeeded"))
    assert file.read_text() == "hidden shown\n"


def bound(node: str, name: str, script: str, **container: Any) -> Mapping[str, Any]:
    """A pod for that node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": TOLERATIONS,
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none", "command": ["sh", "-c", script], **container}],
        },
    }


def test_a_node_that_is_stopped_is_cordoned_and_ends_its_pods_until_its_next_start(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    node = LocalNode(control_plane, f"drained-{namespace}", tmp_path / "data")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    try:
        node.start()
        control_plane.api.create(bound(node.name, "long", "exec sleep 1000"), namespace=namespace)
        control_plane.api.await_object(f"{pods}/long", in_phase("Running"))
        assert node.end(signal.SIGINT) == 0
        assert control_plane.api.get(f"{pods}/long")["status"]["phase"] == "Failed"
        assert node.object["spec"]["unschedulable"] is True
        assert node.object["status"]["conditions"][0]["status"] == "False"
        node.start()
        assert "unschedulable" not in node.object["spec"]
        control_plane.api.create(bound(node.name, "next", "true"), namespace=namespace)
        control_plane.api.await_object(f"{pods}/next", in_phase("Succeeded"))
    finally:
        node.process.stop()
        control_plane.api.delete(node.path)


def test_a_second_signal_kills_what_takes_its_time(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    node = LocalNode(control_plane, f"hurried-{namespace}", tmp_path / "data", "--grace", "600")
    pod, ready = f"/api/v1/namespaces/{namespace}/pods/stubborn", tmp_path / "ready"
    script = f"trap 'touch {tmp_path}/asked' TERM; touch {ready}; while true; do sleep 0.1; done"
    made = dict(bound(node.name, "stubborn", script))
    made["spec"] = {**made["spec"], "terminationGracePeriodSeconds": 600}
    try:
        node.start()
        control_plane.api.create(made, namespace=namespace)
        until(ready.exists, "it has begun")
        node.process.signal(signal.SIGINT)
        until((tmp_path / "asked").exists, "it was asked to end")
        assert node.end(signal.SIGINT) == 0
        assert control_plane.api.get(pod)["status"]["phase"] == "Failed"
    finally:
        node.process.stop()
        control_plane.api.delete(node.path)


def test_a_name_that_is_taken_is_refused(stage: Stage, control_plane: ControlPlane, tmp_path: Path) -> None:
    for name, problem in ((stage.node.name, "is served by"), ("node-0", "without the label propfan.dev/runtime")):
        other = LocalNode(control_plane, name, tmp_path / f"other-{name}")
        other.process.start()
        assert other.ended() == 2
        assert problem in other.process.log.read_text()


def test_a_node_that_somebody_deletes_comes_back(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    node = LocalNode(control_plane, f"deleted-{namespace}", tmp_path / "data", "--lease", "2", "--no-taint")
    try:
        node.start()
        uid = node.object["metadata"]["uid"]
        control_plane.api.delete(node.path)
        found = control_plane.api.await_object(node.path, lambda node: bool(node["metadata"]["uid"] != uid))
        assert "taints" not in found["spec"]
    finally:
        node.process.stop()
        control_plane.api.delete(node.path)
