"""What the page on Slurm says is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.testing.connector_fakes import connector_task
from propfan.plugins.connectors.slurm import jobs, payloads
from propfan.plugins.connectors.slurm.config import SlurmConfig
from propfan.plugins.connectors.slurm.payloads import SlurmSpec, SshConfig

PAGE = (Path(__file__).parents[5] / "docs" / "connectors" / "slurm.md").read_text()


def block(start: str) -> Any:
    (found,) = re.findall(rf"```yaml\n({start}.*?)```", PAGE, re.DOTALL)
    return yaml.safe_load(found)


def test_settings_are_all_there_with_their_defaults() -> None:
    printed = block("connectors:")["connectors"]["slurm"]
    assert decode_config(SlurmConfig, printed, "") == decode_config(SlurmConfig, {}, "")
    assert set(printed) == {field.encode_name for field in msgspec.structs.fields(SlurmConfig)}


def test_fields_are_all_there() -> None:
    table = PAGE[PAGE.index("| Field |") : PAGE.index("- **Nothing is read")]
    fields = {field.name for field in msgspec.structs.fields(SlurmSpec)} - {"ssh_config"}
    fields |= {f"ssh_config.{field.name}" for field in msgspec.structs.fields(SshConfig)}
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    assert {name for first in firsts for name in re.findall(r"`([\w.]+)`", first)} == fields


@pytest.mark.parametrize("state", jobs.PHASES)
def test_states_are_where_they_belong(state: str) -> None:
    rows = {
        "queued": RemotePhase.QUEUED,
        "initializing": RemotePhase.INITIALIZING,
        "running": RemotePhase.RUNNING,
        "succeeded": RemotePhase.SUCCEEDED,
        "failed": RemotePhase.FAILED,
        "failed, and worth another attempt": RemotePhase.RETRYABLE_FAILED,
        "aborted": RemotePhase.ABORTED,
    }
    table = re.findall(r"^\| (`.*?) \| ([a-z, ]+) \|$", PAGE[PAGE.index("| Slurm says") :], re.MULTILINE)
    told = [rows[phase] for names, phase in table if f"`{state}`" in names and phase in rows]
    assert told == [jobs.PHASES[state]]


def test_example_is_a_task() -> None:
    template = tasks_pb2.TaskTemplate()
    json_format.ParseDict(block("type: slurm"), template)
    job = payloads.submission(connector_task(template))
    assert job.script.startswith("#!/bin/bash\necho")
    assert job.options == ["--output=/home/ann/hello.%j.out", "--partition=debug", "--time=5"]
    assert job.arguments == ["world"]
