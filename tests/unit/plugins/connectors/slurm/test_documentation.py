"""What the page on Slurm says is so."""

from __future__ import annotations

import re

import msgspec
import pytest

from propfan.pluginmachinery.connector import RemotePhase
from propfan.plugins.connectors.slurm import jobs, payloads
from propfan.plugins.connectors.slurm.payloads import SlurmSpec, SshConfig
from tests.unit.plugins.connectors.pages import Page

PAGE = Page("slurm").text


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
    job = payloads.submission(Page("slurm").task())
    assert job.script.startswith("#!/bin/bash\necho")
    assert job.options == ["--output=/home/ann/hello.%j.out", "--partition=debug", "--time=5"]
    assert job.arguments == ["world"]
