"""The example of a third-party plugin, installed and tested as its author would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "batch_job_plugin"

DISCOVER = """
import json
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import setup_context
registry = Registry()
registry.discover()
registry.load(setup_context(sections={"batch-job": {"backoff-limit": 5}}))
print(json.dumps([[p.id, p.task_types, p.watched, p.origin, p.error] for p in registry.describe() if p.id == "batch-job"]))
"""


def run(directory: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied_to(directory: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, directory / "example", ignore=shutil.ignore_patterns("__pycache__")))


def test_example_is_short() -> None:
    assert len((EXAMPLE / "batch_job.py").read_text().splitlines()) < 100


def test_example_passes_its_own_tests_and_the_contract(tmp_path: Path) -> None:
    report = run(copied_to(tmp_path), "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in report
    assert "failed" not in report


def test_example_is_found_once_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", "installed")
    example = copied_to(tmp_path)
    run(tmp_path, "-m", "pip", "install", *options, str(example))
    found = run(tmp_path, "-c", DISCOVER, PYTHONPATH=str(tmp_path / "installed"))
    assert found.strip() == '[["batch-job", ["batch-job"], "jobs.batch", "propfan-batch-job 1.0", ""]]'


@pytest.mark.parametrize("name", ["pyproject.toml", "batch_job.py", "test_batch_job.py"])
def test_documentation_shows_the_example_as_it_is(name: str) -> None:
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    assert f"```{'toml' if name.endswith('toml') else 'python'}\n{(EXAMPLE / name).read_text()}```" in page
