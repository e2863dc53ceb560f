"""A Kubernetes cluster of real parts on loopback, with kwok in the kubelets' place.

etcd, kube-apiserver, kube-scheduler, kube-controller-manager and kwok are processes of this machine, with ports, keys
and data of their own. They end with the process that started them. Pods do what their annotations ask for: see
``stages/pod.yaml``.
"""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

from propfan.engine.manifests import documents
from tests.cluster import ports, programs
from tests.cluster.api import Api, ApiError, Object, is_condition_true, read_manifests
from tests.cluster.certificates import Authority, write_key
from tests.cluster.process import Process

HERE = Path(__file__).parent
STAGES = tuple(sorted((HERE / "stages").glob("*.yaml")))
TASK_ACTION_CRD = Path(documents.__file__).parent / documents.CRD_FILE
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ISSUER = "https://kubernetes.default.svc"
START_TIMEOUT_S = 120.0  # an API server is ready in some seconds, on a machine that does nothing else

CONTROLLERS = (
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "endpoints-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
)
"""Those that need no kubelet and no cloud. Without the node-lifecycle controller no node is ever lost by itself."""

NODE_INFO = (
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
)
"""All are required, and none is of use here."""


NODE_LABEL, NODE_TYPE = "type", "kwok"
"""Of the nodes that kwok plays; others may run beside them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster has."""

    nodes: int = 2
    """Each has 1000 CPUs, 4 TiB, 64 GPUs of NVIDIA and room for 100000 pods."""
    has_scheduler: bool = True
    has_controllers: bool = True
    controllers: tuple[str, ...] = CONTROLLERS
    authorization_mode: str = "RBAC"
    """kube-apiserver ``--authorization-mode``."""
    disabled_admission: tuple[str, ...] = ("ServiceAccount", "TaintNodesByCondition")
    """With the plugin ServiceAccount on, a pod is refused until its account exists, and mounts its token."""
    api_server_arguments: tuple[str, ...] = ()
    """More arguments for kube-apiserver."""
    crds: tuple[Path, ...] = (TASK_ACTION_CRD,)
    """Installed before the controllers start: the garbage collector looks for new kinds only twice a minute."""
    stages: tuple[Path, ...] = STAGES
    """What kwok does with nodes and pods."""


class ControlPlane:
    """One cluster. As a context manager it runs from ``__enter__`` to ``__exit__``; ``api`` is its administrator's."""

    def __init__(self, directory: Path, settings: Settings = Settings()) -> None:  # noqa: B008 - immutable
        self.directory = directory
        self.settings = settings
        for folder in ("keys", "logs", "etcd"):
            (directory / folder).mkdir(parents=True, mode=0o700)
        self.authority = Authority(directory / "keys")
        self.ca = self.authority.certificate
        self.admin_token = secrets.token_urlsafe(24)
        self._numbers = itertools.count(1)
        self._etcd_url = f"http://127.0.0.1:{ports.free_port()}"
        self._port = ports.free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.api = Api(self.url, self.ca, self.admin_token)
        self.kubeconfig = self.write_kubeconfig(directory / "kubeconfig", self.admin_token)
        self.etcd = self._etcd()
        self.api_server = self._api_server()
        kubelet_port = ports.free_port()
        self._servers: list[tuple[Process, str]] = []
        if settings.has_controllers:
            self._servers.append(self._controller_manager())
        if settings.has_scheduler:
            self._servers.append(self._scheduler())
        if settings.nodes:
            self._servers.append(self._kwok(kubelet_port))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all parts and returns when they work.

        Raises:
            ProcessEndedError, TimeoutError: one does not; the message has the end of its log.
        """
        self.etcd.start()
        self.etcd.await_ready(partial(is_healthy, f"{self._etcd_url}/health"), timeout_s=START_TIMEOUT_S)
        self.start_api_server()
        for path in self.settings.crds:
            self.install_crds(read_manifests(path))
        for process, _ in self._servers:
            process.start()
        for process, url in self._servers:
            process.await_ready(partial(is_healthy, url), timeout_s=START_TIMEOUT_S)
        for number in range(self.settings.nodes):
            self.api.create(_node(f"node-{number}"))
        if self.settings.nodes:
            self.api.await_objects(
                "/api/v1/nodes", lambda nodes: all(is_condition_true(node, "Ready") for node in nodes)
            )

    def stop(self) -> None:
        """Kills all parts and deletes etcd's data; logs stay. No error when nothing runs."""
        for process in (*(process for process, _ in reversed(self._servers)), self.api_server, self.etcd):
            process.kill()
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)

    @property
    def processes(self) -> Mapping[str, Process]:
        """All parts by their names; ``processes["kwok"].signal(SIGSTOP)`` makes the nodes hang."""
        return {process.name: process for process in (self.etcd, self.api_server, *(part for part, _ in self._servers))}

    def start_api_server(self) -> None:
        """Starts kube-apiserver, on the port that it always has, and waits until it is ready."""
        self.api_server.start()
        self.api_server.await_ready(self._is_api_server_ready, timeout_s=START_TIMEOUT_S)

    def stop_api_server(self, *, is_crash: bool = True) -> None:
        """Kills kube-apiserver, or lets it end its requests. What is stored stays."""
        if is_crash:
            self.api_server.kill()
        else:
            self.api_server.stop()

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """An outage for as long as the context lasts."""
        self.stop_api_server()
        try:
            yield
        finally:
            self.start_api_server()

    def compact(self) -> int:
        """Compacts etcd up to now and returns the revision: lists can not go on from before.

        Watches go on from the API server's own cache as long as it is not restarted: see ``expire_watches``.
        """
        revision = int(self._ask_etcd("kv/range", {"key": "AA=="})["header"]["revision"])
        self._ask_etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def expire_watches(self) -> None:
        """Makes every resourceVersion of before too old to watch from: 410, Expired."""
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "marks-a-revision-"}})
        with self.without_api_server():
            self.compact()

    def create_namespace(self, prefix: str = "test") -> str:
        """A new namespace of its own name."""
        name = f"{prefix}-{next(self._numbers)}"
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def delete_namespace(self, name: str) -> None:
        """Deletes a namespace; its objects go in the background, if controllers run."""
        self.api.delete(f"/api/v1/namespaces/{name}")

    def install_crds(self, manifests: Iterable[Object]) -> None:
        """Creates CustomResourceDefinitions, or updates those that exist, and waits until they are served."""
        names = []
        for manifest in manifests:
            names.append(manifest["metadata"]["name"])
            try:
                self.api.create(manifest)
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
                self.api.apply(manifest)  # slower by far: schemas are large
        for name in names:
            self.api.await_object(f"{CRD_PATH}/{name}", lambda crd: is_condition_true(crd, "Established"))

    def create_token(
        self, namespace: str, service_account: str, *, lifetime_s: int = 3600, audiences: Sequence[str] = ()
    ) -> str:
        """A token of a service account, by a TokenRequest. Kubernetes grants no lifetime below 600 s."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        spec = {"expirationSeconds": lifetime_s, "audiences": list(audiences) or [ISSUER]}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token: str = self.api.request("POST", path, request)["status"]["token"]
        return token

    def write_kubeconfig(self, path: Path, token: str, *, namespace: str = "default") -> Path:
        """A kubeconfig for the user of a token; the file is its owner's only."""
        return self._write_kubeconfig(path, {"token": token}, namespace)

    def write_certificate_kubeconfig(
        self, path: Path, user: str, groups: Sequence[str] = (), *, namespace: str = "default"
    ) -> Path:
        """A kubeconfig for a user with a client certificate."""
        pair = self.authority.client(user, groups)
        credentials = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        return self._write_kubeconfig(path, credentials, namespace)

    def _write_kubeconfig(self, path: Path, credentials: Mapping[str, str], namespace: str) -> Path:
        name = "propfan-test"
        context = {"cluster": name, "user": name, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": name, "user": dict(credentials)}],
            "contexts": [{"name": name, "context": context}],
            "current-context": name,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def _process(self, name: str, *arguments: str) -> Process:
        return Process(name, [programs.program(name), *arguments], self.directory / "logs" / f"{name}.log")

    def _etcd(self) -> Process:
        peer = f"http://127.0.0.1:{ports.free_port()}"
        return self._process(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8589934592",
            "--log-level=warn",
        )

    def _api_server(self) -> Process:
        keys = self.directory / "keys"
        tokens = keys / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.admin_token},admin,admin,"system:masters"\n', encoding="utf-8")
        serving = self.authority.server("apiserver", ["kubernetes.default.svc"])
        account_key = write_key(keys / "service-accounts.key")
        return self._process(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={keys}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.ca}",
            f"--token-auth-file={tokens}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={account_key}",
            f"--service-account-signing-key-file={account_key}",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--endpoint-reconciler-type=none",  # the API server has no address that pods could reach
            "--shutdown-watch-termination-grace-period=1s",  # else an end waits a minute for the watches
            "--allow-privileged=true",
            f"--authorization-mode={self.settings.authorization_mode}",
            f"--disable-admission-plugins={','.join(self.settings.disabled_admission)}",
            *self.settings.api_server_arguments,
        )

    def _controller_manager(self) -> tuple[Process, str]:
        port = ports.free_port()
        process = self._process(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(self.settings.controllers)}",
            f"--service-account-private-key-file={self.directory / 'keys' / 'service-accounts.key'}",
            f"--root-ca-file={self.ca}",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            *_serving(port),
        )
        return process, f"https://127.0.0.1:{port}/healthz"

    def _scheduler(self) -> tuple[Process, str]:
        port = ports.free_port()
        process = self._process(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            "--kube-api-qps=5000",
            "--kube-api-burst=10000",
            *_serving(port),
        )
        return process, f"https://127.0.0.1:{port}/readyz"

    def _kwok(self, port: int) -> tuple[Process, str]:
        config = self.directory / "kwok.yaml"
        options = {
            "manageNodesWithLabelSelector": f"{NODE_LABEL}={NODE_TYPE}",
            "serverAddress": f"127.0.0.1:{port}",
            "cidr": "172.16.0.0/12",
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 4,  # in a file, no option of these has a default
            "nodeLeaseParallelism": 4,
            "podsOnNodeSyncParallelism": 4,
            "enablePodsOnNodeSyncListPager": True,
        }
        root = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
        stages = [stage.read_text(encoding="utf-8") for stage in self.settings.stages]
        config.write_text("\n---\n".join([yaml.safe_dump(root), *stages]), encoding="utf-8")
        process = self._process("kwok", f"--kubeconfig={self.kubeconfig}", f"--config={config}")
        return process, f"http://127.0.0.1:{port}/healthz"

    def _is_api_server_ready(self) -> bool:
        try:
            return bool(self.api.request("GET", "/readyz", timeout_s=5) == "ok")
        except (OSError, ApiError):
            return False

    def _ask_etcd(self, path: str, question: Mapping[str, Any]) -> Any:
        """By etcd's JSON gateway."""
        request = urllib.request.Request(f"{self._etcd_url}/v3/{path}", json.dumps(question).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def _serving(port: int) -> Sequence[str]:
    return (
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--authorization-always-allow-paths=/healthz,/readyz,/metrics",
    )


def is_healthy(url: str) -> bool:
    """Whether a GET is answered with 200. Programs make certificates up for themselves; only the answer matters."""
    try:
        with urllib.request.urlopen(url, timeout=5, context=ssl._create_unverified_context()) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _node(name: str) -> Object:
    resources = {
        "cpu": "1000",
        "memory": "400Ti",
        "ephemeral-storage": "16Ti",
        "pods": "100000",
        "nvidia.com/gpu": "64",
    }
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        NODE_LABEL: NODE_TYPE,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": dict.fromkeys(NODE_INFO, "") | {"kubeletVersion": programs.KUBERNETES_VERSION},
        },
    }
