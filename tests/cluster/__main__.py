"""``python -m tests.cluster``: a cluster of real parts for people. See ``--help``, and docs/testing.md."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.cluster import cache, operators, programs
from tests.cluster.control_plane import ControlPlane, Settings

CHECK_EVERY_S = 1.0
NOTHING_RUNS = 3
CLUSTER = "cluster"
BUILDS = (CLUSTER, *operators.OPERATORS)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="Runs a Kubernetes cluster of real parts on loopback; kwok plays the kubelets.",
        epilog="Pods do what their annotations ask for: tests/cluster/stages/pod.yaml.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster, print how to use it, and stop it on Ctrl-C")
    up.add_argument("--nodes", type=int, default=2, help="default: %(default)s")
    up.add_argument(
        "--with",
        dest="operators",
        default="",
        metavar="NAME[,NAME]",
        help=f"run these operators as well: {', '.join(operators.OPERATORS)}",
    )
    up.add_argument("--crds", default="", metavar="NAME[,NAME]", help="install only the kinds of these")
    up.add_argument("--kubeconfig", type=Path, help="also write the kubeconfig there")
    build = commands.add_parser("build", help="build the programs and exit")
    build.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(BUILDS)}")
    commands.add_parser("status", help=f"list running clusters; exit {NOTHING_RUNS} when there is none")
    commands.add_parser("down", help="stop every cluster that `up` started")
    commands.add_parser("clean", help="delete all that was built")
    options = parser.parse_args()
    for name in named(getattr(options, "operators", "")) + named(getattr(options, "crds", "")):
        if name not in operators.OPERATORS:
            parser.error(f"{name!r} is none of {', '.join(operators.OPERATORS)}")
    for name in getattr(options, "names", ()):
        if name not in BUILDS:
            parser.error(f"{name!r} is none of {', '.join(BUILDS)}")
    try:
        return run(options)
    except cache.UnavailableError as error:
        print(error, file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    match options.command:
        case "up":
            return run_cluster(options)
        case "build":
            for name in options.names or BUILDS:
                for module in programs.CLUSTER_MODULES if name == CLUSTER else ():
                    programs.build(module)
                if name != CLUSTER:
                    operators.prepare(name)
            print(cache.folder())
        case "status":
            found = [*running()]
            for entry in found:
                print(f"{entry['url']}  KUBECONFIG={entry['kubeconfig']}  pid {entry['pid']}")
            return 0 if found else NOTHING_RUNS
        case "down":
            for entry in running():
                os.kill(int(entry["pid"]), signal.SIGTERM)
        case "clean":
            shutil.rmtree(cache.folder(), ignore_errors=True)
    return 0


def run_cluster(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, interrupt)
    folder = Path(tempfile.mkdtemp(prefix="propfan-cluster-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        try:
            cluster = stack.enter_context(ControlPlane(folder / "cluster", Settings(nodes=options.nodes)))
            for name in named(options.crds):
                operators.install_crds(cluster, name)
            for name in named(options.operators):
                stack.enter_context(operators.running_operator(cluster, name))
            if options.kubeconfig:
                cluster.write_kubeconfig(options.kubeconfig, cluster.admin_token)
            stack.enter_context(listed(cluster))
            print(guide(cluster), flush=True)
            while not threading.Event().wait(CHECK_EVERY_S):
                ended = [process for process in cluster.processes.values() if not process.is_running]
                if ended:
                    print(f"{ended[0].name} ended:\n{ended[0].log_tail()}", file=sys.stderr)
                    return 1
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)
    return 0


def guide(cluster: ControlPlane) -> str:
    kubectl = programs.program("kubectl")
    return f"""
API server    {cluster.url}
kubeconfig    {cluster.kubeconfig}
logs          {cluster.directory / "logs"}

  export KUBECONFIG={cluster.kubeconfig}
  {kubectl} get nodes
  {kubectl} run hello --image busybox --restart Never --annotations kwok.propfan.test/run-for=5s
  {kubectl} get pods --watch

Ctrl-C stops it."""


@contextlib.contextmanager
def listed(cluster: ControlPlane) -> Iterator[None]:
    """Lets ``status`` and ``down`` find the cluster for as long as this process lives: it holds the file's lock."""
    folder = cache.folder() / "running"
    folder.mkdir(exist_ok=True)
    entry = {
        "pid": os.getpid(),
        "url": cluster.url,
        "kubeconfig": str(cluster.kubeconfig),
        "directory": str(cluster.directory.parent),
    }
    path = folder / f"{os.getpid()}.json"
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(entry, file)
        file.flush()
        try:
            yield
        finally:
            path.unlink()


def running() -> Iterator[Mapping[str, str]]:
    """What ``listed`` wrote and whose process lives; what a killed one left is deleted."""
    for path in (cache.folder() / "running").glob("*.json"):
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield json.load(file)
            else:
                shutil.rmtree(json.load(file)["directory"], ignore_errors=True)
                path.unlink()


def named(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
