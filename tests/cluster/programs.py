"""The programs of a real cluster, built from their Go modules once and kept outside of the tree.

A folder ``go/<module>`` is a Go module whose ``tool`` directives name what is built. Its programs lie in
``<cache>/cluster/<module>-<digest>``, where the digest is of all that decides what they are; several processes may ask
at once, one builds.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from tests.cluster import cache

GO_MODULES = Path(__file__).with_name("go")


class Module(msgspec.Struct, frozen=True):
    """What is taken from a Go module."""

    programs: Mapping[str, str]
    """Each with the name that ``go build`` gives to it."""
    source: str = ""
    """The Go module that the manifests come from."""
    manifests: Mapping[str, str] = {}
    """Patterns of files in the source, and the folder beside the programs that they are copied to."""


MODULES: Final[Mapping[str, Module]] = MappingProxyType(
    {
        "etcd": Module({"etcd": "server"}),
        "kubernetes": Module(
            {name: name for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")}
        ),
        "kwok": Module({"kwok": "kwok"}),
        "training-operator": Module(
            {"training-operator": "training-operator.v1"},
            "github.com/kubeflow/training-operator",
            {"manifests/base/crds/kubeflow.org_*.yaml": "crds", "manifests/base/webhook/manifests.yaml": "webhooks"},
        ),
        "jobset": Module(
            {"jobset": "jobset"},
            "sigs.k8s.io/jobset",
            {"config/components/crd/bases/*.yaml": "crds", "config/components/webhook/manifests.yaml": "webhooks"},
        ),
        "ray-operator": Module(
            {"ray-operator": "ray-operator"},
            "github.com/ray-project/kuberay/ray-operator",
            {"config/crd/bases/*.yaml": "crds"},
        ),
        "spark-operator": Module(
            {"spark-operator": "operator"},
            "github.com/kubeflow/spark-operator/v2",
            {"config/crd/bases/*.yaml": "crds", "config/webhook/manifests.yaml": "webhooks"},
        ),
    }
)
"""By the folder of ``go/`` that builds it."""

CLUSTER_MODULES: Final = ("etcd", "kubernetes", "kwok")

KUBERNETES_VERSION = "v1.34.4"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
_VERSION = {"gitVersion": KUBERNETES_VERSION, "gitMajor": _MAJOR, "gitMinor": _MINOR}
_LINK = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in _VERSION.items())])
_BUILD = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", _LINK)
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOWORK": "off", "GOFLAGS": ""}
_NETWORK_ERRORS = ("dial tcp", "i/o timeout", "connection re", "TLS handshake", "proxyconnect", "no such host")

REPORT_EVERY_S = 15.0


def program(name: str) -> Path:
    """The path of a program such as ``kube-apiserver``; builds its module when needed, which takes minutes.

    Raises:
        UnavailableError: it is not built and can not be.
        RuntimeError: the build failed; the message has the compiler's last words.
    """
    module = next(module for module, parts in MODULES.items() if name in parts.programs)
    return build(module) / name


def folder(module: str) -> Path:
    """Where the programs of a module are, or will be."""
    parts = MODULES[module]
    decisive = repr((_BUILD, _ENVIRONMENT, dict(parts.programs), platform.system(), platform.machine()))
    if parts.manifests:
        decisive += repr((parts.source, parts.manifests))
    digest = hashlib.sha256(decisive.encode())
    for name in ("go.mod", "go.sum"):
        digest.update((GO_MODULES / module / name).read_bytes())
    return cache.folder() / f"{module}-{digest.hexdigest()[:16]}"


def build(module: str) -> Path:
    """The folder with the programs of a module, built unless it is there. Progress goes to standard error.

    Raises:
        UnavailableError, RuntimeError: as ``program``.
    """
    target = folder(module)
    if target.exists():
        return target
    with cache.exclusive(module):
        if not target.exists():  # else another process built it meanwhile
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{module}-") as scratch:
                built = Path(scratch) / "programs"
                _go_build(module, built)
                for ours, theirs in MODULES[module].programs.items():
                    (built / theirs).rename(built / ours)
                _copy_manifests(module, built)
                built.rename(target)
    return target


def _go_build(module: str, output: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise cache.UnavailableError(
            "the test cluster is not built, and there is no Go to build it with (https://go.dev/dl)"
        )
    cache.say(f"building {', '.join(MODULES[module].programs)} with {go}: some minutes, once")
    begin = reported = time.monotonic()
    command = [go, "build", "-v", *_BUILD, "-o", f"{output}/", "tool"]
    if nice := shutil.which("nice"):
        command = [nice, "-n", "10", *command]
    lines: list[str] = []
    environment = os.environ | _ENVIRONMENT
    with subprocess.Popen(
        command, cwd=GO_MODULES / module, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as compiler:
        assert compiler.stderr is not None
        for line in compiler.stderr:
            lines.append(line)
            if time.monotonic() - reported > REPORT_EVERY_S:
                reported = time.monotonic()
                cache.say(f"{module}: {len(lines)} steps in {reported - begin:.0f} s, now {line.strip()}")
    if compiler.returncode:
        last_words = "".join(lines[-20:])
        unreachable = any(mark in last_words for mark in _NETWORK_ERRORS)
        raise (cache.UnavailableError if unreachable else RuntimeError)(
            f"{' '.join(command)} in {GO_MODULES / module} failed:\n{last_words}"
        )
    cache.say(f"built {module} in {time.monotonic() - begin:.0f} s")


def _copy_manifests(module: str, built: Path) -> None:
    parts = MODULES[module]
    if not parts.manifests:
        return
    command = ["go", "list", "-m", "-f", "{{.Dir}}", parts.source]
    done = subprocess.run(
        command, cwd=GO_MODULES / module, env=os.environ | _ENVIRONMENT, capture_output=True, text=True, check=True
    )
    source = Path(done.stdout.strip())
    for pattern, folder_name in parts.manifests.items():
        (built / folder_name).mkdir()
        for path in source.glob(pattern):
            shutil.copyfile(path, built / folder_name / path.name)  # without the mode: Go's module cache is read-only
