from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cluster import programs
from tests.cluster.api import Api, ApiError, Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import in_phase, pod, pod_template


def ended(control_plane: ControlPlane, namespace: str, manifest: Object, phase: str) -> Object:
    control_plane.api.create(manifest, namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/{manifest['metadata']['name']}"
    return control_plane.api.await_object(path, in_phase(phase))


def containers_of(item: Object) -> list[Object]:
    statuses: list[Object] = item["status"]["containerStatuses"]
    return statuses


def test_a_pod_is_scheduled_runs_and_succeeds(control_plane: ControlPlane, namespace: str) -> None:
    found = ended(control_plane, namespace, pod("p", "c0", "c1"), "Succeeded")
    assert found["spec"]["nodeName"].startswith("node-")
    assert found["status"]["podIP"]
    assert [entry["state"]["terminated"]["exitCode"] for entry in containers_of(found)] == [0, 0]


def test_a_pod_that_is_always_restarted_keeps_running(control_plane: ControlPlane, namespace: str) -> None:
    found = ended(control_plane, namespace, pod("server", restart_policy="Always"), "Running")
    assert containers_of(found)[0]["ready"] is True


def test_a_failure_has_the_code_reason_and_message_asked_for(control_plane: ControlPlane, namespace: str) -> None:
    wishes = {"outcome": "failed", "exit_code": "42", "reason": "Boom", "message": 'says "no": x', "container": "c1"}
    found = ended(control_plane, namespace, pod("p", "c0", "c1", **wishes), "Failed")
    others, failed = (entry["state"]["terminated"] for entry in containers_of(found))
    assert others["exitCode"] == 0
    assert (failed["exitCode"], failed["reason"], failed["message"]) == (42, "Boom", 'says "no": x')


def test_a_pod_out_of_memory_is_killed(control_plane: ControlPlane, namespace: str) -> None:
    found = ended(control_plane, namespace, pod("p", outcome="oom-killed"), "Failed")
    terminated = containers_of(found)[0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")


def test_an_evicted_pod_has_no_containers_left(control_plane: ControlPlane, namespace: str) -> None:
    found = ended(control_plane, namespace, pod("p", outcome="evicted"), "Failed")
    assert found["status"]["reason"] == "Evicted"
    assert "containerStatuses" not in found["status"]


@pytest.mark.parametrize(
    ("outcome", "phase", "reason"),
    [
        ("image-pull-error", "Pending", "ImagePullBackOff"),
        ("config-error", "Pending", "CreateContainerConfigError"),
        ("crash-loop", "Running", "CrashLoopBackOff"),
    ],
)
def test_a_container_waits_with_its_reason(
    control_plane: ControlPlane, namespace: str, outcome: str, phase: str, reason: str
) -> None:
    control_plane.api.create(pod("p", "c0", "c1", outcome=outcome, container="c1"), namespace=namespace)

    def waits(item: Object) -> bool:
        return any("waiting" in entry["state"] for entry in item["status"].get("containerStatuses", ()))

    found = control_plane.api.await_object(f"/api/v1/namespaces/{namespace}/pods/p", waits)
    assert found["status"]["phase"] == phase
    fine, waiting = containers_of(found)
    assert "running" in fine["state"]
    assert waiting["state"]["waiting"]["reason"] == reason


def test_a_pod_gets_any_status_that_is_asked_for(control_plane: ControlPlane, namespace: str) -> None:
    wanted = '{"phase": "Failed", "reason": "NodeLost", "message": "gone"}'
    found = ended(control_plane, namespace, pod("p", outcome="status", status=wanted), "Failed")
    assert (found["status"]["reason"], found["status"]["message"]) == ("NodeLost", "gone")


def test_a_deleted_pod_goes(control_plane: ControlPlane, namespace: str) -> None:
    ended(control_plane, namespace, pod("p", outcome="running"), "Running")
    path = f"/api/v1/namespaces/{namespace}/pods/p"
    control_plane.api.delete(path)
    control_plane.api.await_gone(path)


def test_a_task_action_is_stored_with_a_status_of_its_own(control_plane: ControlPlane, namespace: str) -> None:
    spec = {"runName": "r", "project": "p", "domain": "d", "actionName": "a", "taskTemplate": "AAEC"}
    action = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": {"name": "r-a"}, "spec": spec}
    path = f"/apis/flyte.org/v1/namespaces/{namespace}/taskactions/r-a"
    created = control_plane.api.create(action | {"status": {"attempts": 3}}, namespace=namespace)
    assert created["spec"] == spec
    assert "status" not in created
    assert control_plane.api.patch(f"{path}/status", {"status": {"attempts": 1}})["status"] == {"attempts": 1}
    with pytest.raises(ApiError, match="runName") as refused:
        control_plane.api.patch(path, {"spec": {"runName": "r" * 31}})
    assert refused.value.status == 422


def test_what_an_object_owns_goes_with_it(control_plane: ControlPlane, namespace: str) -> None:
    spec = {"runName": "r", "project": "p", "domain": "d", "actionName": "a"}
    action = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": {"name": "owner"}, "spec": spec}
    uid = control_plane.api.create(action, namespace=namespace)["metadata"]["uid"]
    owned = pod("owned", outcome="running")
    owner = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": "owner", "uid": uid, "controller": True}
    owned["metadata"]["ownerReferences"] = [owner]
    ended(control_plane, namespace, owned, "Running")
    control_plane.api.delete(f"/apis/flyte.org/v1/namespaces/{namespace}/taskactions/owner")
    control_plane.api.await_gone(f"/api/v1/namespaces/{namespace}/pods/owned")


def test_a_job_completes(control_plane: ControlPlane, namespace: str) -> None:
    spec = {"completions": 2, "parallelism": 2, "template": pod_template(restart_policy="Never")}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec}
    control_plane.api.create(job, namespace=namespace)
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/j"
    control_plane.api.await_object(path, lambda item: item["status"].get("succeeded") == 2)


def test_a_service_account_may_do_what_its_role_says_and_no_more(control_plane: ControlPlane, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
    for manifest in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
            "subjects": [subject],
        },
    ):
        control_plane.api.create(manifest, namespace=namespace)
    reader = Api(control_plane.url, control_plane.ca, control_plane.create_token(namespace, "reader"))
    assert reader.list(f"/api/v1/namespaces/{namespace}/pods") == []
    for refused in (f"/api/v1/namespaces/{namespace}/secrets", "/api/v1/pods"):
        with pytest.raises(ApiError) as error:
            reader.list(refused)
        assert error.value.status == 403


def test_kubectl_takes_both_kinds_of_kubeconfig(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    by_certificate = control_plane.write_certificate_kubeconfig(
        tmp_path / "kubeconfig", "ada", ["system:masters"], namespace=namespace
    )
    for kubeconfig, user in ((control_plane.kubeconfig, "admin"), (by_certificate, "ada")):
        command = [str(programs.program("kubectl")), "--kubeconfig", str(kubeconfig), "auth", "whoami", "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert f'"username": "{user}"' in done.stdout


def test_an_outage_loses_nothing(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api.create(pod("p", outcome="pending"), namespace=namespace)
    with control_plane.without_api_server(), pytest.raises(OSError, match="refused"):
        control_plane.api.get("/readyz")
    assert [item["metadata"]["name"] for item in control_plane.api.list(f"/api/v1/namespaces/{namespace}/pods")] == [
        "p"
    ]


def test_a_compacted_list_can_not_go_on(control_plane: ControlPlane, namespace: str) -> None:
    for number in range(3):
        control_plane.api.create(pod(f"p{number}", outcome="pending"), namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/pods?limit=1"
    token = control_plane.api.get(path)["metadata"]["continue"]
    control_plane.api.create(pod("another", outcome="pending"), namespace=namespace)
    control_plane.expire_watches()
    with pytest.raises(ApiError) as error:
        control_plane.api.get(f"{path}&continue={token}")
    assert (error.value.status, error.value.reason) == (410, "Expired")


def test_an_expired_watch_says_so(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    since = control_plane.api.get(path)["metadata"]["resourceVersion"]
    control_plane.expire_watches()
    change, status = next(control_plane.api.watch(path, resource_version=since, timeout_s=10))
    assert (change, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


def test_an_api_server_that_is_asked_to_end_closes_its_watches(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    since = control_plane.api.get(path)["metadata"]["resourceVersion"]
    control_plane.api.create(pod("p", outcome="pending"), namespace=namespace)
    changes = control_plane.api.watch(path, resource_version=since, timeout_s=60)
    assert next(changes)[0] == "ADDED"
    control_plane.stop_api_server(is_crash=False)
    try:
        assert {change for change, _ in changes} <= {"MODIFIED"}
    finally:
        control_plane.start_api_server()
