from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flyte", reason="needs the 'flyte' extra")

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.peer
def test_every_task_of_the_demo_ends_as_it_should(tmp_path: Path) -> None:
    data_dir = tmp_path / "a folder"
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", str(data_dir)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"strip +12 +12 +12 +SUCCEEDED", done.stdout)
    assert re.search(r"flaky +1 +1 +3 +SUCCEEDED", done.stdout)
    assert re.search(r"broken +1 +0 +1 +FAILED +ZeroDivisionError: division by zero", done.stdout)
    assert "attempt 3 got through" in done.stdout
    assert "16 actions" in done.stdout
