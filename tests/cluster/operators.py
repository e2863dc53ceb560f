"""The real operators of other projects, as processes beside a test cluster.

Their CustomResourceDefinitions come from where the programs come from: Go modules, and PyPI for Dask's. Each runs with
its admission webhooks, which are reached on loopback.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import yaml

from tests.cluster import cache, environments, ports, programs, ray_dashboard, webhooks
from tests.cluster.api import Object, read_manifests
from tests.cluster.certificates import Authority, KeyPair, write_key
from tests.cluster.control_plane import START_TIMEOUT_S, ControlPlane, is_healthy
from tests.cluster.process import Process

DASK_CONTROLLER: Final = "dask_kubernetes.operator.controller"

KUBEFLOW_MOUNT: Final = Path("/tmp/k8s-webhook-server/serving-certs/tls.crt")
"""The training operator waits for this file, which a kubelet would mount, and never reads it: it may be empty."""


def prepare(name: str) -> None:
    """Makes what an operator needs, unless it is there.

    Raises:
        UnavailableError: it can not be made here.
    """
    parts = OPERATORS[name]
    if parts.needs_java and shutil.which("java") is None:
        raise cache.UnavailableError(f"{name} needs Java 17 or later (on Debian and Ubuntu: openjdk-17-jre-headless)")
    if parts.module:
        programs.build(parts.module)
    if parts.requirement:
        environments.environment(name, parts.requirement)


def is_prepared(name: str) -> bool:
    """Whether ``prepare`` has nothing to make."""
    parts = OPERATORS[name]
    is_built = not parts.module or programs.folder(parts.module).exists()
    return is_built and (not parts.requirement or environments.exists(name, parts.requirement))


def install_crds(cluster: ControlPlane, name: str) -> None:
    """Installs the kinds of an operator and waits until they are served."""
    prepare(name)
    files = sorted(OPERATORS[name].crds())
    cluster.install_crds(itertools.chain.from_iterable(map(read_manifests, files)))


@contextmanager
def running_operator(cluster: ControlPlane, name: str) -> Iterator[None]:
    """Installs the kinds of an operator and runs it, ready and with its webhooks, for as long as the context lasts.

    Raises:
        ProcessEndedError, TimeoutError: it does not become ready; the message has the end of its log.
    """
    install_crds(cluster, name)
    folder = cluster.directory / "operators" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with OPERATORS[name].run(cluster, folder):
        yield


@contextmanager
def _running(
    cluster: ControlPlane,
    name: str,
    command: Sequence[str | Path],
    *,
    health: str,
    admission: Sequence[Object] = (),
    environment: Mapping[str, str],
) -> Iterator[None]:
    """A program that is ready and whose webhooks are served, for as long as the context lasts.

    Args:
        health: Where it answers when it is ready, without the scheme.
    """
    process = Process(name, command, cluster.directory / "logs" / f"{name}.log", env=environment)
    webhooks.register(cluster, admission)
    try:
        process.start()
        process.await_ready(partial(is_healthy, f"http://{health}"), timeout_s=START_TIMEOUT_S)
        process.await_ready(partial(webhooks.are_served, admission), timeout_s=START_TIMEOUT_S)
        yield
    finally:
        try:
            webhooks.unregister(cluster, admission)
        finally:
            process.stop()


def _environment(cluster: ControlPlane, folder: Path) -> dict[str, str]:
    """controller-runtime takes the cluster from KUBECONFIG, and looks below TMPDIR for certificates of webhooks."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder), "KUBECONFIG": str(cluster.kubeconfig)}


def _serving_certificates(authority: Authority, folder: Path, *dns_names: str) -> KeyPair:
    """A certificate where controller-runtime looks for it below TMPDIR."""
    pair = authority.server("webhook", dns_names)
    target = folder / "k8s-webhook-server" / "serving-certs"
    target.mkdir(parents=True)
    return KeyPair(pair.certificate.rename(target / "tls.crt"), pair.key.rename(target / "tls.key"))


def _jobset(cluster: ControlPlane, folder: Path) -> AbstractContextManager[None]:
    health_port, port = ports.free_port(), ports.free_port()
    _serving_certificates(cluster.authority, folder)
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": port},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health_port}"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return _running(
        cluster,
        "jobset",
        [programs.program("jobset"), f"--config={folder / 'config.yaml'}"],
        health=f"127.0.0.1:{health_port}/readyz",
        admission=webhooks.reached_by_url(
            programs.build("jobset") / "webhooks" / "manifests.yaml",
            name="jobset",
            port=port,
            ca=cluster.ca,
            pods_with="jobset.sigs.k8s.io/jobset-name",
        ),
        environment=_environment(cluster, folder),
    )


def _kubeflow(cluster: ControlPlane, folder: Path) -> AbstractContextManager[None]:
    """It manages the webhooks' certificates itself, in a Secret, and keeps the valid ones that it finds there."""
    health_port, port = ports.free_port(), ports.free_port()
    namespace, secret = "kubeflow", "training-operator-webhook-cert"
    authority = Authority(folder, dns_names=["training-operator-ca"])
    serving = _serving_certificates(authority, folder, f"training-operator.{namespace}.svc")
    files = {
        "ca.crt": authority.certificate,
        "ca.key": write_key(folder / "ca.key", authority.key),
        "tls.crt": serving.certificate,
        "tls.key": serving.key,
    }
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.api.apply(webhooks.secret(secret, namespace, files))
    KUBEFLOW_MOUNT.parent.mkdir(parents=True, exist_ok=True)
    KUBEFLOW_MOUNT.touch()
    return _running(
        cluster,
        "training-operator",
        [
            programs.program("training-operator"),
            "--metrics-bind-address=0",
            f"--health-probe-bind-address=127.0.0.1:{health_port}",
            f"--webhook-server-port={port}",
            f"--webhook-secret-name={secret}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--controller-threads=4",
        ],
        health=f"127.0.0.1:{health_port}/readyz",
        admission=webhooks.reached_by_url(
            programs.build("training-operator") / "webhooks" / "manifests.yaml",
            name="validator.training-operator.kubeflow.org",
            port=port,
            ca=authority.certificate,
        ),
        environment=_environment(cluster, folder),
    )


@contextmanager
def _ray(cluster: ControlPlane, folder: Path) -> Iterator[None]:
    health_port = ports.free_port()
    command = [
        str(programs.program("ray-operator")),
        "--metrics-addr=0",
        f"--health-probe-bind-address=127.0.0.1:{health_port}",
        "--enable-leader-election=false",
        "--qps=500",
        "--burst=1000",
    ]
    with ray_dashboard.dashboards(cluster.api) as proxy:
        environment = _environment(cluster, folder) | {"HTTP_PROXY": proxy}
        with _running(
            cluster, "ray-operator", command, health=f"127.0.0.1:{health_port}/readyz", environment=environment
        ):
            yield


@contextmanager
def _spark(cluster: ControlPlane, folder: Path) -> Iterator[None]:
    """Two processes: the webhooks, and the controller, which runs ``spark-submit`` of the real Spark."""
    health_port, webhooks_health_port, port = ports.free_port(), ports.free_port(), ports.free_port()
    namespace, secret = "spark-operator", "spark-operator-webhook-certs"
    serving = cluster.authority.server("spark-operator")
    files = {"ca.crt": cluster.ca, "tls.crt": serving.certificate, "tls.key": serving.key}
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.api.apply(webhooks.secret(secret, namespace, files))
    host, _, api_port = cluster.url.removeprefix("https://").partition(":")
    environment = _environment(cluster, folder) | {
        "SPARK_HOME": str(_installed("spark", "pyspark")),
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": api_port,
    }
    program = str(programs.program("spark-operator"))
    shared = ["--kube-api-qps=500", "--kube-api-burst=1000", "--namespaces=", "--metrics-bind-address=0"]
    answers = [
        *(program, "webhook", "start", *shared),
        f"--health-probe-bind-address=127.0.0.1:{webhooks_health_port}",
        "--enable-cert-manager",  # it takes the certificates that it finds
        f"--webhook-secret-name={secret}",
        f"--webhook-secret-namespace={namespace}",
        f"--webhook-cert-dir={folder}",
        f"--webhook-port={port}",
    ]
    admission = webhooks.reached_by_url(
        programs.build("spark-operator") / "webhooks" / "manifests.yaml",
        name="spark-operator-webhook",
        port=port,
        ca=cluster.ca,
        pods_with="sparkoperator.k8s.io/launched-by-spark-operator",
    )
    controls = [
        *(program, "controller", "start", *shared),
        f"--health-probe-bind-address=127.0.0.1:{health_port}",
    ]
    with (
        _running(
            cluster,
            "spark-operator-webhook",
            answers,
            health=f"127.0.0.1:{webhooks_health_port}/readyz",
            admission=admission,
            environment=environment,
        ),
        _running(
            cluster, "spark-operator", controls, health=f"127.0.0.1:{health_port}/readyz", environment=environment
        ),
    ):
        yield


@contextmanager
def _dask(cluster: ControlPlane, folder: Path) -> Iterator[None]:
    health = f"127.0.0.1:{ports.free_port()}/healthz"
    kopf = environments.environment("dask", OPERATORS["dask"].requirement) / "bin" / "kopf"
    command = [str(kopf), "run", "--all-namespaces", f"--liveness=http://{health}", "-m", DASK_CONTROLLER]
    with _running(cluster, "dask-operator", command, health=health, environment=_environment(cluster, folder)):
        yield


def _installed(name: str, package: str) -> Path:
    """The folder of a package in the environment of an operator."""
    home = environments.environment(name, OPERATORS[name].requirement)
    (found,) = home.glob(f"lib/python*/site-packages/{package}")
    return found


class Operator(msgspec.Struct, frozen=True):
    """What an operator is made of, and how it runs."""

    run: Callable[[ControlPlane, Path], AbstractContextManager[None]]
    crds: Callable[[], Iterable[Path]]
    module: str = ""
    """The Go module that its programs come from."""
    requirement: str = ""
    """What it needs from PyPI."""
    needs_java: bool = False


def _crds_of(module: str) -> Callable[[], Iterable[Path]]:
    return lambda: (programs.folder(module) / "crds").glob("*.yaml")


OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "kubeflow": Operator(_kubeflow, _crds_of("training-operator"), "training-operator"),
        "jobset": Operator(_jobset, _crds_of("jobset"), "jobset"),
        "ray": Operator(_ray, _crds_of("ray-operator"), "ray-operator"),
        "spark": Operator(  # with the Spark that this version of the operator is shipped with
            _spark, _crds_of("spark-operator"), "spark-operator", "pyspark==4.0.4", needs_java=True
        ),
        "dask": Operator(
            _dask,
            lambda: _installed("dask", "dask_kubernetes").glob("operator/deployment/helm/*/crds/*.yaml"),
            requirement="dask-kubernetes==2026.3.0",
        ),
    }
)
"""By the family of plugins that makes its objects."""
