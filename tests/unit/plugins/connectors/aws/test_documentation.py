"""What the page on AWS prints is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from propfan.plugins.connectors.aws.athena import PrestoQuery
from propfan.plugins.connectors.aws.clients import MAX_CLIENTS, MAX_IDENTITIES
from propfan.plugins.connectors.aws.endpoints import PHASES
from tests.unit.engine.cli.command import propfan
from tests.unit.plugins.connectors.aws.amazon import Amazon
from tests.unit.plugins.connectors.aws.rig import SECRETS, section
from tests.unit.plugins.connectors.pages import Page

PAGE = Page("aws")


def test_limits_are_told() -> None:
    assert f"the last {MAX_IDENTITIES} identities are kept, with {MAX_CLIENTS} clients each" in PAGE.text


def test_states_are_all_there() -> None:
    for status, phase in PHASES.items():
        (row,) = [line for line in PAGE.text.splitlines() if line.startswith("|") and f"`{status}`" in line]
        assert phase.name in row


def test_fields_are_all_there() -> None:
    for field in msgspec.structs.fields(PrestoQuery):
        assert f"| `{field.encode_name}` |" in PAGE.text


@pytest.mark.parametrize(
    ("start", "inputs", "outputs"),
    [
        ("type: boto", {"team": "web"}, {"result": {"QueueUrl": "/work-web"}, "idempotence_token": ""}),
        ("type: presto", {"day": "2026-01-01"}, {"results": {"uri": "/raw", "format": "parquet"}}),
    ],
)
def test_examples_run(aws: Amazon, tmp_path: Path, start: str, inputs: Any, outputs: Any) -> None:
    """Addresses are compared by their ends."""
    for name, content in {"task": PAGE.block(start), "inputs": yaml.safe_dump(inputs)}.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    settings = {"connectors": {"aws": section(aws)}}
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(settings))
    secrets = {f"_FSEC_{key.upper()}": value for key, value in SECRETS.items()}
    arguments = ["--inputs", "inputs.yaml", "-c", "service.yaml", "--output-prefix", "s3://flyte/x"]
    modules = ["--no-installed", "-m", "propfan.plugins.connectors.aws"]
    ran = propfan("connector", "run", "task.yaml", *arguments, *modules, cwd=tmp_path, **secrets)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])

    def fits(value: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            return all(fits(value[name], member) for name, member in expected.items())
        return bool(value.endswith(expected))

    assert fits(told, outputs), told
