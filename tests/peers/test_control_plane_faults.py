"""What becomes of runs when clients, or the control plane, go away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flyteidl2.common import identifier_pb2, phase_pb2
from flyteidl2.workflow import run_service_pb2
from flyteidl2.workflow.run_service_connect import RunServiceClientSync

from tests.peers.control_plane import RunningPlane

pytestmark = pytest.mark.peer

_WAIT_S = 240.0


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[RunningPlane]:
    with RunningPlane.started(tmp_path) as running:
        yield running


def runs(plane: RunningPlane) -> dict[str, int]:
    """Phases of all runs, by name."""
    request = run_service_pb2.ListRunsRequest(
        project_id=identifier_pb2.ProjectIdentifier(name="demo", domain="development")
    )
    found = RunServiceClientSync(plane.url).list_runs(request).runs
    return {run.action.id.run.name: run.action.status.phase for run in found}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not so within {_WAIT_S} s"
        time.sleep(0.2)


def test_a_run_goes_on_after_the_control_plane_was_killed_and_nothing_runs_twice(
    plane: RunningPlane, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    program = plane.begin_program("restarted", str(ledger))
    wait_until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == 2)
    plane.kill()
    plane.start()
    said, _ = program.communicate(timeout=_WAIT_S)
    assert json.loads(said.decode().splitlines()[-1]) == 1, said.decode()
    assert sorted(ledger.read_text().splitlines()) == ["0", "1"]


def test_a_run_is_completed_though_its_client_is_gone(plane: RunningPlane, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    program = plane.begin_program("restarted", str(ledger))
    wait_until(lambda: len(runs(plane)) == 1)
    program.kill()
    program.communicate()
    wait_until(lambda: list(runs(plane).values()) == [phase_pb2.ACTION_PHASE_SUCCEEDED])


def test_two_clients_at_once_get_each_its_own(plane: RunningPlane) -> None:
    programs = [plane.begin_program("fan_out"), plane.begin_program("nesting")]
    said = [json.loads(program.communicate(timeout=_WAIT_S)[0].decode().splitlines()[-1]) for program in programs]
    assert said == [30, ["3", "KeyError", "'negative'"]]


def test_it_stops_on_ctrl_c_and_says_so_by_its_exit_code(tmp_path: Path) -> None:
    plane = RunningPlane(tmp_path)
    plane.start()
    assert plane.stop() == 0
