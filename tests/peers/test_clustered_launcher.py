"""The SDK's own launcher finds in a JobSet's pods all that it needs.

It runs as in each pod, but for what is not here: PyTorch, in whose place a program tells its arguments, and the
cluster's DNS, in whose place every name is this machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.plugins.clustered import ClusteredPlugin
from tests.peers.sdk_templates.recorded import recorded

pytestmark = pytest.mark.peer

TORCHRUN = '#!/bin/sh\necho "$@"\n'
EVERY_NAME_IS_THIS_MACHINE = """
import socket, sys
ask = socket.getaddrinfo
def tell_and_ask(host, *arguments, **options):
    print("asked for", host, file=sys.stderr, flush=True)
    return ask("127.0.0.1", *arguments, **options)
socket.getaddrinfo = tell_and_ask
"""


def container_of(name: str) -> tuple[str, dict[str, Any]]:
    """The JobSet's name, and the container of each of its pods."""
    (one,) = (one for one in recorded("clustered-task") if one.name == name)
    job_set = anyio.run(ClusteredPlugin(setup_context()).build_resource, FakeTaskContext(one.message))
    made = msgspec.json.decode(job_set.to_json())
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return made["metadata"]["name"], pod["containers"][0]


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("flyte2-clustered-full", "0", ["--nnodes=4", "--nproc-per-node=8", "--node-rank=0", "--rdzv-backend=c10d"]),
        ("flyte2-clustered-full", "3", ["--nnodes=4", "--nproc-per-node=8", "--node-rank=3", "--rdzv-backend=c10d"]),
        ("flyte2-clustered-default", "1", ["--nnodes=2", "--nproc-per-node=1", "--node-rank=1"]),
    ],
)
def test_every_node_knows_its_rank_and_where_the_first_one_is(
    name: str, rank: str, expected: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("flyte")
    (tmp_path / "sitecustomize.py").write_text(EVERY_NAME_IS_THIS_MACHINE)
    (tmp_path / "torchrun").write_text(TORCHRUN)
    (tmp_path / "torchrun").chmod(0o755)
    job_set, container = container_of(name)
    told = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    by_cluster = {"JOBSET_NAME": job_set, "JOBSET_RESTART_ATTEMPT": "1", "POD_NAMESPACE": "ns"}
    by_job = {"JOB_COMPLETION_INDEX": rank}  # of an indexed Job
    by_engine = {"_U_RUN_BASE": str(tmp_path)}
    path = f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        container["args"],
        env={
            **told,
            **by_cluster,
            **by_job,
            **by_engine,
            "PATH": path,
            "PYTHONPATH": str(tmp_path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first_node = f"{job_set}-workers-0-0.{job_set}.ns.svc.cluster.local"
    assert f"asked for {first_node}" in done.stderr
    arguments = done.stdout.splitlines()[-1].split(" ")
    assert set(expected) <= set(arguments)
    assert any(
        argument.endswith(f"={first_node}:29500") or argument == f"--master-addr={first_node}" for argument in arguments
    )
    worker = arguments[arguments.index("--") + 1 :]
    assert worker[:3] == ["a0", *container["args"][1:3]]
