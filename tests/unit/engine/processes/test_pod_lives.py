"""What becomes of a pod: real processes, and the status that a kubelet would write."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from propfan.engine.cluster import EVENT, POD
from propfan.engine.processes import BackOff, Capacity, pod_worker
from propfan.engine.processes.environment import SECRET
from propfan.engine.processes.supervisor import start_ticks
from tests.unit.engine.processes.machine import (
    NAMESPACE,
    Json,
    condition,
    has_ended,
    is_gone,
    is_running,
    is_unschedulable,
    machine,
    record_of,
    shell,
    terminated,
    until_file,
    until_process_ends,
    waits_because_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Opening it for writing waits for a reader, and the other way round."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_a_container_that_exits_with_0_makes_its_pod_succeed(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run("ok", shell("echo said; echo also >&2"))
        assert found["spec"]["nodeName"] == "local"
        assert found["status"]["phase"] == "Succeeded"
        assert terminated(found)["reason"] == "Completed"
        assert "message" not in terminated(found)
        assert condition(found, "Ready")["reason"] == "PodCompleted"
        assert condition(found, "PodScheduled")["status"] == "True"
        status = found["status"]["containerStatuses"][0]
        assert status["containerID"].startswith("process://")
        assert (status["ready"], status["started"], status["restartCount"], status["imageID"]) == (False, False, 0, "")
        assert m.log("ok") == "said\nalso\n"


async def test_a_running_pod_is_ready(tmp_path: Path, fifo: Path) -> None:
    async with machine(tmp_path) as m:
        await m.create("on", shell(f"cat {fifo}"))
        found = await m.until("on", is_running)
        status = found["status"]["containerStatuses"][0]
        assert (status["ready"], status["started"]) == (True, True)
        assert status["state"]["running"]["startedAt"] >= found["status"]["startTime"]
        assert condition(found, "Ready")["status"] == "True"
        await anyio.to_thread.run_sync(fifo.write_text, "")
        assert (await m.until("on", has_ended))["status"]["phase"] == "Succeeded"


async def test_a_failure_has_its_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run("bad", shell("for i in $(seq 200); do echo line $i; done; exit 3"))
        assert found["status"]["phase"] == "Failed"
        assert (terminated(found)["exitCode"], terminated(found)["reason"]) == (3, "Error")
        lines = terminated(found)["message"].splitlines()
        assert (len(lines), lines[-1]) == (80, "line 200")


async def test_a_signal_is_128_and_its_number(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        end = terminated(await m.run("killed", shell("kill -9 $$$$")))
        assert (end["exitCode"], end["signal"], end["reason"]) == (137, 9, "Error")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": ["no-such-program"]}, 'exec: "no-such-program": executable file not found in $PATH'),
        ({"command": ["/no/such"]}, 'exec: "/no/such": No such file or directory'),
        ({"command": ["/etc/passwd"]}, 'exec: "/etc/passwd": Permission denied'),
    ],
)
async def test_what_can_not_be_executed_is_a_start_error(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    async with machine(tmp_path) as m:
        end = terminated(await m.run("none", shell("", **fields)))
        assert (end["exitCode"], end["reason"], end["message"]) == (128, "StartError", message)


async def test_more_memory_than_the_limit_is_oom_killed(tmp_path: Path, fifo: Path) -> None:
    limits: dict[str, Any] = {"resources": {"limits": {"memory": "64Mi"}}}
    hog = f"python -c \"x = b'x' * (200 << 20); open('{fifo}').read()\""
    async with machine(tmp_path) as m:
        found = await m.run("hog", shell(hog, **limits))
        assert found["status"]["phase"] == "Failed"
        assert (terminated(found)["exitCode"], terminated(found)["reason"]) == (137, "OOMKilled")


async def test_the_memory_of_grandchildren_counts(tmp_path: Path, fifo: Path) -> None:
    limits: dict[str, Any] = {"resources": {"limits": {"memory": "64Mi"}}}
    hog = f"setsid python -c \"x = b'x' * (200 << 20); open('{fifo}').read()\" & wait"
    async with machine(tmp_path) as m:
        assert terminated(await m.run("hog", shell(hog, **limits)))["reason"] == "OOMKilled"


async def test_the_deadline_fails_the_pod(tmp_path: Path, fifo: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run("late", shell(f"exec cat {fifo}"), activeDeadlineSeconds=1)
        assert (found["status"]["phase"], found["status"]["reason"]) == ("Failed", "DeadlineExceeded")
        assert terminated(found)["exitCode"] == 143


async def test_init_containers_run_one_after_the_other_and_before_the_rest(tmp_path: Path) -> None:
    note = tmp_path / "note"
    init = [shell(f"echo {name} >> {note}", name) for name in ("first", "second")]
    async with machine(tmp_path) as m:
        found = await m.run("init", shell(f"echo main >> {note}"), initContainers=init)
        assert found["status"]["phase"] == "Succeeded"
        assert note.read_text() == "first\nsecond\nmain\n"
        assert [s["ready"] for s in found["status"]["initContainerStatuses"]] == [True, True]


async def test_a_failed_init_container_fails_the_pod(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run("init", shell("true"), initContainers=[shell("exit 5", "first")])
        assert found["status"]["phase"] == "Failed"
        assert terminated(found, of="initContainerStatuses")["exitCode"] == 5
        assert found["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
        assert condition(found, "Initialized")["message"] == "containers with incomplete status: [first]"


async def test_a_sidecar_runs_beside_the_container_and_is_ended_after_it(tmp_path: Path, fifo: Path) -> None:
    script = f"trap 'echo ended; exit 0' TERM; echo up > {fifo}; while :; do sleep 0.01; done"
    sidecar = shell(script, "helper", restartPolicy="Always")
    async with machine(tmp_path) as m:
        found = await m.run("beside", shell(f"cat {fifo}; exit 0"), initContainers=[sidecar])
        assert found["status"]["phase"] == "Succeeded"
        assert m.log("beside") == "up\n"
        assert m.log("beside", "helper").endswith("ended\n")


async def test_a_sidecar_that_ends_is_started_again(tmp_path: Path, fifo: Path) -> None:
    flag = tmp_path / "flag"
    sidecar = shell(f"test -e {flag} && echo again > {fifo}; touch {flag}", "helper", restartPolicy="Always")
    async with machine(tmp_path) as m:
        found = await m.run("again", shell(f"head -n 1 {fifo}"), initContainers=[sidecar])
        assert found["status"]["phase"] == "Succeeded"
        assert m.log("again") == "again\n"
        assert found["status"]["initContainerStatuses"][0]["restartCount"] >= 1


async def test_a_sidecar_that_can_not_be_created_does_not_hold_up_the_end(tmp_path: Path) -> None:
    wants = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "none", "key": "token"}}}]
    sidecar = shell("true", "helper", restartPolicy="Always", env=wants)
    async with machine(tmp_path) as m:
        await m.create("p", shell("true"), initContainers=[sidecar], metadata={"finalizers": ["tests/keep"]})
        await m.until("p", waits_because_of("CreateContainerConfigError"))
        await m.cluster.delete(POD, NAMESPACE, "p")
        assert (await m.until("p", has_ended))["status"]["phase"] == "Failed"
        await m.cluster.patch(POD, NAMESPACE, "p", {"metadata": {"finalizers": None}})
        await m.until("p", is_gone)


async def test_on_failure_restarts_until_it_succeeds(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; test $(wc -l < {count}) -ge 4"
    async with machine(tmp_path) as m:
        found = await m.run("flaky", shell(script), restartPolicy="OnFailure")
        assert found["status"]["phase"] == "Succeeded"
        status = found["status"]["containerStatuses"][0]
        assert status["restartCount"] == 3
        assert status["lastState"]["terminated"]["exitCode"] == 1


async def test_a_container_that_keeps_failing_is_backed_off(tmp_path: Path) -> None:
    async with machine(tmp_path, back_off=BackOff(initial_s=3600, maximum_s=3600)) as m:
        uid = await m.create("loop", shell("exit 1"), restartPolicy="Always")
        found = await m.until("loop", waits_because_of("CrashLoopBackOff"))
        status = found["status"]["containerStatuses"][0]
        assert found["status"]["phase"] == "Running"
        assert status["state"]["waiting"]["message"] == (
            f"back-off 3600s restarting failed container=main pod=loop_{NAMESPACE}({uid})"
        )
        assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 1)


async def test_two_containers_run_at_once(tmp_path: Path, fifo: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run("pair", shell(f"echo hello > {fifo}", "a"), shell(f"cat {fifo}; exit 4", "b"))
        assert m.log("pair", "b") == "hello\n"
        assert found["status"]["phase"] == "Failed"
        assert [s["state"]["terminated"]["exitCode"] for s in found["status"]["containerStatuses"]] == [0, 4]


async def test_the_end_of_one_container_is_told_while_another_runs(tmp_path: Path, fifo: Path) -> None:
    def first_has_ended(found: Json) -> bool:
        return is_running(found) and "terminated" in found["status"]["containerStatuses"][0]["state"]

    async with machine(tmp_path) as m:
        await m.create("pair", shell("exit 4", "a"), shell(f"cat {fifo}", "b"))
        found = await m.until("pair", first_has_ended)
        assert "running" in found["status"]["containerStatuses"][1]["state"]
        await anyio.to_thread.run_sync(fifo.write_text, "")
        await m.until("pair", has_ended)


async def test_a_deleted_pod_gets_sigterm_and_goes(tmp_path: Path, fifo: Path) -> None:
    script = f"trap 'echo bye > {fifo}; exit 0' TERM; echo up > {fifo}; while :; do sleep 0.01; done"
    async with machine(tmp_path) as m:
        uid = await m.create("gone", shell(script))
        assert await until_file(fifo) == "up\n"
        await m.cluster.delete(POD, NAMESPACE, "gone")
        assert await until_file(fifo) == "bye\n"
        await m.until("gone", is_gone)
        assert not (m.data_dir / "pods" / uid).exists()


async def test_what_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path, fifo: Path) -> None:
    async with machine(tmp_path) as m:
        uid = await m.create("deaf", shell(f"trap '' TERM; echo up > {fifo}; while :; do sleep 0.01; done"))
        await until_file(fifo)
        record = record_of(m.data_dir, uid)
        await m.cluster.delete(POD, NAMESPACE, "deaf", grace_period_s=1)
        await m.until("deaf", is_gone)
        assert not start_ticks(record.pid)


async def test_a_grace_period_can_be_shortened(tmp_path: Path, fifo: Path) -> None:
    async with machine(tmp_path) as m:
        await m.create("deaf", shell(f"trap '' TERM; echo up > {fifo}; while :; do sleep 0.01; done"))
        await until_file(fifo)
        await m.cluster.delete(POD, NAMESPACE, "deaf", grace_period_s=3600)
        await m.cluster.delete(POD, NAMESPACE, "deaf", grace_period_s=1)
        await m.until("deaf", is_gone)


@pytest.mark.parametrize("detached", ["", "setsid"])
async def test_grandchildren_end_with_the_container(tmp_path: Path, fifo: Path, detached: str) -> None:
    async with machine(tmp_path) as m:
        await m.create(
            "parent", shell(f"{detached} sh -c 'echo $$$$ > {fifo}; exec sleep 1000' & cat {fifo}.end; exit 0")
        )
        os.mkfifo(f"{fifo}.end")
        pid = int(await until_file(fifo))
        ticks = start_ticks(pid)
        assert ticks
        await m.cluster.delete(POD, NAMESPACE, "parent")
        await m.until("parent", is_gone)
        assert start_ticks(pid) != ticks


async def test_a_pod_that_vanishes_takes_its_processes_with_it(tmp_path: Path, fifo: Path) -> None:
    async with machine(tmp_path) as m:
        uid = await m.create("gone", shell(f"trap '' TERM; echo up > {fifo}; while :; do sleep 0.01; done"))
        await until_file(fifo)
        record = record_of(m.data_dir, uid)
        await m.cluster.delete(POD, NAMESPACE, "gone", grace_period_s=0)
        await until_process_ends(record.supervisor_pid, record.supervisor_ticks)
        assert not start_ticks(record.pid)


async def test_a_pod_without_room_waits_and_is_placed_when_there_is(tmp_path: Path, fifo: Path) -> None:
    wants: dict[str, Any] = {"resources": {"requests": {"cpu": "700m"}}}
    async with machine(tmp_path, capacity=Capacity(cpu="1")) as m:
        await m.create("one", shell(f"cat {fifo}", **wants))
        await m.until("one", is_running)
        await m.create("two", shell("true", **wants))
        found = await m.until("two", is_unschedulable)
        assert found["status"]["phase"] == "Pending"
        assert condition(found, "PodScheduled")["reason"] == "Unschedulable"
        assert condition(found, "PodScheduled")["message"] == "0/1 nodes are available: 1 Insufficient cpu."
        await anyio.to_thread.run_sync(fifo.write_text, "")
        assert (await m.until("two", has_ended))["status"]["phase"] == "Succeeded"


async def test_a_waiting_pod_can_be_deleted(tmp_path: Path) -> None:
    async with machine(tmp_path, capacity=Capacity(cpu="1")) as m:
        await m.create("big", shell("true", resources={"requests": {"cpu": "2"}}))
        message = condition(await m.until("big", is_unschedulable), "PodScheduled")["message"]
        assert "can never be placed" in message
        await m.cluster.delete(POD, NAMESPACE, "big")
        await m.until("big", is_gone)


@pytest.mark.parametrize(
    ("fields", "spec", "message"),
    [
        ({"command": None}, {}, "no command specified"),
        ({"workingDir": "/no/such"}, {}, "workingDir '/no/such' is no directory of this machine"),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/data"}]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
            "volume 'v' at /data: a local process can be given an emptyDir only",
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/data/../etc"}]},
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            "a mount path is absolute, not '/', and has no '..'",
        ),
        ({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {}}}]}, {}, "valueFrom names no source"),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}, {}, "fieldRef: 'x' is not supported"),
    ],
)
async def test_what_can_not_be_done_is_refused_and_nothing_runs(
    tmp_path: Path, fields: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    note = tmp_path / "note"
    async with machine(tmp_path) as m:
        await m.create("no", shell(f"echo x > {note}", **fields), **spec)
        found = await m.until("no", waits_because_of("CreateContainerConfigError"))
        assert message in found["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        assert found["status"]["phase"] == "Pending"
        assert condition(found, "Ready")["reason"] == "ContainersNotReady"
        await m.cluster.delete(POD, NAMESPACE, "no")
        await m.until("no", is_gone)
        assert not note.exists()


async def test_a_missing_secret_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_worker, "CREATE_RETRY_S", 0.01)
    wants = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]
    secret = {"metadata": {"namespace": NAMESPACE, "name": "s"}, "data": {"token": "aGlkZGVu"}}
    async with machine(tmp_path) as m:
        await m.create("p", shell("echo $TOKEN $HOSTNAME", env=wants))
        found = await m.until("p", waits_because_of("CreateContainerConfigError"))
        assert found["status"]["containerStatuses"][0]["state"]["waiting"]["message"] == 'secret "s" not found'
        await m.cluster.create(SECRET, json.dumps({"apiVersion": "v1", "kind": "Secret", **secret}).encode())
        assert (await m.until("p", has_ended))["status"]["phase"] == "Succeeded"
        assert m.log("p") == "hidden p\n"


async def test_containers_share_a_scratch_directory_that_is_theirs_alone(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        init = [shell("echo shared > note", "first")]
        found = await m.run("p", shell("cat note; pwd; exit 1"), initContainers=init)
        uid = found["metadata"]["uid"]
        assert m.log("p") == f"shared\n{m.data_dir}/pods/{uid}/work\n"


async def test_a_working_directory_of_the_machine_is_used(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        await m.run("p", shell("pwd", workingDir=str(tmp_path)))
        assert m.log("p") == f"{tmp_path}\n"


async def test_shared_memory_is_the_machine_s(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run(
            "p",
            shell("test -d /dev/shm", volumeMounts=[{"name": "v", "mountPath": "/dev/shm"}]),
            volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "unused", "hostPath": {"path": "/"}}],
        )
        assert found["status"]["phase"] == "Succeeded"


async def test_the_engine_s_own_programs_are_found_and_its_variables_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_TOKEN", "hidden")
    async with machine(tmp_path) as m:
        await m.run(
            "p",
            {"name": "main", "command": ["python", "-c"], "args": ["import os, sys; print(sys.prefix, *os.environ)"]},
        )
        prefix, *names = m.log("p").split()
        assert prefix == sys.prefix
        assert "ENGINE_TOKEN" not in names
        assert {"HOSTNAME", "PATH"} <= set(names)


async def test_a_pod_that_no_api_server_would_admit_fails(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        found = await m.run("odd", shell("true", resources={"requests": {"cpu": "many"}}))
        assert (found["status"]["phase"], found["status"]["reason"]) == ("Failed", "InvalidPod")
        found = await m.run("odder", shell("true", "../../up"))
        assert "'../../up' is no name" in found["status"]["message"]


async def test_what_is_left_out_is_said_in_an_event(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        await m.run("probed", shell("true", livenessProbe={"exec": {"command": ["true"]}}))
        events = [json.loads(o.raw) for o in (await m.cluster.list(EVENT, namespace=NAMESPACE)).items]
        assert [(e["regarding"]["name"], e["note"]) for e in events] == [
            ("probed", "livenessProbe of container main: not provided to local processes, and left out")
        ]


async def test_pods_of_other_nodes_are_left_alone(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        await m.create("theirs", shell("true"), nodeName="elsewhere")
        await m.run("ours", shell("true"))
        found = json.loads((await m.cluster.get(POD, NAMESPACE, "theirs")).raw)
        assert found["status"] == {"phase": "Pending"}


async def test_300_pods_at_once_all_succeed(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        async with anyio.create_task_group() as tasks:
            for index in range(300):
                tasks.start_soon(m.run, f"p{index}", shell(f"exit {index % 2}"))
        listed = await m.cluster.list(POD, namespace=NAMESPACE, limit=0)
        codes = {o.metadata.name: terminated(json.loads(o.raw))["exitCode"] for o in listed.items}
        assert codes == {f"p{index}": index % 2 for index in range(300)}
