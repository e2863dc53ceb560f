"""An engine that is killed, or that leaves, loses no container, no exit code, and runs nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import POD
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.processes import OnExit, ProcessRuntime
from propfan.engine.processes.process import ProcessRecord
from propfan.engine.processes.supervisor import boot_id, start_ticks
from propfan.pluginmachinery.errors import ConfigError
from tests.unit.engine.processes.machine import (
    AMPLE,
    NAMESPACE,
    condition,
    has_ended,
    is_gone,
    is_running,
    machine,
    pod,
    record_of,
    shell,
    terminated,
    until,
    until_file,
    until_process_ends,
)

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[4]


def spawn(folder: Path, bodies: Sequence[bytes]) -> subprocess.Popen[bytes]:
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.engine.processes.engine_process", str(folder)],
        stdin=subprocess.PIPE,
        cwd=ROOT,
    )
    assert program.stdin is not None
    with program.stdin as pipe:
        pipe.write(b"\n".join(bodies))
    return program


@asynccontextmanager
async def engine(folder: Path, *bodies: bytes) -> AsyncIterator[subprocess.Popen[bytes]]:
    """An engine in a process of its own; killed with SIGKILL at the latest when the block ends."""
    program = spawn(folder, bodies)
    try:
        yield program
    finally:
        program.kill()
        await anyio.to_thread.run_sync(program.wait)


@asynccontextmanager
async def successor(folder: Path, **options: Any) -> AsyncIterator[tuple[EmbeddedCluster, ProcessRuntime]]:
    async with (
        EmbeddedCluster.open(folder / "cluster.db") as cluster,
        ProcessRuntime(cluster, data_dir=folder / "processes", capacity=AMPLE, **options) as runtime,
    ):
        yield cluster, runtime


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def uid_of(folder: Path) -> str:
    """Of the only pod."""
    (directory,) = (folder / "processes" / "pods").iterdir()
    return directory.name


def fifo(folder: Path, name: str) -> Path:
    path = folder / name
    os.mkfifo(path)
    return path


async def test_a_running_container_is_taken_over(tmp_path: Path) -> None:
    up, go, runs = fifo(tmp_path, "up"), fifo(tmp_path, "go"), tmp_path / "runs"
    body = pod("p", shell(f"echo run >> {runs}; echo up > {up}; cat {go}; exit 7"))
    async with engine(tmp_path, body):
        await until_file(up)
    before = record_of(tmp_path / "processes", uid_of(tmp_path))
    async with successor(tmp_path) as (cluster, _):
        found = await until(cluster, "p", is_running)
        assert found["status"]["containerStatuses"][0]["containerID"] == before.container_id
        await anyio.to_thread.run_sync(go.write_text, "")
        found = await until(cluster, "p", has_ended)
    assert (terminated(found)["exitCode"], terminated(found)["reason"]) == (7, "Error")
    assert runs.read_text() == "run\n"


async def test_the_exit_code_of_a_container_that_ended_unwatched_is_known(tmp_path: Path) -> None:
    up, go, runs = fifo(tmp_path, "up"), fifo(tmp_path, "go"), tmp_path / "runs"
    body = pod("p", shell(f"echo run >> {runs}; echo up > {up}; cat {go}; echo last words; exit 7"))
    async with engine(tmp_path, body):
        await until_file(up)
    record = record_of(tmp_path / "processes", uid_of(tmp_path))
    await anyio.to_thread.run_sync(go.write_text, "")
    await until_process_ends(record.supervisor_pid, record.supervisor_ticks)
    async with successor(tmp_path) as (cluster, _):
        found = await until(cluster, "p", has_ended)
    assert (terminated(found)["exitCode"], terminated(found)["message"]) == (7, "last words\n")
    assert runs.read_text() == "run\n"


async def test_many_pods_survive_a_crash_at_any_moment(tmp_path: Path) -> None:
    count, runs, up = 60, tmp_path / "runs", fifo(tmp_path, "up")
    runs.mkdir()
    bodies = [pod(f"p{i}", shell(f"echo run >> {runs}/{i}; exit {i % 3}")) for i in range(count)]
    bodies.insert(count // 2, pod("signal", shell(f"echo up > {up}")))
    async with engine(tmp_path, *bodies):
        await until_file(up)  # killed in the middle of it: some have ended, some are starting, some unknown yet
    async with successor(tmp_path) as (cluster, _):
        for observed in (await cluster.list(POD, limit=0)).items:
            found = await until(cluster, observed.metadata.name, has_ended)
            if observed.metadata.name != "signal":
                index = int(observed.metadata.name[1:])
                assert terminated(found)["exitCode"] == index % 3
                assert (runs / str(index)).read_text() == "run\n"


async def test_a_container_whose_supervisor_was_killed_is_lost_and_not_repeated(tmp_path: Path) -> None:
    up, runs = fifo(tmp_path, "up"), tmp_path / "runs"
    script = f"echo run >> {runs}; setsid sleep 1000 & echo $! > {up}; wait"
    async with machine(tmp_path) as m:
        uid = await m.create("p", shell(script))
        grandchild = int(await until_file(up))
        ticks = start_ticks(grandchild)
        os.kill(record_of(m.data_dir, uid).supervisor_pid, signal.SIGKILL)
        found = await m.until("p", has_ended)
        assert (terminated(found)["exitCode"], terminated(found)["reason"]) == (137, "ContainerStatusUnknown")
        await until_process_ends(grandchild, ticks)
    assert runs.read_text() == "run\n"


async def test_a_container_that_only_its_status_knows_is_not_repeated(tmp_path: Path) -> None:
    status = {
        "phase": "Running",
        "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [
            {
                "name": "main",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "containerID": "process://1-1",
                "restartCount": 0,
                "ready": True,
            }
        ],
    }
    async with EmbeddedCluster.open() as cluster:
        await cluster.create(POD, pod("p", shell(f"touch {tmp_path}/ran"), nodeName="local"))
        await cluster.patch(POD, NAMESPACE, "p", {"status": status}, subresource="status")
        async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
            found = await until(cluster, "p", has_ended)
    assert terminated(found)["reason"] == "ContainerStatusUnknown"
    assert not (tmp_path / "ran").exists()


async def test_a_launch_that_was_written_and_not_begun_is_run_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    async with EmbeddedCluster.open() as cluster:
        created = await cluster.create(POD, pod("p", shell(f"echo run >> {runs}"), nodeName="local"))
        launch = tmp_path / "processes" / "pods" / created.metadata.uid / "launches" / "main" / "0"
        launch.mkdir(parents=True)
        (launch / "launch.json").write_text("{")
        async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
            assert (await until(cluster, "p", has_ended))["status"]["phase"] == "Succeeded"
    assert runs.read_text() == "run\n"


async def test_a_process_of_an_earlier_boot_is_lost(tmp_path: Path) -> None:
    record = ProcessRecord(os.getpid(), start_ticks(os.getpid()), os.getpid(), 1, "another boot", 0.0)
    async with EmbeddedCluster.open() as cluster:
        created = await cluster.create(POD, pod("p", shell(f"touch {tmp_path}/ran"), nodeName="local"))
        launch = tmp_path / "processes" / "pods" / created.metadata.uid / "launches" / "main" / "0"
        launch.mkdir(parents=True)
        (launch / "process.json").write_bytes(msgspec.json.encode(record))
        async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
            assert terminated(await until(cluster, "p", has_ended))["reason"] == "ContainerStatusUnknown"
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as program:
        yield program
        program.kill()


async def test_a_pid_that_belongs_to_another_process_now_is_left_alone(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    record = ProcessRecord(bystander.pid, 1, bystander.pid, 1, boot_id(), 0.0)
    async with EmbeddedCluster.open() as cluster:
        created = await cluster.create(POD, pod("p", shell("true"), nodeName="local"))
        launch = tmp_path / "processes" / "pods" / created.metadata.uid / "launches" / "main" / "0"
        launch.mkdir(parents=True)
        (launch / "process.json").write_bytes(msgspec.json.encode(record))
        await cluster.delete(POD, NAMESPACE, "p")
        async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
            await until(cluster, "p", is_gone)
    assert bystander.poll() is None


async def test_a_restarted_container_goes_on_counting_after_a_crash(tmp_path: Path) -> None:
    up, go = fifo(tmp_path, "up"), fifo(tmp_path, "go")
    script = f"test -e {tmp_path}/flag && {{ echo up > {up}; cat {go}; exit 0; }}; touch {tmp_path}/flag; exit 1"
    async with engine(tmp_path, pod("p", shell(script), restartPolicy="OnFailure")):
        await until_file(up)
    async with successor(tmp_path) as (cluster, _):
        await until(cluster, "p", is_running)
        await anyio.to_thread.run_sync(go.write_text, "")
        found = await until(cluster, "p", has_ended)
    assert found["status"]["phase"] == "Succeeded"
    assert found["status"]["containerStatuses"][0]["restartCount"] == 1


async def test_a_pod_deleted_while_no_engine_ran_loses_its_processes(tmp_path: Path) -> None:
    up = fifo(tmp_path, "up")
    async with engine(tmp_path, pod("p", shell(f"echo up > {up}; exec sleep 1000"))):
        await until_file(up)
    record = record_of(tmp_path / "processes", uid_of(tmp_path))
    async with EmbeddedCluster.open(tmp_path / "cluster.db") as cluster:
        await cluster.delete(POD, NAMESPACE, "p", grace_period_s=0)
    assert start_ticks(record.pid)
    async with successor(tmp_path):
        await until_process_ends(record.supervisor_pid, record.supervisor_ticks)
    assert not start_ticks(record.pid)


async def test_a_pod_being_deleted_is_deleted_by_the_next_engine(tmp_path: Path) -> None:
    up = fifo(tmp_path, "up")
    script = f"trap 'echo bye > {up}; exit 0' TERM; echo up > {up}; while :; do sleep 0.01; done"
    async with engine(tmp_path, pod("p", shell(script))):
        await until_file(up)
    async with EmbeddedCluster.open(tmp_path / "cluster.db") as cluster:
        await cluster.delete(POD, NAMESPACE, "p")
    async with successor(tmp_path) as (cluster, _):
        assert await until_file(up) == "bye\n"
        await until(cluster, "p", is_gone)


async def test_what_runs_is_looked_after_even_if_it_could_not_be_started_any_more(tmp_path: Path) -> None:
    up, go, place = fifo(tmp_path, "up"), fifo(tmp_path, "go"), tmp_path / "place"
    place.mkdir()
    async with engine(tmp_path, pod("p", shell(f"echo up > {up}; cat {go}; exit 7", workingDir=str(place)))):
        await until_file(up)
    place.rmdir()
    async with successor(tmp_path) as (cluster, _):
        await anyio.to_thread.run_sync(go.write_text, "")
        assert terminated(await until(cluster, "p", has_ended))["exitCode"] == 7


async def test_stopping_ends_all_pods_as_a_node_shutdown(tmp_path: Path) -> None:
    async with EmbeddedCluster.open() as cluster:
        async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
            await cluster.create(POD, pod("p", shell("exec sleep 1000")))
            await until(cluster, "p", is_running)
            record = record_of(tmp_path / "processes", uid_of(tmp_path))
        found = json.loads((await cluster.get(POD, NAMESPACE, "p")).raw)
    assert (found["status"]["phase"], found["status"]["reason"]) == ("Failed", "EngineStopped")
    assert condition(found, "Ready")["reason"] == "PodFailed"
    assert not start_ticks(record.supervisor_pid)
    assert not start_ticks(record.pid)


async def test_a_cancelled_runtime_stops_all_pods(tmp_path: Path) -> None:
    async with EmbeddedCluster.open() as cluster:
        with anyio.CancelScope() as scope:
            async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
                await cluster.create(POD, pod("p", shell("exec sleep 1000")))
                await until(cluster, "p", is_running)
                record = record_of(tmp_path / "processes", uid_of(tmp_path))
                scope.cancel()
                await anyio.sleep_forever()
        assert json.loads((await cluster.get(POD, NAMESPACE, "p")).raw)["status"]["reason"] == "EngineStopped"
    assert not start_ticks(record.pid)


async def test_stopping_does_not_tell_of_the_killed_as_if_they_had_failed(tmp_path: Path) -> None:
    sidecar = shell("trap 'exit 0' TERM; while :; do sleep 0.01; done", "side", restartPolicy="Always")
    async with EmbeddedCluster.open() as cluster:
        async with ProcessRuntime(cluster, data_dir=tmp_path / "processes", capacity=AMPLE):
            await cluster.create(POD, pod("p", shell("exec sleep 1000"), initContainers=[sidecar]))
            version = (await until(cluster, "p", is_running))["metadata"]["resourceVersion"]
        async with cluster.watch(POD, resource_version=version) as batches:
            events = await anext(batches)
    assert [json.loads(e.object.raw)["status"]["phase"] for e in events] == ["Failed"]


async def test_detaching_leaves_pods_to_the_next_runtime(tmp_path: Path) -> None:
    go, runs = fifo(tmp_path, "go"), tmp_path / "runs"

    async with EmbeddedCluster.open() as cluster:
        async with ProcessRuntime(cluster, data_dir=tmp_path / "p", capacity=AMPLE, on_exit=OnExit.DETACH):
            await cluster.create(POD, pod("p", shell(f"echo run >> {runs}; cat {go}; exit 6")))
            await until(cluster, "p", is_running)
        async with ProcessRuntime(cluster, data_dir=tmp_path / "p", capacity=AMPLE):
            await until(cluster, "p", is_running)
            await anyio.to_thread.run_sync(go.write_text, "")
            assert terminated(await until(cluster, "p", has_ended))["exitCode"] == 6
    assert runs.read_text() == "run\n"


async def test_two_runtimes_can_not_share_a_directory(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        with pytest.raises(ConfigError, match="in use by another process runtime"):
            async with ProcessRuntime(m.cluster, data_dir=m.data_dir):
                pass


async def test_a_nursery_that_dies_is_replaced_and_costs_no_container(tmp_path: Path) -> None:
    up = fifo(tmp_path, "up")
    async with machine(tmp_path) as m:
        uid = await m.create("first", shell(f"echo up > {up}; cat {up}; exit 5"))
        await until_file(up)
        supervisor_pid = record_of(m.data_dir, uid).supervisor_pid
        os.kill(parent_of(supervisor_pid), signal.SIGKILL)
        assert (await m.run("second", shell("exit 0")))["status"]["phase"] == "Succeeded"
        await anyio.to_thread.run_sync(up.write_text, "")
        assert terminated(await m.until("first", has_ended))["exitCode"] == 5
