"""``propfan serve`` on a real API server: every end that a task can have, and what must hold in all of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import in_phase
from tests.cluster.ports import free_port
from tests.cluster.replicas import Control, Replica, Tasks, broken_template, until, verdict_of
from tests.unit.engine.flyte.services import served

NODE_SHUTDOWN = json.dumps({"phase": "Failed", "reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."})  # fmt: skip

SETTINGS = {
    "max-system-failures": 1,
    "plugins": {"k8s": {"image-pull-backoff-grace-period": "2s", "create-container-config-error-grace-period": "2s"}},
}


class Stage:
    """One replica, the service that it tells, and a namespace of tasks; many tasks run at once."""

    def __init__(self, replica: Replica, events: Control, tasks: Tasks, store_port: int) -> None:
        self.store_port = store_port
        self.replica = replica
        self.events = events
        self.tasks = tasks


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("daemon")
    namespace = control_plane.create_namespace("daemon")
    events = Control()
    store_port = free_port()
    s3 = {"endpoint": f"http://127.0.0.1:{store_port}", "region": "us-east-1", "anonymous": True}
    with served(events.app) as url:
        settings = SETTINGS | {
            "storage": {"s3": s3, "max-retries": 0, "connect-timeout-s": 1.0},
            "namespaces": [namespace],
            "flyte": {"events-url": url},
            "sharding": {"group": namespace},
        }
        replica = Replica("one", folder, control_plane.kubeconfig, settings)
        replica.start()
        try:
            replica.await_ready()
            yield Stage(replica, events, Tasks(control_plane.api, namespace, f"file://{folder}/outputs"), store_port)
        finally:
            replica.stop()
            control_plane.delete_namespace(namespace)


def test_healthy_task_is_told_from_its_beginning_to_its_end(stage: Stage) -> None:
    stage.tasks.submit("healthy", {"run_for": "1s"})
    status = stage.tasks.await_over("healthy")
    assert verdict_of(status) == "Completed"
    assert [entry["phase"] for entry in status["phaseHistory"]][-2:] == ["Executing", "Completed"]
    assert status["attempts"] == 1
    assert [phase for _, phase in stage.events.phases("healthy")] == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert stage.tasks.pods("healthy") == ["healthy-a0-0"]
    (final,) = [event for event in stage.events.of("healthy") if event.outputs.output_uri and event.phase == 5]
    assert final.outputs.output_uri.endswith("/healthy/a0/1/outputs.pb")
    labels = stage.tasks.get("healthy")["metadata"]["labels"]
    assert labels["flyte.org/termination-status"] == "terminated"


CASES = {
    # name: wishes, retries, verdict, code, attempts, pods that were ever made
    "exits": ({"outcome": "failed", "exit_code": "1"}, 1, "PermanentFailure", "Error", 2, 2),
    "killed": ({"outcome": "failed", "exit_code": "137"}, 0, "PermanentFailure", "MaxSystemFailuresExceeded", 1, 2),
    "oom": ({"outcome": "oom-killed"}, 1, "PermanentFailure", "OOMKilled", 2, 2),
    "shutdown": ({"outcome": "status", "status": NODE_SHUTDOWN}, 0, "PermanentFailure", "MaxSystemFailuresExceeded", 1, 2),
    "evicted": ({"outcome": "evicted"}, 0, "PermanentFailure", "Evicted", 1, 1),
    "no-image": ({"outcome": "image-pull-error"}, 0, "PermanentFailure", "ContainersNotReady|ImagePullBackOff", 1, 1),
    "no-config": ({"outcome": "config-error"}, 0, "PermanentFailure", "ContainersNotReady|CreateContainerConfigError", 1, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def failing(stage: Stage) -> Stage:
    """All cases at once: most of their time is waiting."""
    for name, (wishes, retries, *_) in CASES.items():
        stage.tasks.submit(name, wishes, retries=retries)
    return stage


@pytest.mark.parametrize("name", CASES)
def test_failing_task_ends_after_its_budget(failing: Stage, name: str) -> None:
    _, _, verdict, code, attempts, pods = CASES[name]
    status = failing.tasks.await_over(name)
    assert (verdict_of(status), status["errorState"]["code"], status["attempts"]) == (verdict, code, attempts)
    assert failing.events.verdicts(name) == ["FAILED"]
    made = failing.tasks.pods_ever()
    assert sum(count for pod, count in made.items() if pod.startswith(f"{name}-a0-")) == pods
    final = failing.events.of(name)[-1]
    assert final.error_info.code == code


def test_failed_attempt_is_told_with_the_next_one(failing: Stage) -> None:
    failing.tasks.await_over("exits")
    told = [
        reason.message for event in failing.events.of("exits") if event.attempt == 2 for reason in event.cluster_events
    ]
    assert any(text.startswith("attempt 1 failed: [Error]") for text in told)


@pytest.mark.parametrize(
    ("name", "more", "verdict", "text"),
    [
        ("no-template", {"template": broken_template()}, "InvalidSpec", "spec.taskTemplate"),
        ("no-input", {"spec": {"inputUri": None}}, "InvalidSpec", "required spec fields are empty: [inputUri]"),
        ("no-plugin", {"type": "nobody-runs-this"}, "PluginNotFound", "no plugin registered for task type"),
    ],
)  # fmt: skip
def test_task_that_can_never_run_ends_at_once_and_is_told(
    stage: Stage, name: str, more: dict[str, object], verdict: str, text: str
) -> None:
    stage.tasks.submit(name, **more)  # type: ignore[arg-type]
    status = stage.tasks.await_over(name)
    assert verdict_of(status) == verdict
    assert text in status["errorState"]["message"]
    assert stage.events.verdicts(name) == ["FAILED"]
    assert stage.tasks.pods(name) == []


def test_attempt_that_runs_too_long_is_stopped(stage: Stage) -> None:
    stage.tasks.submit("slow", {"outcome": "running"}, timeout_s=1)
    assert verdict_of(stage.tasks.await_over("slow")) == "TimedOut"
    assert stage.events.verdicts("slow") == ["TIMED_OUT"]
    stage.tasks.api.await_gone(f"/api/v1/namespaces/{stage.tasks.namespace}/pods/slow-a0-0")


def test_pod_that_others_delete_is_made_again_within_the_budget(stage: Stage) -> None:
    tasks = stage.tasks
    tasks.submit("deleted", {"outcome": "running"})
    pod = f"/api/v1/namespaces/{tasks.namespace}/pods/deleted-a0-0"
    first = tasks.api.await_object(pod, in_phase("Running"))["metadata"]["uid"]
    tasks.api.delete(pod)
    tasks.api.await_object(pod, lambda pod: pod["metadata"]["uid"] != first and pod["status"].get("phase") == "Running")
    tasks.api.delete(pod)
    status = tasks.await_over("deleted")
    assert status["errorState"]["code"] == "MaxSystemFailuresExceeded"
    assert tasks.pods("deleted") == []


DELETED_WHILE = {
    # name: wishes, the pod's phase at the deletion, none when the task is over
    "pending": ({"outcome": "pending"}, "Pending"),
    "pulling": ({"outcome": "image-pull-error"}, "Pending"),
    "running": ({"outcome": "running"}, "Running"),
    "stopping": ({"outcome": "running", "stop_after": "1s"}, "Running"),
    "succeeded": ({}, ""),
    "failed": ({"outcome": "failed"}, ""),
}


@pytest.mark.parametrize("name", DELETED_WHILE)
def test_deleted_task_leaves_nothing_whatever_its_phase(stage: Stage, name: str) -> None:
    wishes, phase = DELETED_WHILE[name]
    tasks, run = stage.tasks, f"del-{name}"
    tasks.submit(run, wishes)
    pod = f"/api/v1/namespaces/{tasks.namespace}/pods/{run}-a0-0"
    if phase:
        tasks.api.await_object(pod, in_phase(phase))
    else:
        tasks.await_over(run)
    tasks.delete(run)
    tasks.api.await_gone(tasks.path(run))
    tasks.api.await_gone(pod)
    if phase:
        assert stage.events.verdicts(run) == ["ABORTED"]


def test_pod_that_a_policy_denies_waits_visibly_and_goes_on_when_it_may(stage: Stage) -> None:
    tasks, api = stage.tasks, stage.tasks.api
    name = f"deny-{tasks.namespace}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
            },
            "validations": [
                {
                    "expression": "!has(object.metadata.labels) || !('run' in object.metadata.labels) || object.metadata.labels['run'] != 'denied'",
                    "message": "not today",
                    "reason": "Forbidden",
                }
            ],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    api.apply(policy)
    api.apply(binding)
    try:
        probe = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "labels": {"run": "denied"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}  # fmt: skip
        pods = f"/api/v1/namespaces/{tasks.namespace}/pods?dryRun=All"

        def is_denied() -> bool:
            try:
                api.request("POST", pods, probe)
            except Exception as error:  # noqa: BLE001 - the refusal that is waited for
                return "not today" in str(error)
            return False

        until(is_denied, "the policy is in force")
        tasks.submit("denied")
        action = api.await_object(
            tasks.path("denied"),
            lambda action: any("not today" in c["message"] for c in action.get("status", {}).get("conditions", ())),
        )
        assert action["status"]["pluginPhase"] == "PhaseWaitingForResources"
    finally:
        api.delete(f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/{name}")
        api.delete(f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}")
    assert verdict_of(tasks.await_over("denied")) == "Completed"
    assert stage.events.phases("denied")[0] == (1, "WAITING_FOR_RESOURCES")


def test_sink_that_is_down_delays_verdicts_and_nothing_else(stage: Stage) -> None:
    tasks = stage.tasks
    runs = [f"sink{n}" for n in range(5)]
    with stage.events.down():
        for run in runs:
            tasks.submit(run)
        for run in runs:
            tasks.api.await_object(
                f"/api/v1/namespaces/{tasks.namespace}/pods/{run}-a0-0",
                in_phase("Succeeded"),
            )
        until(lambda: stage.replica.metric("propfan_event_sink_up") == 0, "the outage is noticed")
        assert all(verdict_of(tasks.get(run).get("status", {})) == "" for run in runs)
    assert set(tasks.await_all_over(runs).values()) == {"Completed"}
    assert all(stage.events.verdicts(run) == ["SUCCEEDED"] for run in runs)


class EmptyStore(BaseHTTPRequestHandler):
    """An S3 with nothing in it."""

    def do_GET(self) -> None:
        body = b"<Error><Code>NoSuchKey</Code></Error>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return None


@contextmanager
def store_at(port: int) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", port), EmptyStore)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_store_that_is_down_delays_tasks_and_fails_none(stage: Stage) -> None:
    tasks = Tasks(stage.tasks.api, stage.tasks.namespace, "s3://bucket")
    runs = [tasks.submit(f"store{n}") for n in range(3)]
    for run in runs:
        tasks.api.await_object(
            tasks.path(run),
            lambda action: any("s3://bucket" in c["message"] for c in action.get("status", {}).get("conditions", ())),
        )
    with store_at(stage.store_port):
        assert set(tasks.await_all_over(runs).values()) == {"Completed"}
    assert all(tasks.get(run)["status"].get("systemFailures", 0) == 0 for run in runs)


def test_outage_of_the_api_server_delays_tasks_and_fails_none(stage: Stage, control_plane: ControlPlane) -> None:
    tasks = stage.tasks
    runs = [tasks.submit(f"outage{n}", {"run_for": "5s"}) for n in range(5)]
    tasks.await_begun(runs)
    with control_plane.without_api_server():
        pass
    control_plane.expire_watches()
    tasks.await_served()
    runs.append(tasks.submit("after-outage"))
    assert set(tasks.await_all_over(runs).values()) == {"Completed"}
    made = tasks.pods_ever()
    assert all(count == 1 for pod, count in made.items() if pod.startswith(("outage", "after")))


def test_no_storm_of_conflicts_and_nothing_left_over(stage: Stage) -> None:
    """Over everything that the tests of this module have run on the replica."""
    replica = stage.replica
    until(lambda: replica.metric("propfan_tasks") == 0, "no task is live")
    writes = replica.metric("rest_client_requests_total", method="PATCH")
    assert replica.metric("rest_client_requests_total", code="409") <= 0.05 * writes
    assert replica.metric("workqueue_depth", name="taskaction") == 0
    assert '"level":"critical"' not in replica.log
    assert "Traceback" not in replica.log
