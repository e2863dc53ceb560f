"""Secrets of pods, by the webhook of ``propfan serve``, asked by a real API server."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from flyteidl2.core.security_pb2 import Secret

from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.pluginmachinery import secrets
from propfan.pluginmachinery.testing.builders import task_template
from tests.cluster.api import ApiError, Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.ports import free_port
from tests.cluster.replicas import Replica, Tasks, until, verdict_of
from tests.cluster.test_manifests import printed

VALUE = "s3cr3t-value"
TOKEN = "the-token"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class Stage:
    """A replica with its webhook and exactly the rights that are printed for it, and namespaces of its own.

    Attributes:
        home, namespace, store: Of the replica, of tasks, and of the secrets that are kept by scope.
    """

    def __init__(self, cluster: ControlPlane, folder: Path, port: int) -> None:
        self.api = cluster.api
        self.home, self.namespace, self.store = (
            cluster.create_namespace(prefix) for prefix in ("webhook", "tasks", "secrets")
        )
        self.port = port
        namespace = self.namespace
        self.settings = {
            "namespaces": [namespace],
            "namespace": namespace,
            "enabled-plugins": ["pod"],
            "sharding": {"group": namespace, "namespace": self.home},
            "secrets": {"namespace": self.store},
            "webhook": {
                "enabled": True,
                "address": f"127.0.0.1:{port}",
                "url": f"https://127.0.0.1:{port}",
                "namespace": self.home,
                "configuration-name": namespace,
                "secret-manager-types": ["Embedded", "K8s"],
                "check-s": 0.5,
                "invalidation-token-file": str(folder / "token"),
            },
        }
        (folder / "token").write_text(TOKEN)
        self.folder = folder
        (folder / "settings.yaml").write_text(yaml.safe_dump(self.settings))
        documents = printed("-c", str(folder / "settings.yaml"), "--namespace", self.home, "--only", "daemon")
        for document in documents:
            if document["kind"] not in ("Deployment", "PodDisruptionBudget"):
                cluster.api.apply(document)
        token = cluster.create_token(self.home, "propfan")
        kubeconfig = cluster.write_kubeconfig(folder / "account.yaml", token, namespace=self.home)
        self.replica = Replica("one", folder, kubeconfig, self.settings)
        self.tasks = Tasks(cluster.api, namespace, f"file://{folder}/outputs")

    def path(self, plural: str, name: str, namespace: str = "") -> str:
        return f"/api/v1/namespaces/{namespace or self.namespace}/{plural}/{name}"

    def keep(self, name: str, value: str = VALUE, *, project: str = "p", domain: str = "development") -> None:
        """Leaves a secret where Flyte's backend would."""
        identifier = SecretScope("flyte", project, domain).id_of(name)
        self.make_secret(object_name(identifier), {identifier: value}, self.store)

    def make_secret(self, name: str, data: dict[str, str], namespace: str = "") -> None:
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace or self.namespace},
                "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
            }
        )

    def submit(self, run: str, *wanted: Secret) -> Object:
        """A task that asks for secrets; its pod, once it is there."""
        template = task_template("container", image="busybox", args=["true"])
        template.security_context.secrets.extend(wanted)
        self.tasks.submit(run, {"outcome": "running"}, template=template.SerializeToString())
        return self.api.await_object(self.path("pods", f"{run}-a0-0"), lambda _: True)

    def value_of(self, pod: Object, variable: str) -> str:
        """What the kubelet would give the first container."""
        (found,) = [each for each in pod["spec"]["containers"][0]["env"] if each["name"] == variable]
        source = found["valueFrom"]["secretKeyRef"]
        held = self.api.get(self.path("secrets", source["name"]))
        return base64.b64decode(held["data"][source["key"]]).decode()

    def file_of(self, pod: Object, path: str) -> str:
        """What the kubelet would write there."""
        (mount,) = [
            each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["mountPath"] == "/etc/flyte/secrets"
        ]
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
        for source in volume["projected"]["sources"]:
            for item in source["secret"]["items"]:
                if f"{mount['mountPath']}/{item['path']}" == path:
                    held = self.api.get(self.path("secrets", source["secret"]["name"]))
                    return base64.b64decode(held["data"][item["key"]]).decode()
        raise AssertionError(f"{path} is not mounted")

    def invalidate(self, body: object, token: str = TOKEN) -> int:
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/invalidate-secret",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {token}"},
        )
        authority = self.api.get(self.path("secrets", "propfan-webhook", self.home))["data"]["ca.crt"]
        trust = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
        try:
            with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(control_plane, tmp_path_factory.mktemp("webhook"), free_port())
    made.replica.start()
    try:
        made.replica.await_ready()
        yield made
    finally:
        made.replica.stop()
        control_plane.api.delete(f"{CONFIGURATIONS}/{made.namespace}")
        for namespace in (made.home, made.namespace, made.store):
            control_plane.delete_namespace(namespace)


def environment(pod: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}


def test_variable_refers_to_a_copy_that_goes_with_the_task(stage: Stage) -> None:
    stage.keep("token")
    pod = stage.submit("env", Secret(key="token"))
    assert stage.value_of(pod, "_UNION_TOKEN") == VALUE
    assert environment(pod)["FLYTE_SECRETS_ENV_PREFIX"] == "_UNION_"
    assert VALUE not in json.dumps(pod)
    (reference,) = [each for each in pod["spec"]["containers"][0]["env"] if each["name"] == "_UNION_TOKEN"]
    copy = stage.path("secrets", reference["valueFrom"]["secretKeyRef"]["name"])
    assert stage.api.get(copy)["metadata"]["ownerReferences"][0]["kind"] == "TaskAction"
    stage.tasks.delete("env")
    stage.api.await_gone(copy)


def test_files_of_all_managers_are_in_one_folder(stage: Stage) -> None:
    stage.keep("Token")
    stage.make_secret("database", {"Password": "of-the-namespace"})
    pod = stage.submit(
        "file",
        Secret(key="Token", mount_requirement=Secret.FILE, env_var="TOKEN_FILE"),
        Secret(key="Password", group="database", mount_requirement=Secret.FILE),
    )
    assert stage.file_of(pod, "/etc/flyte/secrets/token") == VALUE
    assert stage.file_of(pod, "/etc/flyte/secrets/database/password") == "of-the-namespace"
    variables = environment(pod)
    assert variables["TOKEN_FILE"] == "/etc/flyte/secrets/token"
    assert variables["FLYTE_SECRETS_DEFAULT_DIR"] == "/etc/flyte/secrets"


def test_closest_scope_wins(stage: Stage) -> None:
    stage.keep("wide", "for-all", project="", domain="")
    stage.keep("near", "for-all", project="", domain="")
    stage.keep("near", "for-the-domain", project="")
    pod = stage.submit("scopes", Secret(key="wide"), Secret(key="near", env_var="NEAR"))
    assert stage.value_of(pod, "_UNION_WIDE") == "for-all"
    assert stage.value_of(pod, "NEAR") == "for-the-domain"


def test_task_without_its_secret_waits_and_says_which_until_it_is_made(stage: Stage) -> None:
    template = task_template("container", image="busybox", args=["true"])
    template.security_context.secrets.add(key="late")
    stage.tasks.submit("late", template=template.SerializeToString())
    status = stage.tasks.await_phase("late", "WaitingForResources")["status"]
    (condition,) = [each for each in status["conditions"] if each["type"] == "Progressing"]
    assert "none of the secret managers injected secret [late]" in condition["message"]
    assert f"in namespace {stage.store}" in condition["message"]
    assert stage.tasks.pods("late") == []
    stage.keep("late")
    assert verdict_of(stage.tasks.await_over("late")) == "Completed"


def test_labels_of_a_pod_open_no_secrets_of_other_projects(stage: Stage) -> None:
    stage.keep("foreign", project="other")
    annotations = secrets.to_annotations([Secret(key="foreign")])
    labels = {"inject-flyte-secrets": "true", "organization": "flyte", "project": "other", "domain": "development"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "thief", "labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }
    with pytest.raises(ApiError, match="belongs to no TaskAction") as refused:
        stage.api.create(pod, namespace=stage.namespace)
    assert refused.value.status == 403


def test_pods_without_the_label_are_left_alone(stage: Stage) -> None:
    stage.tasks.submit("plain", {"outcome": "running"})
    pod = stage.api.await_object(stage.path("pods", "plain-a0-0"), lambda _: True)
    assert "FLYTE_SECRETS_ENV_PREFIX" not in environment(pod)


def test_known_values_are_forgotten_when_somebody_with_the_token_says_so(stage: Stage) -> None:
    stage.keep("changing", "old")
    assert stage.value_of(stage.submit("change1", Secret(key="changing")), "_UNION_CHANGING") == "old"
    stage.keep("changing", "new")
    assert stage.value_of(stage.submit("change2", Secret(key="changing")), "_UNION_CHANGING") == "old"
    said = {"org": "", "project": "p", "domain": "development", "name": "changing"}
    assert stage.invalidate(said, "wrong") == 401
    assert stage.invalidate({"name": ""}) == 400
    assert stage.invalidate(said) == 200
    assert stage.value_of(stage.submit("change3", Secret(key="changing")), "_UNION_CHANGING") == "new"


def test_what_others_change_in_the_registration_is_mended(stage: Stage) -> None:
    path = f"{CONFIGURATIONS}/{stage.namespace}"
    before = stage.api.get(path)["webhooks"]
    stage.api.delete(path)
    until(lambda: any(c["metadata"]["name"] == stage.namespace for c in stage.api.list(CONFIGURATIONS)), "it is back")
    assert stage.api.get(path)["webhooks"] == before


def test_replicas_that_start_at_once_share_one_certificate_that_is_renewed(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    namespace = control_plane.create_namespace("certificates")
    secret = f"/api/v1/namespaces/{namespace}/secrets/propfan-webhook"
    ports = [free_port(), free_port()]

    def settings(port: int) -> Object:
        return {
            "namespaces": [namespace],
            "sharding": {"group": namespace, "namespace": namespace},
            "webhook": {
                "enabled": True,
                "address": f"127.0.0.1:{port}",
                "namespace": namespace,
                "certificate-days": 30 / 86_400 * 60,  # half an hour
                "check-s": 0.5,
            },
        }

    def shown(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    def held() -> str:
        return base64.b64decode(control_plane.api.get(secret)["data"]["tls.crt"]).decode()

    replicas = [Replica(f"r{n}", tmp_path, control_plane.kubeconfig, settings(port)) for n, port in enumerate(ports)]
    for replica in replicas:
        replica.start()
    try:
        for replica in replicas:
            replica.await_ready()
        assert {shown(port) for port in ports} == {held()}
        authority = control_plane.api.get(secret)["data"]["ca.crt"]
        registered = control_plane.api.get(f"{CONFIGURATIONS}/propfan-webhook.{namespace}")
        assert registered["webhooks"][0]["clientConfig"]["caBundle"] == authority
        first = held()
        control_plane.api.patch(secret, {"data": {"tls.key": "bm9uZQ=="}})  # it is of no use any more
        until(lambda: held() != first, "a new one is made")
        until(lambda: {shown(port) for port in ports} == {held()}, "all replicas show it")
        assert control_plane.api.get(secret)["data"]["ca.crt"] == authority
    finally:
        for replica in replicas:
            replica.stop()
        control_plane.api.delete(f"{CONFIGURATIONS}/propfan-webhook.{namespace}")
        control_plane.delete_namespace(namespace)
    assert "PRIVATE KEY" not in "".join(replica.log for replica in replicas)


def test_values_are_in_no_log_and_no_right_is_missing(stage: Stage) -> None:
    """Of everything that the tests of this module did."""
    assert VALUE not in stage.replica.log
    for method in ("GET", "PATCH"):  # a POST is, of the pod whose secret was not there
        assert stage.replica.metric("rest_client_requests_total", code="403", method=method) == 0
