"""Programs as Flyte's documentation teaches them, run by the released SDK on ``propfan up``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.control_plane import PROGRAMS, RunningPlane

pytestmark = pytest.mark.peer

EXPECTED: dict[str, Any] = {
    "aborting": ["ABORTED", "ABORTED"],
    "caching": [True, True, True, True],
    "conditions": "said True",
    "containers": [
        "18.84955592153876",
        "3",
        "True",
        "'two words!'",
        "datetime.datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=datetime.timezone.utc)",
        "datetime.timedelta(seconds=3601, microseconds=500000)",
        "'a,b,label,wait,when'",
        "QUIETend",
        "first,second",
        "source.txt",
        "OutputUploadFailed, output 'missing': no such file",
        "Error, exit code (3), broken",
    ],
    "deployed": [7, 5, True],
    "failure": {"phase": "FAILED", "error": {"code": "ValueError", "message": "no good: 3"}},
    "fan_out": 30,
    "files": ["some text", 2, "some text"],
    "frames": 14,
    "mapping": ["2", "RuntimeUserError", "4"],
    "nesting": ["3", "KeyError", "'negative'"],
    "overrides": [["red1", "blue2", "more"], True],
    "reports": [1, "<h1>hello</h1>"],
    "retries": [2, 3, [[1, "attempt 0"], [2, "attempt 1"], [3, ""]]],
    "secret_values": ["secret", True],
    "timeouts": "TaskTimeoutError",
    "traces": ["traced 5", [1, 2]],
    "typed": ["blue 6 4.5 q", 1767323055.0, "None", 6],
}
"""What each program prints."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlane]:
    with RunningPlane.started(tmp_path_factory.mktemp("plane")) as running:
        yield running


def test_every_program_is_expected_to_say_something() -> None:
    told_elsewhere = {"restarted", "secured"}
    programs = {path.stem for path in PROGRAMS.glob("*.py") if "\nimport client\n" in path.read_text()}
    assert programs == {*EXPECTED, *told_elsewhere}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_sdk_completes_a_program(name: str, plane: RunningPlane) -> None:
    if name == "frames":
        pytest.importorskip("pandas", reason="pandas is not installed: data frames are left out")
    said = plane.run_program(name)
    if name == "reports":
        assert said[0] == 1
        assert EXPECTED[name][1] in said[1]
    else:
        assert said == EXPECTED[name]
