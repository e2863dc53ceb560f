from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_program_runs_its_two_tasks_and_follows_them() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.embed"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert "hello: Completed after 1 attempts" in lines
    assert any(line.startswith("flaky: PermanentFailure after 2 attempts") for line in lines)
    phases = [line.split()[1:4] for line in lines if "  attempt " in line]
    assert ["attempt", "1", "SUCCEEDED"] in phases
    assert ["attempt", "1", "FAILED"] in phases
    assert ["attempt", "2", "QUEUED"] in phases
