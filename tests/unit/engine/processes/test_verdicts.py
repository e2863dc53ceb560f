"""What local pods mean for their tasks: their statuses go through the phase mapping that is used on Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from propfan.engine.cluster import POD
from propfan.engine.processes import Capacity
from propfan.pluginmachinery import exit_codes
from propfan.pluginmachinery.errors import ENGINE_STOPPED
from propfan.pluginmachinery.loglinks import LinkPlan
from propfan.pluginmachinery.phases import ErrorKind, Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.podphase import PodPhases
from tests.unit.engine.processes.machine import (
    NAMESPACE,
    Json,
    Machine,
    has_ended,
    is_running,
    is_unschedulable,
    machine,
    shell,
    waits_because_of,
)

pytestmark = pytest.mark.anyio

PRIMARY = {"annotations": {"primary_container_name": "main"}}
REFUSED = waits_because_of("CreateContainerConfigError")


async def verdict(
    m: Machine, holds: Callable[[Json], bool], *containers: Json, metadata: Json = PRIMARY, **spec: Any
) -> PhaseInfo:
    """Of a task whose pod this is, when its status is so."""
    await m.create("p", *containers, metadata=metadata, **spec)
    await m.until("p", holds)
    phases = PodPhases()
    pod = phases.decode(await m.cluster.get(POD, NAMESPACE, "p"))
    return phases.phase(pod, LinkPlan(()), None, datetime.now(UTC), PluginState())


def error_of(found: PhaseInfo) -> tuple[str, ErrorKind]:
    assert found.error is not None
    return found.error.code, found.error.kind


async def test_exit_code_0_is_success(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        assert (await verdict(m, has_ended, shell("true"))).phase is Phase.SUCCESS


async def test_a_running_container_is_running(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        assert (await verdict(m, is_running, shell("exec sleep 1000"))).phase is Phase.RUNNING


async def test_a_primary_container_that_ends_beside_a_sidecar_is_judged_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    sidecar = shell(f"trap 'cat {fifo}; exit 0' TERM; while :; do sleep 0.01; done", "side", restartPolicy="Always")

    def main_has_ended(found: Json) -> bool:
        return is_running(found) and "terminated" in found["status"]["containerStatuses"][0]["state"]

    async with machine(tmp_path) as m:
        found = await verdict(m, main_has_ended, shell("echo oh; exit 2"), initContainers=[sidecar])
        assert (found.phase, *error_of(found)) == (Phase.RETRYABLE_FAILURE, "Error", ErrorKind.USER)
        assert found.error is not None
        assert "exit code (2). Reason [Error]. Message: \noh\n" in found.error.message
        await anyio.to_thread.run_sync(fifo.write_text, "")
        await m.until("p", has_ended)


async def test_too_much_memory_is_the_task_s_fault(tmp_path: Path) -> None:
    script = "import signal; x = b'x' * (200 << 20); signal.pause()"
    hog = {"name": "main", "command": ["python", "-c", script], "resources": {"limits": {"memory": "64Mi"}}}
    async with machine(tmp_path) as m:
        found = await verdict(m, has_ended, hog)
        assert (found.phase, *error_of(found)) == (Phase.RETRYABLE_FAILURE, "OOMKilled", ErrorKind.USER)


async def test_a_deadline_is_the_task_s_fault(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        found = await verdict(m, has_ended, shell("exec sleep 1000"), activeDeadlineSeconds=1)
        assert (found.phase, *error_of(found)) == (Phase.RETRYABLE_FAILURE, "DeadlineExceeded", ErrorKind.USER)


async def test_what_the_engine_stops_because_it_is_leaving_says_so(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        await m.create("p", shell("exec sleep 1000"))
        await m.until("p", is_running)
        m.runtime._workers.copy().popitem()[1].shut_down(1)
        await m.until("p", has_ended)
        phases = PodPhases()
        pod = phases.decode(await m.cluster.get(POD, NAMESPACE, "p"))
        found = exit_codes.charge(phases.phase(pod, LinkPlan(()), None, datetime.now(UTC), PluginState()), pod)
        assert (found.phase, *error_of(found)) == (Phase.RETRYABLE_FAILURE, ENGINE_STOPPED, ErrorKind.SYSTEM)


async def test_no_room_is_queued_with_the_reason(tmp_path: Path) -> None:
    async with machine(tmp_path, capacity=Capacity(cpu="1")) as m:
        found = await verdict(m, is_unschedulable, shell("true", resources={"requests": {"nvidia.com/gpu": "1"}}))
        assert found.phase is Phase.QUEUED
        assert found.reason.startswith("Unschedulable:0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": None}, "no command specified"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, 'secret "s" not found'),
    ],
)
async def test_what_can_not_be_created_fails_for_good(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    async with machine(tmp_path) as m:
        found = await verdict(m, REFUSED, shell("true", **fields))
        assert found.phase is Phase.PERMANENT_FAILURE
        assert error_of(found) == ("ContainersNotReady|CreateContainerConfigError", ErrorKind.USER)
        assert found.error is not None
        assert message in found.error.message
        assert found.cleanup_on_failure
