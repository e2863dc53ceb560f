"""Credentials from kubeconfigs, exec plugins and service accounts."""

from __future__ import annotations

import base64
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from propfan.engine.kubernetes import credentials, exec_plugin
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.engine.kubernetes.credentials import Access, Kubeconfig, ServiceAccount, Tls, find
from propfan.pluginmachinery.errors import ConfigError

pytestmark = pytest.mark.anyio

SERVER = "https://10.0.0.1:6443"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def write(folder: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, name: str = "config") -> Path:
    path = folder / name
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def load(folder: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Access:
    return await Kubeconfig(str(write(folder, user, cluster)), "").load()


def contents(tls: Tls) -> list[str]:
    return [Path(path).read_text() for path in (tls.ca, tls.certificate, tls.key) if path]


# -- Kubeconfig ------------------------------------------------------------------------------------


async def test_a_token_says_who_we_are(tmp_path: Path) -> None:
    access = await load(tmp_path, {"token": "secret"})
    assert access.server == SERVER
    assert list(access.headers) == [("Authorization", "Bearer secret")]
    assert access.namespace == "n"
    assert access.tls.is_verified
    assert access.proxy == ""


async def test_a_name_and_a_password_do_too(tmp_path: Path) -> None:
    access = await load(tmp_path, {"username": "a", "password": "b"})
    assert list(access.headers) == [("Authorization", "Basic " + base64.b64encode(b"a:b").decode())]


async def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    found = Kubeconfig(str(write(tmp_path, {"tokenFile": "token"})), "")
    assert (await found.load()).headers == [("Authorization", "Bearer one")]
    (tmp_path / "token").write_text("two")
    assert (await found.load()).headers == [("Authorization", "Bearer two")]


async def test_a_token_that_was_replaced_in_the_file_is_found_once_the_old_one_is_refused(tmp_path: Path) -> None:
    found = Kubeconfig(str(write(tmp_path, {"token": "one"})), "")
    await found.load()
    write(tmp_path, {"token": "two"})
    assert (await found.load(anew=True)).headers == [("Authorization", "Bearer two")]


async def test_impersonation_is_told_in_headers(tmp_path: Path) -> None:
    user = {"token": "t", "as": "bob", "as-uid": "7", "as-groups": ["g", "h"], "as-user-extra": {"k": ["v", "w"]}}
    access = await load(tmp_path, user)
    assert list(access.headers)[1:] == [
        ("Impersonate-User", "bob"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "g"),
        ("Impersonate-Group", "h"),
        ("Impersonate-Extra-k", "v"),
        ("Impersonate-Extra-k", "w"),
    ]


async def test_certificates_may_be_files_or_data(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(name)
    files = {"client-certificate": "cert", "client-key": "key"}
    access = await load(tmp_path, files, {"certificate-authority": "ca"})
    tls = access.tls
    assert contents(tls) == ["ca", "cert", "key"]
    data = {f"{name}-data": base64.b64encode(value.encode()).decode() for name, value in files.items()}
    ca = base64.b64encode(b"ca").decode()
    other = (await load(tmp_path, data, {"certificate-authority-data": ca})).tls
    assert contents(other) == ["ca", "cert", "key"]
    assert other.digest == tls.digest


async def test_a_certificate_that_is_renewed_is_seen(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text(name)
    found = Kubeconfig(str(write(tmp_path, {"client-certificate": "cert", "client-key": "key"})), "")
    before = (await found.load()).tls
    assert (await found.load()).tls == before
    (tmp_path / "cert").write_text("new")
    assert (await found.load()).tls != before


async def test_the_server_may_be_believed_or_called_otherwise(tmp_path: Path) -> None:
    insecure = await load(tmp_path, {"token": "t"}, {"insecure-skip-tls-verify": True, "tls-server-name": "api.test"})
    assert not insecure.tls.is_verified
    assert insecure.tls.server_name == "api.test"


async def test_proxies_are_configured_or_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await load(tmp_path, {"token": "t"}, {"proxy-url": "http://p:1"})).proxy == "http://p:1"
    monkeypatch.setenv("HTTPS_PROXY", "http://q:2")
    assert (await load(tmp_path, {"token": "t"}, {"proxy-url": "http://p:1"})).proxy == "http://p:1"
    assert (await load(tmp_path, {"token": "t"})).proxy == "http://q:2"
    monkeypatch.setenv("NO_PROXY", "10.0.0.1")
    assert (await load(tmp_path, {"token": "t"})).proxy == ""


async def test_contexts_of_several_files_are_known(tmp_path: Path) -> None:
    first = write(tmp_path, {"token": "first"}, name="a")
    second = yaml.safe_load(write(tmp_path, {"token": "second"}, name="b").read_text())
    second["users"][0]["name"] = second["contexts"][0]["context"]["user"] = "v"
    second["contexts"][0]["name"] = "y"
    (tmp_path / "b").write_text(yaml.safe_dump(second))
    found = Kubeconfig(f"{first}:{tmp_path / 'b'}", "y")
    assert (await found.load()).headers == [("Authorization", "Bearer second")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        ("", "can not be used"),
        ("7", "can not be used"),
        ("a: [", "can not be used"),
        ("\0", "can not be used"),
        ("current-context: x", "can not be used"),
        ("current-context: x\ncontexts: []", "Expected object with name x"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: s}}]", "names no user"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: s}}]", "user"),
    ],
)  # fmt: skip
async def test_a_kubeconfig_that_is_wrong_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        await Kubeconfig(str(path), "").load()
    assert caught.value.field == "kubernetes.kubeconfig"
    assert str(path) in caught.value.problem
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("user", "cluster", "problem"),
    [
        ({"token": "t"}, {"server": "10.0.0.1"}, "'10.0.0.1' is not the URL of an API server"),
        ({"token": "t"}, {"server": "ftp://x"}, "is not the URL"),
        ({"token": "a\r\nX-Admin: yes"}, {}, "header Authorization has characters"),
        ({"token": "t", "as": "bob\n"}, {}, "header Impersonate-User has characters"),
        ({"token": "t"}, {"proxy-url": "socks5://p:1"}, "only http and https"),
        ({"token": "t"}, {"certificate-authority": "/nowhere/ca.crt"}, "/nowhere/ca.crt"),
        ({"client-certificate": "/nowhere/a.crt"}, {}, "/nowhere/a.crt"),
    ],
)
async def test_values_that_are_wrong_are_told(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await load(tmp_path, user, cluster)
    assert problem in caught.value.problem


async def test_a_context_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="context 'elsewhere'"):
        await Kubeconfig(str(write(tmp_path, {"token": "t"})), "elsewhere").load()


# -- Exec plugins ----------------------------------------------------------------------------------


class ExecPlugin:
    """A program that prints the next line of a file each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        script = folder / "plugin.py"
        script.write_text(
            "import pathlib, sys\n"
            f"folder = pathlib.Path({str(folder)!r})\n"
            "with open(folder / 'runs', 'a') as runs: runs.write('x')\n"
            "exec((folder / 'says').read_text())\n"
        )
        self.user = {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": sys.executable,
                "args": [str(script)],
                "interactiveMode": "Never",
            }
        }

    def says(self, **status: str) -> None:
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self.does(f"print({json.dumps(credential)!r})")

    def does(self, code: str) -> None:
        (self.folder / "says").write_text(code)

    @property
    def count(self) -> int:
        return len(self.runs.read_text())


@pytest.fixture
def plugin(tmp_path: Path) -> ExecPlugin:
    return ExecPlugin(tmp_path)


async def test_an_exec_plugin_gives_a_token_once(tmp_path: Path, plugin: ExecPlugin) -> None:
    plugin.says(token="one")
    found = Kubeconfig(str(write(tmp_path, plugin.user)), "")
    access = await found.load()
    assert list(access.headers) == [("Authorization", "Bearer one")]
    assert access.fresh_for_s == math.inf


async def test_an_exec_plugin_is_run_again_when_its_token_expires(tmp_path: Path, plugin: ExecPlugin) -> None:
    found = Kubeconfig(str(write(tmp_path, plugin.user)), "")
    plugin.says(token="one", expirationTimestamp="2999-01-01T00:00:00Z")
    assert (await found.load()).fresh_for_s == credentials.FRESH_S
    await found.load()
    assert plugin.count == 1
    plugin.says(token="two", expirationTimestamp="2001-01-01T00:00:00Z")
    assert (await found.load(anew=True)).headers == [("Authorization", "Bearer two")]
    plugin.says(token="three")
    assert (await found.load()).headers == [("Authorization", "Bearer three")]
    assert plugin.count == 3


async def test_an_exec_plugin_may_give_a_certificate(tmp_path: Path, plugin: ExecPlugin) -> None:
    plugin.says(clientCertificateData="cert", clientKeyData="key")
    tls = (await load(tmp_path, plugin.user)).tls
    assert contents(tls) == ["cert", "key"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("sys.exit('no login')", "no login"),
        ("print('hello')", "printed no ExecCredential"),
        ("print('{}')", "missing required field `apiVersion`"),
        (
            'print(\'{"apiVersion":"client.authentication.k8s.io/v1","status":{}}\')',
            "neither a token nor a certificate",
        ),
        ('print(\'{"apiVersion":"v9","status":{"token":"t"}}\')', "speaks v9, not client"),
    ],
)
async def test_an_exec_plugin_that_fails_is_told_with_its_words(
    tmp_path: Path, plugin: ExecPlugin, code: str, problem: str
) -> None:
    plugin.does(code)
    with pytest.raises(ConfigError, match=problem):
        await load(tmp_path, plugin.user)


@pytest.mark.parametrize("command", ["/nowhere/login", "./login", "no-such-program"])
async def test_an_exec_plugin_that_is_not_there_is_told_with_the_way_to_get_it(tmp_path: Path, command: str) -> None:
    section = {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "installHint": "brew install it"}
    with pytest.raises(ConfigError, match=r"can not be run.*brew install it") as caught:
        await load(tmp_path, {"exec": section})
    assert command in caught.value.problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"command": 7}, "Expected `str`"), ({"interactiveMode": "Always"}, "wants to ask a person")],
)
async def test_an_exec_section_that_can_not_work_is_refused(
    tmp_path: Path, plugin: ExecPlugin, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        await load(tmp_path, {"exec": plugin.user["exec"] | change})


async def test_an_exec_plugin_is_told_about_the_cluster_and_has_its_variables(
    tmp_path: Path, plugin: ExecPlugin
) -> None:
    plugin.does(
        "import json, os\n"
        "(folder / 'told').write_text(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'status': {'token': os.environ['WHO']}}))"
    )
    (tmp_path / "ca").write_text("ca")
    section = plugin.user["exec"] | {"provideClusterInfo": True, "env": [{"name": "WHO", "value": "bob"}]}
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    cluster = {"certificate-authority": str(tmp_path / "ca"), "extensions": [extension]}
    access = await load(tmp_path, {"exec": section}, cluster)
    assert list(access.headers) == [("Authorization", "Bearer bob")]
    assert json.loads((tmp_path / "told").read_text()) == {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": SERVER,
                "certificate-authority-data": base64.b64encode(b"ca").decode(),
                "config": {"audience": "x"},
            },
        },
    }


async def test_a_command_with_a_relative_path_is_beside_the_kubeconfig(tmp_path: Path) -> None:
    script = tmp_path / "login"
    script.write_text("#!/bin/sh\necho '" + '{"apiVersion":"v","status":{"token":"t"}}' + "'\n")
    script.chmod(0o700)
    access = await load(tmp_path, {"exec": {"apiVersion": "v", "command": "./login"}})
    assert list(access.headers) == [("Authorization", "Bearer t")]


async def test_an_exec_plugin_that_hangs_is_given_up(
    tmp_path: Path, plugin: ExecPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_plugin, "TIMEOUT_S", 1.0)
    plugin.does("import os, time; (folder / 'pid').write_text(str(os.getpid())); time.sleep(600)")
    with anyio.fail_after(20), pytest.raises(ConfigError, match="has not ended within 1 s"):
        await load(tmp_path, plugin.user)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# -- Service accounts ------------------------------------------------------------------------------


def mounted(folder: Path, token: str = "one\n") -> Path:
    for name, value in (("token", token), ("ca.crt", "ca"), ("namespace", "pod-ns")):
        (folder / name).write_text(value)
    return folder


async def test_a_pod_is_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = ServiceAccount(mounted(tmp_path))
    access = await found.load()
    assert access.server == "https://[fd00::1]:443"
    assert list(access.headers) == [("Authorization", "Bearer one")]
    assert (access.namespace, access.tls.ca) == ("pod-ns", str(tmp_path / "ca.crt"))
    assert access.fresh_for_s == credentials.FRESH_S
    (tmp_path / "token").write_text("two")
    assert list((await found.load()).headers) == [("Authorization", "Bearer two")]


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "token", "ca.crt"])
async def test_what_is_missing_of_a_service_account_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    mounted(tmp_path)
    if missing.isupper():
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    else:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
        (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match="no service account in"):
        await ServiceAccount(tmp_path).load()


# -- Which of them ---------------------------------------------------------------------------------


async def test_what_is_named_comes_before_the_pod_and_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"token": "t"})
    (tmp_path / ".kube").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"~/\.kube/config: there is no such file"):
        await find(KubernetesConfig()).load()
    path.rename(tmp_path / ".kube" / "config")
    assert (await find(KubernetesConfig()).load()).server == SERVER
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert isinstance(find(KubernetesConfig()), ServiceAccount)
    monkeypatch.setenv("KUBECONFIG", "/of/environment")
    with pytest.raises(ConfigError, match="/of/environment"):
        await find(KubernetesConfig()).load()
    with pytest.raises(ConfigError, match="/of/config"):
        await find(KubernetesConfig(kubeconfig="/of/config")).load()
    assert isinstance(find(KubernetesConfig(in_cluster=True)), ServiceAccount)
