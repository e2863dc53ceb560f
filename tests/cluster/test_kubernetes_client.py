"""The client on a real API server: credentials, refusals, large lists, selectors of rights."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from structlog.testing import capture_logs

from propfan.engine.cluster import POD, TASK_ACTION, Kind
from propfan.engine.kubernetes import credentials
from propfan.engine.kubernetes.cluster import AccessReview, KubernetesCluster
from propfan.engine.kubernetes.config import FieldValidation, KubernetesConfig
from propfan.engine.kubernetes.credentials import Credentials, ServiceAccount
from propfan.pluginmachinery.errors import (
    BadRequestError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    KindNotServedError,
    NotFoundError,
    QuotaExceededError,
    UnauthorizedError,
    UnavailableError,
)
from tests.cluster.control_plane import ControlPlane
from tests.contract.objects import body, content

pytestmark = pytest.mark.anyio

CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)


@asynccontextmanager
async def connected(
    path: Path, credentials: Credentials | None = None, **settings: Any
) -> AsyncIterator[KubernetesCluster]:
    config = KubernetesConfig(kubeconfig=str(path), **settings)
    async with KubernetesCluster.connect(config, with_credentials=credentials) as cluster:
        yield cluster


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[KubernetesCluster]:
    async with connected(control_plane.kubeconfig) as cluster:
        yield cluster


def kubeconfig(plane: ControlPlane, path: Path, user: dict[str, Any]) -> Path:
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(config))
    return path


def service_account(plane: ControlPlane, namespace: str, verbs: list[str]) -> str:
    """A service account that may do this with pods of its namespace, and nothing else."""
    name = "worker"
    role = {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": name}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    plane.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace=namespace)
    plane.api.create({**rbac, "kind": "Role", "rules": rules}, namespace=namespace)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    plane.api.create({**rbac, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]}, namespace=namespace)
    return name


# -- Who we are ------------------------------------------------------------------------------------


async def test_a_client_certificate_says_who_we_are(control_plane: ControlPlane, tmp_path: Path) -> None:
    path = control_plane.write_certificate_kubeconfig(tmp_path / "config", "alice", ["system:masters"])
    async with connected(path) as cluster:
        assert await cluster.user_name() == "alice"
        assert (await cluster.review_access("delete", POD, namespace="default")).is_allowed


async def test_a_client_certificate_that_is_renewed_is_used(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "FRESH_S", 0.0)
    alice, bob = (control_plane.authority.client(name, ["system:masters"]) for name in ("alice", "bob"))
    files = {"client-certificate": tmp_path / "tls.crt", "client-key": tmp_path / "tls.key"}

    def mount(pair: Any) -> None:
        for file, source in zip(files.values(), (pair.certificate, pair.key), strict=True):
            file.write_bytes(source.read_bytes())

    mount(alice)
    user = {name: str(file) for name, file in files.items()}
    async with connected(kubeconfig(control_plane, tmp_path / "config", user)) as cluster:
        version = (await cluster.list(POD)).resource_version
        async with cluster.watch(POD, namespace="default", resource_version=version) as changes:
            await cluster.create(POD, body(POD, "default", "under-alice"))
            await anext(changes)
            for pair, name in ((bob, "bob"), (alice, "alice")):
                mount(pair)
                assert await cluster.user_name() == name
        await cluster.delete(POD, "default", "under-alice")


async def test_impersonation_says_who_we_are_now(control_plane: ControlPlane, tmp_path: Path) -> None:
    user = {"token": control_plane.admin_token, "as": "bob", "as-groups": ["system:authenticated"]}
    async with connected(kubeconfig(control_plane, tmp_path / "config", user)) as cluster:
        assert await cluster.user_name() == "bob"
        assert not (await cluster.review_access("delete", POD, namespace="default")).is_allowed


async def test_a_pod_is_its_service_account_also_once_its_token_was_renewed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = service_account(control_plane, namespace, ["get"])
    host, port = control_plane.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    (tmp_path / "ca.crt").write_bytes(control_plane.ca.read_bytes())
    (tmp_path / "namespace").write_text(namespace)
    (tmp_path / "token").write_text("not yet a token")
    async with connected(tmp_path, ServiceAccount(tmp_path)) as cluster:
        assert cluster.namespace == namespace
        (tmp_path / "token").write_text(control_plane.create_token(namespace, account))
        assert await cluster.user_name() == f"system:serviceaccount:{namespace}:{account}"


async def test_an_exec_plugin_is_asked_again_when_its_token_is_refused(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("expired")
    script = (
        "import json; print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', "
        f"'status': {{'token': open({str(token)!r}).read()}}}}))"
    )
    section = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", script],
        "interactiveMode": "Never",
    }
    async with connected(kubeconfig(control_plane, tmp_path / "config", {"exec": section})) as cluster:
        token.write_text(control_plane.admin_token)
        assert await cluster.user_name() == "admin"


async def test_credentials_that_nobody_knows_are_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with connected(kubeconfig(control_plane, tmp_path / "config", {"token": "nobody's"})) as cluster:
        with pytest.raises(UnauthorizedError, match="Unauthorized"):
            await cluster.get(POD, "default", "a")


async def test_another_ca_is_not_believed(control_plane: ControlPlane, tmp_path: Path) -> None:
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority"]
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    async with connected(tmp_path / "config") as cluster:
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            await cluster.user_name()
    config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    async with connected(tmp_path / "config") as cluster:
        assert await cluster.user_name() == "admin"


async def test_a_certificate_that_is_none_is_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    user = {"client-certificate": str(tmp_path / "junk"), "client-key": str(tmp_path / "junk")}
    with pytest.raises(ConfigError, match="the certificates for"):
        async with connected(kubeconfig(control_plane, tmp_path / "config", user)):
            pass


# -- Refusals --------------------------------------------------------------------------------------


async def test_a_missing_right_is_named_with_verb_and_resource(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    account = service_account(control_plane, namespace, ["get", "list"])
    token = control_plane.create_token(namespace, account)
    async with connected(kubeconfig(control_plane, tmp_path / "config", {"token": token})) as cluster:
        await cluster.list(POD, namespace=namespace)
        with pytest.raises(ForbiddenError) as caught:
            await cluster.create(POD, body(POD, namespace, "a"))
        assert type(caught.value) is ForbiddenError
        assert caught.value.target == f"Pod {namespace}/a"
        for part in (f"{namespace}:{account}", 'cannot create resource "pods"', f'in the namespace "{namespace}"'):
            assert part in caught.value.problem
        with pytest.raises(ForbiddenError, match='cannot watch resource "pods"'):
            async with cluster.watch(POD, namespace=namespace, resource_version="0") as changes:
                await anext(changes)
        review = await cluster.review_access("create", POD, namespace=namespace)
        assert review == AccessReview(is_allowed=False)


async def test_a_used_up_quota_is_told_apart(
    control_plane: ControlPlane, cluster: KubernetesCluster, namespace: str
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    control_plane.api.create(quota, namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/few"
    control_plane.api.await_object(path, lambda found: "used" in found.get("status", {}))
    await cluster.create(POD, body(POD, namespace, "a"))
    with pytest.raises(QuotaExceededError, match="exceeded quota: few, requested: pods=1, used: pods=1"):
        await cluster.create(POD, body(POD, namespace, "b"))


async def test_what_a_policy_says_is_passed_on(
    control_plane: ControlPlane, cluster: KubernetesCluster, namespace: str
) -> None:
    api = {"apiVersion": "admissionregistration.k8s.io/v1"}
    name = f"no-latest-{namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": selector},
        "validations": [{"expression": "object.metadata.name != 'latest'", "message": "nothing may be called latest"}],
    }
    control_plane.api.create({**api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec})
    binding = {"policyName": name, "validationActions": ["Deny"]}
    kind = {"kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}}
    control_plane.api.create({**api, **kind, "spec": binding})
    latest = json.dumps(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "latest", "namespace": namespace}}
    )

    async def until_refused() -> None:
        while True:  # the policy is not in force at once
            await cluster.create(CONFIG_MAP, latest.encode())
            await cluster.delete(CONFIG_MAP, namespace, "latest")

    with anyio.fail_after(30), pytest.raises(InvalidError, match="nothing may be called latest"):
        await until_refused()
    for path in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        control_plane.api.delete(f"/apis/admissionregistration.k8s.io/v1/{path}/{name}")


async def test_every_field_that_is_wrong_is_named(cluster: KubernetesCluster, namespace: str) -> None:
    containers = [{"name": "A", "image": ""}, {"image": "x"}]
    with pytest.raises(InvalidError) as caught:
        await cluster.create(POD, body(POD, namespace, "a", {"containers": containers}))
    for field in ("spec.containers[0].name", "spec.containers[0].image", "spec.containers[1].name"):
        assert field in caught.value.problem


async def test_a_namespace_that_is_not_there_is_no_missing_kind(cluster: KubernetesCluster) -> None:
    with pytest.raises(NotFoundError, match='namespaces "nowhere" not found') as caught:
        await cluster.create(POD, body(POD, "nowhere", "a"))
    assert not isinstance(caught.value, KindNotServedError)


async def test_fields_that_are_unknown_are_refused_or_told(control_plane: ControlPlane, namespace: str) -> None:
    spec = {"containers": [{"name": "main", "image": "i", "imagee": "j"}], "schedulerName": "nobody"}
    async with connected(control_plane.kubeconfig, field_validation=FieldValidation.STRICT) as cluster:
        with pytest.raises(BadRequestError, match=r'unknown field "spec.containers\[0\].imagee"'):
            await cluster.create(POD, body(POD, namespace, "a", spec))
    async with connected(control_plane.kubeconfig) as cluster:
        with capture_logs() as logs:
            for name in ("a", "b"):
                await cluster.create(POD, body(POD, namespace, name, spec))
        assert [entry["warning"] for entry in logs] == ['unknown field \\"spec.containers[0].imagee\\"']


# -- What is served --------------------------------------------------------------------------------


async def test_a_kind_that_is_not_served_is_told_by_every_call(cluster: KubernetesCluster, namespace: str) -> None:
    gone = Kind("gone.propfan.test", "v1", "Gone", "gones")
    with pytest.raises(KindNotServedError, match=r"does not serve gones.gone.propfan.test/v1: install"):
        await cluster.list(gone)
    with pytest.raises(KindNotServedError):
        await cluster.get(gone, namespace, "a")
    with pytest.raises(KindNotServedError):
        await cluster.create(gone, body(gone, namespace, "a"))
    with pytest.raises(KindNotServedError):
        async with cluster.watch(gone, resource_version="1") as changes:
            await anext(changes)
    with pytest.raises(KindNotServedError):
        await cluster.check_served(gone)


async def test_discovery_knows_what_is_served(cluster: KubernetesCluster) -> None:
    assert TASK_ACTION in await cluster.discover("flyte.org", "v1")
    assert {POD, CONFIG_MAP, NAMESPACE} <= await cluster.discover("", "v1")
    assert await cluster.discover("flyte.org", "v7") == frozenset()
    await cluster.check_served(POD)


async def test_the_version_can_be_read(cluster: KubernetesCluster) -> None:
    assert json.loads(await cluster.get_raw("/version"))["gitVersion"].startswith("v1.")


async def test_objects_without_a_namespace_are_served(cluster: KubernetesCluster, namespace: str) -> None:
    found = await cluster.get(NAMESPACE, "", namespace)
    assert (found.metadata.name, found.metadata.namespace) == (namespace, "")
    assert namespace in {item.metadata.name for item in (await cluster.list(NAMESPACE)).items}
    patched = await cluster.patch(NAMESPACE, "", namespace, {"metadata": {"labels": {"a": "b"}}})
    assert patched.metadata.labels["a"] == "b"


async def test_an_object_is_replaced_under_its_version(cluster: KubernetesCluster, namespace: str) -> None:
    meta = {"name": "a", "namespace": namespace}
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"x": "1", "y": "1"}}
    created = await cluster.create(CONFIG_MAP, json.dumps(first).encode())
    meta["resourceVersion"] = created.metadata.resource_version
    second = json.dumps({**first, "data": {"x": "2"}}).encode()
    assert content(await cluster.replace(CONFIG_MAP, namespace, "a", second))["data"] == {"x": "2"}
    with pytest.raises(ConflictError, match="the object has been modified"):
        await cluster.replace(CONFIG_MAP, namespace, "a", second)


async def test_logs_of_a_pod_that_has_no_node_are_refused(cluster: KubernetesCluster, namespace: str) -> None:
    await cluster.create(POD, body(POD, namespace, "a"))
    with pytest.raises(NotFoundError, match='pods "b" not found'):
        async with cluster.logs(namespace, "b"):
            pass
    async with cluster.logs(namespace, "a") as pieces:
        assert [piece async for piece in pieces] == []
    with pytest.raises(BadRequestError, match="container nobody is not valid"):
        async with cluster.logs(namespace, "a", container="nobody"):
            pass


# -- Much ------------------------------------------------------------------------------------------


async def test_five_thousand_objects_are_listed_in_pages_of_one_moment(
    cluster: KubernetesCluster, namespace: str
) -> None:
    count = 5000

    async def create(numbers: range) -> None:
        for number in numbers:
            labels = {"parity": str(number % 2)}
            meta = {"name": f"a{number:04}", "namespace": namespace, "labels": labels}
            whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"x": "y" * 100}}
            await cluster.create(CONFIG_MAP, json.dumps(whole).encode())

    async with anyio.create_task_group() as tasks:
        for start in range(32):
            tasks.start_soon(create, range(start, count, 32))
    expected = [f"a{number:04}" for number in range(count)]
    names: list[str] = []
    sizes, token = [], ""
    while True:
        page = await cluster.list(CONFIG_MAP, namespace=namespace, continue_token=token)
        if not token:
            await cluster.delete(CONFIG_MAP, namespace, "a4999")
        names += [item.metadata.name for item in page.items if item.metadata.name.startswith("a")]
        sizes.append(len(page.items))
        token = page.continue_token
        if not token:
            break
    assert names == expected
    assert max(sizes) == 500
    assert len(sizes) == 11  # with the root CA's certificate that every namespace has
    odd = await cluster.list(CONFIG_MAP, namespace=namespace, labels={"parity": ["1", "2"]}, limit=0)
    assert len(odd.items) == count // 2 - 1
