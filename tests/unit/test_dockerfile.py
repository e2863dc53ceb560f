"""The image is what the printed manifests run."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from propfan.engine.manifests import documents

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def after(keyword: str) -> str:
    """What follows the last line with this keyword."""
    found: list[str] = re.findall(rf"^{keyword} (.*)$", DOCKERFILE, re.MULTILINE)
    return found[-1]


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    assert after("USER") == f"{documents.POD_SECURITY['runAsUser']}:{documents.POD_SECURITY['runAsGroup']}"


def test_the_manifests_arguments_are_those_of_the_images_program() -> None:
    assert json.loads(after("ENTRYPOINT")) == ["propfan"]
    assert json.loads(after("CMD")) == ["serve", "--config", documents.CONFIG_PATH]


def test_the_extras_of_the_image_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"EXTRAS=(\S+)", DOCKERFILE))
    assert {extra for names in named for extra in names.split(",") if extra != "propfan"} <= set(
        project["optional-dependencies"]
    )


def test_the_image_is_built_from_what_a_wheel_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"setup.py", "pyproject.toml", project["readme"], *project["license-files"]}
    needed |= {"_speedups", "engine", "pluginmachinery", "plugins"}
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert kept == needed
