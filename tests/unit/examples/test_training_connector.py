"""The example of a third-party connector, installed and tested as its author would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from propfan.engine.taskfiles import read_tasks
from tests.unit.examples.commands import ROOT, run

EXAMPLE = ROOT / "examples" / "training_connector"
PROPFAN = (sys.executable, "-c", "from propfan.engine.cli import main; main()")


def copied_to(directory: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, directory / "example", ignore=shutil.ignore_patterns("__pycache__")))


def test_example_passes_its_own_tests_and_the_contract(tmp_path: Path) -> None:
    report = run(copied_to(tmp_path), "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in report
    assert "failed" not in report


def test_example_is_found_once_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", "installed")
    run(tmp_path, "-m", "pip", "install", *options, str(copied_to(tmp_path)))
    program = "from propfan.engine.cli import main; main()"
    found = run(tmp_path, "-c", program, "connector", "list", "--json", PYTHONPATH=str(tmp_path / "installed"))
    lines = {line["name"]: line for line in map(json.loads, found.splitlines())}
    assert lines["Training Connector"]["categories"] == [{"name": "train-classifier", "version": 0}]


def test_example_trains_as_the_documentation_says(tmp_path: Path) -> None:
    example = copied_to(tmp_path)
    (example / "service.yaml").write_text(f"connectors: {{training: {{folder: {tmp_path}/jobs}}}}")
    command = ("connector", "run", "moons.yaml", "-m", "training_connector:TrainingConnector", "-c", "service.yaml")
    done = subprocess.run([*PROPFAN, *command], cwd=example, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] > 0.95
    assert "succeeded: epoch 40 loss 0." in done.stderr


def test_task_file_is_good() -> None:
    (task,) = read_tasks(EXAMPLE / "moons.yaml")
    assert task.task_type == "train-classifier"


@pytest.mark.parametrize("name", ["pyproject.toml", "training_connector.py", "moons.yaml"])
def test_documentation_shows_the_example_as_it_is(name: str) -> None:
    page = (ROOT / "docs" / "writing-a-connector.md").read_text()
    language = {"toml": "toml", "py": "python", "yaml": "yaml"}[name.rpartition(".")[2]]
    assert f"```{language}\n{(EXAMPLE / name).read_text()}```" in page
