"""The real operators of other projects, as processes beside a test cluster.

Their CustomResourceDefinitions come from the Go modules that they are built from. Each runs with its admission
webhooks, which are reached on loopback. An operator that talks to what a pod would serve finds nobody there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

from tests.cluster import ports, programs, webhooks
from tests.cluster.certificates import Authority, KeyPair
from tests.cluster.control_plane import START_TIMEOUT_S, ControlPlane, is_healthy
from tests.cluster.process import Process

CRDS: Final[Mapping[str, str]] = MappingProxyType(
    {"kubeflow": "training-operator", "jobset": "jobset", "ray": "ray-operator", "spark": "spark-operator"}
)
"""For each family of kinds the Go module that they come from."""


def install_crds(cluster: ControlPlane, name: str) -> None:
    """Installs the kinds of ``kubeflow``, ``jobset``, ``ray`` or ``spark`` and waits until they are served."""
    folder = programs.build(CRDS[name]) / "crds"
    for path in sorted(folder.glob("*.yaml")):
        cluster.install_crds(yaml.safe_load_all(path.read_text(encoding="utf-8")))


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
    with OPERATORS[name](cluster, folder):
        yield


@contextmanager
def _running(
    cluster: ControlPlane, folder: Path, name: str, health_port: int, arguments: Sequence[str], **environment: str
) -> Iterator[Process]:
    """A controller-runtime program: it takes the cluster from KUBECONFIG, and webhook certificates from TMPDIR."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    env |= {"KUBECONFIG": str(cluster.kubeconfig), **environment}
    process = Process(
        name, [programs.program(arguments[0]), *arguments[1:]], cluster.directory / "logs" / f"{name}.log", env=env
    )
    try:
        process.start()
        process.await_ready(partial(is_healthy, f"http://127.0.0.1:{health_port}/readyz"), timeout_s=START_TIMEOUT_S)
        yield process
    finally:
        process.stop()


def _serving_certificates(authority: Authority, folder: Path, *dns_names: str) -> KeyPair:
    """A certificate where controller-runtime looks for it below TMPDIR."""
    pair = authority.server("webhook", dns_names)
    target = folder / "k8s-webhook-server" / "serving-certs"
    target.mkdir(parents=True)
    return KeyPair(pair.certificate.rename(target / "tls.crt"), pair.key.rename(target / "tls.key"))


@contextmanager
def _jobset(cluster: ControlPlane, folder: Path) -> Iterator[None]:
    health, port = ports.free_port(), ports.free_port()
    _serving_certificates(cluster.authority, folder)
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": port},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    configurations = webhooks.reached_by_url(
        programs.build("jobset") / "webhooks" / "manifests.yaml",
        name="jobset",
        port=port,
        ca=cluster.ca,
        pods_with="jobset.sigs.k8s.io/jobset-name",
    )
    arguments = ["jobset", f"--config={folder / 'config.yaml'}"]
    with (
        _running(cluster, folder, "jobset", health, arguments) as process,
        webhooks.registered(cluster, configurations, process),
    ):
        yield


@contextmanager
def _ray(cluster: ControlPlane, folder: Path) -> Iterator[None]:
    health = ports.free_port()
    arguments = [
        "ray-operator",
        "--metrics-addr=0",
        f"--health-probe-bind-address=127.0.0.1:{health}",
        "--enable-leader-election=false",
        "--qps=500",
        "--burst=1000",
    ]
    with _running(cluster, folder, "ray-operator", health, arguments):
        yield


OPERATORS: Final[Mapping[str, Callable[[ControlPlane, Path], AbstractContextManager[None]]]] = MappingProxyType(
    {"jobset": _jobset, "ray": _ray}
)
